"""Tiny labelled recordings whose gestures differ in which channel is loud, so that a small network can learn them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_model.backbones import Backbone, CnnConfig, build_backbone
from emgup_model.data.store import Recording, UserInfo
from emgup_model.data.windows import PreprocessingConfig, WindowConfig
from emgup_model.release import ReleaseFiles, Training, sign_release
from emgup_model.signal_statistics import SignalStatistics
from emgup_simulation.experiment import Experiment

GESTURES = ("rest", "fist", "open")


def toy_recordings(seed: int, gain: float = 1.0, seconds: float = 3.0, repetitions: int = 2) -> list[Recording]:
    rng = np.random.default_rng(seed)
    out, start = [], 0.0
    for repetition in range(repetitions):
        for gesture in range(len(GESTURES)):
            loud = np.array([1.0, 1, 1, 1])
            loud[gesture] = 4.0
            emg = gain * 10 * rng.standard_normal((int(seconds * 100), 4)) * loud
            out.append(Recording(f"r{repetition}_g{gesture}", 0, repetition, start, emg.astype(np.float32), gesture))
            start += seconds
    return out


def toy_info(user: str, **changes: object) -> UserInfo:
    fields = {
        "user": user,
        "dataset": "toy",
        "sampling_rate_hz": 100.0,
        "channels": 4,
        "unit": "mV",
        "gestures": GESTURES,
        "ring": True,
    }
    return UserInfo(**(fields | changes))  # type: ignore[arg-type]


def make_release(
    key: Ed25519PrivateKey,
    model: Backbone | None = None,
    statistics: SignalStatistics | None = None,
    source_seed: int = 0,
    **changes: object,
) -> ReleaseFiles:
    """A signed release of a small, untrained network that fits :func:`toy_info`."""
    backbone = CnnConfig(width=8, embedding_dim=8)
    if model is None:
        torch.manual_seed(source_seed)
        model = build_backbone(backbone, 4, len(GESTURES))
    fields: dict[str, object] = {
        "dataset": "toy",
        "fold": 0,
        "backbone": backbone,
        "windows": WindowConfig(length=20, hop=10, sequence_length=8),
        "preprocessing": PreprocessingConfig(highpass_hz=None),
        "scale": 10.0,
        "sampling_rate_hz": 100.0,
        "channels": 4,
        "unit": "mV",
        "gestures": GESTURES,
        "training": Training(
            epochs=1,
            best_epoch=1,
            validation_accuracy=0.5,
            train_users=2,
            config_sha256="0" * 64,
            source_seed=source_seed,
        ),
    }
    return sign_release(model, fields | changes, key, statistics)


def toy_experiment(store: Path, **changes: object) -> Experiment:
    """Three folds over a toy store, two quick methods, both main protocols."""
    fields: dict[str, object] = {
        "name": "toy",
        "store": str(store),
        "windows": {"length": 20, "hop": 10, "sequence_length": 8},
        "preprocessing": {"highpass_hz": None},
        "backbone": {"width": 8, "embedding_dim": 8},
        "pretrain": {"epochs": 2, "batch_windows": 64, "learning_rate": 1e-2},
        "folds": {"count": 3},
        "methods": {"source_only": {"kind": "source_only"}, "adabn": {"kind": "adabn"}},
        "protocols": ["transductive", "inductive"],
    }
    return Experiment.model_validate(fields | changes)
