"""The exported file decides as the model does, with nothing but onnxruntime, SciPy and its own metadata."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from emgup_client.export_onnx import export_onnx
from emgup_client.live.decisions import Decider
from emgup_client.personalized import PersonalizedModel, open_personalized
from emgup_model.backbones import CnnConfig, build_backbone
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.keys import public_key
from emgup_model.methods.alignment import rotation_matrix
from emgup_model.release import open_release
from emgup_simulation.cli import app
from tests.client.homes import KEY, make_home
from tests.toy import make_release

onnxruntime = pytest.importorskip("onnxruntime")


def personalized(channels: int = 8, window: int = 52, highpass: float | None = 10.0) -> PersonalizedModel:
    """The shipped network, its statistics moved and its armband turned, as adaptation leaves it."""
    torch.manual_seed(1)
    model = build_backbone(CnnConfig(), channels, 7)
    loud = 1 + 3 * torch.nn.functional.one_hot(torch.arange(64) % channels, channels).unsqueeze(2)
    for _ in range(30):
        model.train()(torch.randn(64, channels, window) * loud)
    with torch.no_grad():
        model.head.weight.normal_(0, 2)
    model.eval().mix_channels(rotation_matrix(channels, 2))
    files = make_release(
        KEY,
        model,
        backbone=CnnConfig(),
        channels=channels,
        gestures=tuple(f"g{i}" for i in range(7)),
        windows=WindowConfig(length=window, hop=20, sequence_length=20),
        preprocessing=PreprocessingConfig(highpass_hz=highpass),
        sampling_rate_hz=200.0,
        scale=13.7,
    )
    release = open_release(files, [public_key(KEY)])
    return PersonalizedModel("u", "c" * 64, release.id, release.model, release.manifest, {})


def decide(path: Path, emg: np.ndarray) -> np.ndarray:
    """(N, K) probabilities of a recording (T, C), from the file alone."""
    from scipy.signal import sosfilt, sosfilt_zi

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kept = session.get_modelmeta().custom_metadata_map
    facts = {k.removeprefix("emgup."): json.loads(v) for k, v in kept.items() if k.startswith("emgup.")}
    x = emg.astype(np.float64)
    if facts["highpass_sos"] is not None:
        sos = np.array(facts["highpass_sos"])
        x, _ = sosfilt(sos, x, axis=0, zi=sosfilt_zi(sos)[:, :, None] * x[0])
    window, hop = facts["window_samples"], facts["hop_samples"]
    windows = np.stack([x[i : i + window].T for i in range(0, len(x) - window + 1, hop)]).astype(np.float32)
    [probabilities] = session.run(None, {"emg": windows})
    return np.asarray(probabilities)


@pytest.mark.parametrize(
    ("channels", "window", "highpass"), [(8, 52, 10.0), pytest.param(16, 130, None, marks=pytest.mark.slow)]
)
def test_the_file_gives_the_probabilities_of_live_use(
    tmp_path: Path, channels: int, window: int, highpass: float | None
) -> None:
    mine, path = personalized(channels, window, highpass), tmp_path / "model.onnx"
    export_onnx(mine, path)
    rng = np.random.default_rng(0)
    emg = 40 * rng.standard_normal((1500, channels)) * (rng.random((15, channels)) < 0.3).repeat(100, 0)
    expected = list(Decider(mine.model, mine.manifest).push(emg))
    got = decide(path, emg)
    np.testing.assert_allclose(got, [d.probabilities for d in expected], atol=1e-5)
    assert got.argmax(1).tolist() == [d.gesture for d in expected]
    assert len({d.gesture for d in expected}) > 1
    one = decide(path, emg[:window])
    np.testing.assert_allclose(one, got[:1], atol=1e-5)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_model_of_mixed_precision_is_exported_in_float32(tmp_path: Path) -> None:
    mine = personalized()
    export_onnx(mine, tmp_path / "plain.onnx")
    mine.model.precision = "bf16"
    export_onnx(mine, tmp_path / "mixed.onnx")
    emg = 40 * np.random.default_rng(0).standard_normal((500, 8))
    np.testing.assert_array_equal(decide(tmp_path / "mixed.onnx", emg), decide(tmp_path / "plain.onnx", emg))
    assert mine.model.precision == "bf16"


@pytest.mark.slow
def test_the_command_writes_what_a_program_needs(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.personalize()
    path = tmp_path / "u0.onnx"
    command = ["client", "export", "--home", str(home.folder), "--onnx", str(path)]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"written: {path} (as private as the weights; keep it so)"]
    session = onnxruntime.InferenceSession(str(path))
    kept = session.get_modelmeta().custom_metadata_map
    assert json.loads(kept["emgup.sampling_rate_hz"]) == 100
    assert json.loads(kept["emgup.channels"]) == 4
    assert json.loads(kept["emgup.unit"]) == "mV"
    assert json.loads(kept["emgup.gestures"]) == ["rest", "fist", "open"]
    assert json.loads(kept["emgup.release"]) == open_personalized(home.folder).release_id
