"""Source releases: weights as safetensors, a manifest that says everything about them, an Ed25519 signature.

A release is named by the SHA-256 of its manifest, and the manifest holds the SHA-256 of the weights, so the name
fixes every byte. Nothing is deserialised before the signature and the hashes have been checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from emgup_model.backbones import Backbone, BackboneConfig, build_backbone
from emgup_model.config import Frozen, canonical_json
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.errors import ConfigError, ReleaseError
from emgup_model.files import write_atomic
from emgup_model.signal_statistics import PREFIX, SignalStatistics

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

    format: str = "emgup-release-1"
    dataset: str
    fold: int
    backbone: BackboneConfig
    windows: WindowConfig
    preprocessing: PreprocessingConfig
    scale: float = Field(gt=0, description="signals are divided by this constant: source RMS after filtering")
    sampling_rate_hz: float = Field(gt=0)
    channels: int = Field(ge=1, le=4096)
    gestures: tuple[str, ...] = Field(min_length=2)
    training: Training
    tensors: dict[str, TensorSpec]
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")


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
    specs = {
        k: TensorSpec(shape=tuple(v.shape), dtype=str(v.dtype).removeprefix("torch."), sha256=tensor_sha256(v))
        for k, v in tensors.items()
    }
    manifest = ReleaseManifest.model_validate(
        {**fields, "tensors": specs, "weights_sha256": hashlib.sha256(weights).hexdigest()}
    )
    data = canonical_json(manifest)
    return ReleaseFiles(data, key.sign(data), weights)


def open_release(files: ReleaseFiles, trusted: Sequence[bytes]) -> Release:
    """Verify signature, hashes, shapes, dtypes and finiteness, in that order, then build the model.

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
    except (SafetensorError, ValueError):
        raise ReleaseError("release weights are not a safetensors file") from None
    _check_tensors(tensors, manifest)
    statistics = _statistics(tensors, manifest)
    try:
        manifest.backbone.check(manifest.windows.length, manifest.channels, manifest.sampling_rate_hz)
    except ConfigError as e:
        raise ReleaseError(f"release does not fit itself: {e}") from None
    model = build_backbone(manifest.backbone, manifest.channels, len(manifest.gestures))
    try:
        model.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(PREFIX)})
    except RuntimeError:
        raise ReleaseError("release weights do not fit the backbone that its manifest names") from None
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


def _statistics(tensors: dict[str, torch.Tensor], manifest: ReleaseManifest) -> SignalStatistics | None:
    if not any(k.startswith(PREFIX) for k in tensors):
        return None
    try:
        statistics = SignalStatistics.from_tensors(tensors)
    except KeyError:
        raise ReleaseError("release lacks a part of its signal statistics; make it again") from None
    if not statistics.fits(manifest.channels, len(manifest.gestures), manifest.windows.length):
        raise ReleaseError("release's signal statistics do not fit its channels, gestures and windows; make it again")
    if bool((statistics.power < 0).any()):
        raise ReleaseError("release's signal statistics hold a negative power; make it again")
    return statistics


def _check_tensors(tensors: dict[str, torch.Tensor], manifest: ReleaseManifest) -> None:
    if set(tensors) != set(manifest.tensors):
        raise ReleaseError("release weights hold other tensors than the manifest lists")
    for name, spec in manifest.tensors.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != spec.shape or str(tensor.dtype).removeprefix("torch.") != spec.dtype:
            raise ReleaseError(f"release tensor '{name}' has another shape or dtype than the manifest says")
        if tensor_sha256(tensor) != spec.sha256:
            raise ReleaseError(f"release tensor '{name}' does not match its signed hash")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ReleaseError(f"release tensor '{name}' holds NaN or infinity")
        if name.endswith("running_var") and bool((tensor < 0).any()):
            raise ReleaseError(f"release tensor '{name}' holds a negative variance")
