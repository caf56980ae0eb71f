"""Source releases: weights as safetensors, a manifest that says everything about them, an Ed25519 signature.

A release is named by the SHA-256 of its manifest, and the manifest holds the SHA-256 of the weights, so the name
fixes every byte. Nothing is deserialised before the signature and the hashes have been checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from emgup_model.backbones import Backbone, BackboneConfig, build_backbone
from emgup_model.config import Frozen, canonical_json
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.errors import ConfigError, ReleaseError
from emgup_model.files import write_atomic
from emgup_model.signal_statistics import PREFIX, SignalStatistics, moment_shapes

MANIFEST, SIGNATURE, WEIGHTS = "manifest.json", "manifest.sig", "weights.safetensors"
MAX_WEIGHTS_BYTES = 256 * 2**20
MAX_MANIFEST_BYTES = 2**20


class TensorSpec(Frozen):
    """Shape, dtype and SHA-256 (of the raw little-endian bytes) of one tensor."""

    shape: tuple[int, ...]
    dtype: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Training(Frozen):
    """How the source model came about: enough to judge it, nothing about single users."""

    epochs: int = Field(ge=0)
    best_epoch: int = Field(ge=0)
    validation_accuracy: float = Field(ge=0, le=1)
    train_users: int = Field(ge=0)
    config_sha256: str
    source_seed: int = Field(0, ge=0)


class ReleaseManifest(Frozen):
    """Everything a client needs to use the weights, and to refuse data they do not fit."""

    format: Literal["emgup-release-1", "emgup-release-2"] = Field(
        "emgup-release-2", description="1 = made before releases said their unit; users' units cannot be compared then"
    )
    dataset: str
    fold: int
    backbone: BackboneConfig
    windows: WindowConfig
    preprocessing: PreprocessingConfig
    scale: float = Field(
        ge=1e-30, le=1e30, description="signals are divided by this constant: source RMS after filtering"
    )
    sampling_rate_hz: float = Field(gt=0)
    channels: int = Field(ge=1, le=4096)
    unit: str | None = Field(
        None, min_length=1, max_length=20, description="of the samples; users' are converted to it"
    )
    gestures: tuple[str, ...] = Field(min_length=2)
    training: Training
    tensors: dict[str, TensorSpec]
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _unit_and_names(self) -> Self:
        if (self.unit is None) != (self.format == "emgup-release-1"):
            raise ValueError("a release of format 2 says its unit, one of format 1 says none")
        if len(set(self.gestures)) != len(self.gestures):
            raise ValueError("two gestures have the same name")
        return self


@dataclass(frozen=True)
class ReleaseFiles:
    """The three files of a release as bytes, unverified."""

    manifest: bytes
    signature: bytes
    weights: bytes

    @property
    def id(self) -> str:
        """Name of the release: SHA-256 (hex) of its manifest."""
        return hashlib.sha256(self.manifest).hexdigest()

    @classmethod
    def read(cls, folder: Path) -> ReleaseFiles:
        """Read a release folder. Raises ReleaseError when a file is missing or too large."""
        out = []
        for name, limit in ((MANIFEST, MAX_MANIFEST_BYTES), (SIGNATURE, 64), (WEIGHTS, MAX_WEIGHTS_BYTES)):
            path = folder / name
            try:
                if path.stat().st_size > limit:
                    raise ReleaseError(f"{path} is larger than a release file may be ({limit} bytes)")
                out.append(path.read_bytes())
            except OSError:
                raise ReleaseError(f"no release at {folder}: {name} is missing or unreadable") from None
        return cls(*out)

    def write(self, folder: Path, mode: int = 0o644) -> None:
        """Write the release; the manifest comes last, so a folder with a manifest is complete."""
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / WEIGHTS, self.weights, mode)
        write_atomic(folder / SIGNATURE, self.signature, mode)
        write_atomic(folder / MANIFEST, self.manifest, mode)


@dataclass(frozen=True)
class Release:
    """A verified release: its id, its manifest, the model in eval mode, and the source signals' moments, if any."""

    id: str
    manifest: ReleaseManifest
    model: Backbone
    statistics: SignalStatistics | None = None


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 (hex) of a tensor's values in C order."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


def state_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's tensors as contiguous CPU copies, ready to be saved."""
    return {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}


