"""A personalized model as an ONNX file, for use without this program."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from emgup_client.personalized import PersonalizedModel
from emgup_model.backbones import Backbone
from emgup_model.data.windows import highpass_sections
from emgup_model.errors import ConfigError
from emgup_model.files import write_atomic
from emgup_model.methods.base import copy_model
from emgup_model.release import ReleaseManifest

OPSET = 18
INPUT, OUTPUT = "emg", "probabilities"


class Scaled(nn.Module):
    """Windows (B, C, W) after the high-pass, in the release's unit, to probabilities (B, K), in float32 throughout."""

    scale: torch.Tensor

    def __init__(self, model: Backbone, scale: float) -> None:
        super().__init__()
        self.model = copy_model(model).eval()
        self.model.precision = "fp32"  # mixed precision is this program's way to compute, no part of the model
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, emg: torch.Tensor) -> torch.Tensor:
        """The release's scaling, then the model."""
        out: torch.Tensor = self.model(emg / self.scale).softmax(1)
        return out


def metadata(manifest: ReleaseManifest, release_id: str) -> dict[str, str]:
    """What a program needs to feed the model; JSON values.

    ``highpass_sos``: second-order sections of the causal high-pass that comes before windows are cut, started in the
    steady state of the first sample (``scipy.signal.sosfilt``, ``sosfilt_zi``); null = none. ``unit``: null where the
    release says none.
    """
    sections = highpass_sections(manifest.sampling_rate_hz, manifest.preprocessing)
    facts: dict[str, Any] = {
        "release": release_id,
        "sampling_rate_hz": manifest.sampling_rate_hz,
        "channels": manifest.channels,
        "unit": manifest.unit,
        "gestures": list(manifest.gestures),
        "window_samples": manifest.windows.length,
        "hop_samples": manifest.windows.hop,
        "highpass_hz": manifest.preprocessing.highpass_hz,
        "highpass_sos": None if sections is None else sections.tolist(),
    }
    return {f"emgup.{k}": json.dumps(v) for k, v in facts.items()}


def export_onnx(mine: PersonalizedModel, path: Path) -> None:
    """Write ``mine`` to ``path`` (mode 0600: it is as private as the weights).

    Raises:
        ConfigError: the packages for ONNX are not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 what torch exports with
    except ImportError:
        raise ConfigError("the export needs: pip install 'emgup[onnx]'") from None
    example = torch.zeros(2, mine.manifest.channels, mine.manifest.windows.length)
    with _quiet():
        program = torch.onnx.export(
            Scaled(mine.model, mine.manifest.scale),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes={"emg": {0: torch.export.Dim("windows", min=1)}},
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, metadata(mine.manifest, mine.release_id))
    onnx.checker.check_model(model, full_check=True)
    write_atomic(path, model.SerializeToString(), mode=0o600)


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter's chatter is not for the user; its errors are exceptions."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