def sign_release(
    model: Backbone, fields: dict[str, object], key: Ed25519PrivateKey, statistics: SignalStatistics | None = None
) -> ReleaseFiles:
    """Build and sign a release of ``model``; ``fields`` are the manifest's other fields."""
    tensors = state_tensors(model) | ({} if statistics is None else statistics.tensors())
    weights = save_safetensors(tensors)
    specs = {k: TensorSpec(shape=tuple(v.shape), dtype=_dtype(v), sha256=tensor_sha256(v)) for k, v in tensors.items()}
    manifest = ReleaseManifest.model_validate(
        {**fields, "tensors": specs, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    )
    data = canonical_json(manifest)
    return ReleaseFiles(data, key.sign(data), weights)


def open_release(files: ReleaseFiles, trusted: Sequence[bytes]) -> Release:
    """Verify signature and hash, then every tensor: name, dtype, shape, hash, finiteness; only those are accepted that
    the backbone has, and float32 moments.

    Args:
        files: the release as received.
        trusted: raw Ed25519 public keys; one of them must have signed the manifest.

    Raises:
        ReleaseError: at the first check that fails.
    """
    _check_signature(files, trusted)
    try:
        manifest = ReleaseManifest.model_validate_json(files.manifest)
    except ValidationError as e:
        key = ".".join(str(p) for p in e.errors()[0]["loc"])
        raise ReleaseError(f"release manifest is signed but not usable here: {key}: {e.errors()[0]['msg']}") from None
    if hashlib.sha256(files.weights).hexdigest() != manifest.weights_sha256:
        raise ReleaseError("release weights do not match their signed hash; fetch the release again")
    try:
        tensors = load_safetensors(files.weights)
    except (SafetensorError, ValueError, KeyError, RuntimeError):  # KeyError: a dtype that torch does not have
        raise ReleaseError("release weights are not a safetensors file that PyTorch can read") from None
    _check_tensors(tensors, manifest)
    statistics = _statistics(tensors, manifest)
    model = build_backbone(manifest.backbone, manifest.channels, len(manifest.gestures))
    model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(PREFIX)})
    return Release(files.id, manifest, model.eval(), statistics)


def load_release(folder: Path, trusted: Sequence[bytes]) -> Release:
    """Read and verify the release in ``folder``."""
    try:
        return open_release(ReleaseFiles.read(folder), trusted)
    except ReleaseError as e:
        raise ReleaseError(f"{folder}: {e}" if str(folder) not in str(e) else str(e)) from None


def _check_signature(files: ReleaseFiles, trusted: Sequence[bytes]) -> None:
    for raw in trusted:
        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(files.signature, files.manifest)
            return
        except (InvalidSignature, ValueError):
            continue
    raise ReleaseError("release is not signed by a trusted key, or was altered after signing; do not use it")


def _expected(manifest: ReleaseManifest, with_statistics: bool) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Dtype and shape of every tensor that the release must hold, by name; takes no memory."""
    try:
        manifest.backbone.check(manifest.windows.length, manifest.channels, manifest.sampling_rate_hz)
    except ConfigError as e:
        raise ReleaseError(f"release does not fit itself: {e}") from None
    with torch.device("meta"):
        model = build_backbone(manifest.backbone, manifest.channels, len(manifest.gestures))
    expected = {name: (_dtype(tensor), tuple(tensor.shape)) for name, tensor in model.state_dict().items()}
    if with_statistics:
        shapes = moment_shapes(manifest.channels, len(manifest.gestures), manifest.windows.length)
        expected |= {PREFIX + name: ("float32", shape) for name, shape in shapes.items()}
    return expected


def _statistics(tensors: dict[str, torch.Tensor], manifest: ReleaseManifest) -> SignalStatistics | None:
    if not any(k.startswith(PREFIX) for k in tensors):
        return None
    statistics = SignalStatistics.from_tensors(tensors)
    if (problem := statistics.problem()) is not None:
        raise ReleaseError(f"release's signal statistics are no moments: {problem}; make it again")
    return statistics


def _check_tensors(tensors: dict[str, torch.Tensor], manifest: ReleaseManifest) -> None:
    expected = _expected(manifest, any(name.startswith(PREFIX) for name in tensors))
    for names, who in ((manifest.tensors, "manifest lists"), (expected, "backbone and its signal statistics have")):
        if odd := sorted(set(tensors) ^ set(names)):
            raise ReleaseError(f"release weights hold other tensors than its {who} ('{odd[0][:80]}'); make it again")
    for name, spec in manifest.tensors.items():
        tensor = tensors[name]
        found = _dtype(tensor), tuple(tensor.shape)
        if found != expected[name] or found != (spec.dtype, spec.shape):
            dtype, shape = expected[name]
            raise ReleaseError(
                f"release tensor '{name}' is {found[0]} {list(found[1])}, its manifest says {spec.dtype} "
                f"{list(spec.shape)}, and it must be {dtype} {list(shape)}"
            )
        if tensor_sha256(tensor) != spec.sha256:
            raise ReleaseError(f"release tensor '{name}' does not match its signed hash")
        if not bool(torch.isfinite(tensor).all()):
            raise ReleaseError(f"release tensor '{name}' holds NaN or infinity")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ReleaseError(f"release tensor '{name}' holds a negative variance")


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
