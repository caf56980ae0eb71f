"""Source training: a window classifier on labelled source users, early-stopped on validation users, resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch.nn import functional as F

from emgup_model.augmentation import Augmentation
from emgup_model.backbones import Backbone, BackboneConfig, build_backbone
from emgup_model.compute import PLAIN, ComputeConfig, resolve_device
from emgup_model.config import Frozen, digest
from emgup_model.data.store import UserInfo
from emgup_model.data.windows import UNLABELLED, WindowConfig
from emgup_model.errors import DataError
from emgup_model.files import atomic_path
from emgup_model.methods.base import predict_logits
from emgup_model.signal_statistics import SignalStatistics, measure
from emgup_model.source_users import LabelledUser, WindowSampler, amplitude_constant, rescale

Forward = Callable[[torch.Tensor], torch.Tensor]
"""Windows (B, C, W) to logits (B, K)."""


class PretrainConfig(Frozen):
    """AdamW with a one-cycle schedule over random window positions."""

    epochs: int = Field(24, ge=1, le=10_000)
    batch_windows: int = Field(256, ge=2)
    learning_rate: float = Field(2e-3, gt=0, le=1, description="peak of the one-cycle schedule")
    weight_decay: float = Field(1e-2, ge=0)
    gradient_clip: float = Field(1.0, gt=0)
    patience: int = Field(12, ge=1, description="epochs without a better validation accuracy before stopping")
    sessions: Literal["first", "all"] = Field("first", description="sessions of the source users to train on")
    windows_per_recording: int | None = Field(
        None, ge=1, description="random windows drawn from each recording in an epoch; null = as many as its grid has"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="ε of the cross-entropy's targets")
    augmentation: Augmentation = Augmentation()
    seed: int = Field(0, ge=0)


@dataclass(frozen=True)
class Epoch:
    """Progress report of one epoch: 1-based number, of how many, mean loss, mean accuracy of validation users."""

    number: int
    of: int
    loss: float
    validation_accuracy: float


@dataclass(frozen=True)
class Trained:
    """The best model by validation accuracy, the amplitude constant, a summary for the manifest, and moments."""

    model: Backbone
    scale: float
    epochs: int
    best_epoch: int
    validation_accuracy: float
    config_sha256: str
    statistics: SignalStatistics


def validation_accuracy(model: Backbone, users: Sequence[LabelledUser]) -> float:
    """Accuracy of each user's windows that have a gesture, averaged over users with equal weight."""
    accuracies = []
    for user in users:
        predicted = predict_logits(model, user.windows).argmax(1).numpy()
        clear = user.labels != UNLABELLED
        accuracies.append(float((predicted == user.labels)[clear].mean()))
    return float(np.mean(accuracies))


def train_source(
    train: Sequence[LabelledUser],
    validation: Sequence[LabelledUser],
    info: UserInfo,
    backbone: BackboneConfig,
    windows: WindowConfig,
    config: PretrainConfig,
    *,
    seed: int,
    state_file: Path | None = None,
    identity: Mapping[str, Any] | None = None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    device: str = "cpu",
    compute: ComputeConfig = PLAIN,
) -> Trained:
    """Train on ``train``, keep the epoch that is best on ``validation`` (whose labels are source labels).

    Args:
        train: unscaled source users.
        validation: unscaled validation users, disjoint from ``train`` and from every test user.
        info: channels and gestures of the data set.
        backbone: network to train.
        windows: window grid.
        config: optimisation settings.
        seed: of initialisation, sampling and dropout.
        state_file: where each finished epoch is saved; an interrupted training goes on from it with equal results.
        identity: what determines the result besides the arguments here; a state file of another identity is ignored.
        on_epoch: called after every epoch.
        device: torch device, or ``auto``.
        compute: precision, micro-batches, compilation.

    Raises:
        ConfigError: the backbone does not suit the recordings or the windows, or there is no such device.
    """
    backbone.check(windows.length, info.channels, info.sampling_rate_hz)
    place = resolve_device(device)
    if config.augmentation.rotates and not info.ring:
        raise DataError("electrodes that are no ring cannot be rotated; set pretrain.augmentation.rotated_share=0")
    scale = amplitude_constant(train)
    train, validation = [rescale(u, scale) for u in train], [_to(rescale(u, scale), place) for u in validation]
    sampler = WindowSampler(train, windows.length, config.windows_per_recording)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = build_backbone(backbone, info.channels, len(info.gestures)).to(place)
    model.precision = compute.precision
    network: Forward = torch.compile(model) if compute.compile else model
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = -(-len(sampler) // config.batch_windows)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.learning_rate, total_steps=config.epochs * steps)
    key = digest({"config": config.model_dump(mode="json"), "seed": seed, **(identity or {})})
    best: dict[str, Any] = {"accuracy": -1.0, "epoch": 0, "model": copy.deepcopy(model.state_dict())}
    done = _resume(state_file, key, model, optimiser, schedule, generator, best)
    while done < config.epochs and done - best["epoch"] < config.patience:
        loss = train_epoch(model, network, sampler, optimiser, schedule, generator, config, compute.micro_batch)
        done += 1
        accuracy = validation_accuracy(model, validation)
        if accuracy > best["accuracy"]:
            best.update(accuracy=accuracy, epoch=done, model=copy.deepcopy(model.state_dict()))
        if state_file is not None:
            _save_state(state_file, key, done, model, optimiser, schedule, generator, best)
        on_epoch(Epoch(done, config.epochs, loss, accuracy))
    model.load_state_dict(best["model"])
    statistics = measure([(u.windows, u.labels) for u in train], len(info.gestures))
    model.precision = "fp32"
    return Trained(model.cpu().eval(), scale, done, best["epoch"], best["accuracy"], digest(config), statistics)


def train_epoch(
    model: Backbone,
    network: Forward,
    sampler: WindowSampler,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.OneCycleLR,
    generator: torch.Generator,
    config: PretrainConfig,
    micro_batch: int | None,
) -> float:
    """One epoch in place: ``network`` is ``model`` or its compiled form. Returns the mean loss."""
    model.train()
    place = next(model.parameters()).device
    losses = []
    for x, y in sampler.epoch(config.batch_windows, generator):
        x = config.augmentation.apply(x, generator)
        optimiser.zero_grad(set_to_none=True)
        loss = accumulate_gradient(network, x.to(place), y.to(place), config.label_smoothing, micro_batch)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimiser.step()
        # the schedule was sized with batches of one window, which the sampler skips, counted in
        if schedule.last_epoch < schedule.total_steps - 1:
            schedule.step()
        losses.append(loss)
    return float(torch.stack(losses).mean())


def accumulate_gradient(
    network: Forward, x: torch.Tensor, y: torch.Tensor, label_smoothing: float, micro_batch: int | None
) -> torch.Tensor:
    """Add a batch's gradient to the parameters' and return its mean loss, in parts of about ``micro_batch`` windows.

    With LayerNorm the parts do not matter; BatchNorm takes its statistics from each part, and dropout draws anew.

    Args:
        network: windows to logits.
        x: (B, C, W) windows, on the network's device.
        y: (B,) gestures.
        label_smoothing: ε.
        micro_batch: None = the batch at once. No part is smaller than two windows, which BatchNorm needs.
    """
    parts = 1 if micro_batch is None else max(1, min(-(-len(x) // micro_batch), len(x) // 2))
    total = torch.zeros((), device=x.device)
    for some, gestures in zip(torch.tensor_split(x, parts), torch.tensor_split(y, parts), strict=True):
        loss = F.cross_entropy(network(some), gestures, label_smoothing=label_smoothing)
        loss = loss * (len(some) / len(x))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.detach()
    return total


def _to(user: LabelledUser, device: torch.device) -> LabelledUser:
    return replace(user, windows=user.windows.to(device))


def _save_state(
    path: Path, key: str, done: int, model: Any, optimiser: Any, schedule: Any, gen: Any, best: Any
) -> None:
    state = {
        "key": key,
        "done": done,
        "model": model.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "generator": gen.get_state(),
        "global": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "best": best,
    }
    with atomic_path(path, 0o600) as tmp:
        torch.save(state, tmp)


def _resume(path: Path | None, key: str, model: Any, optimiser: Any, schedule: Any, gen: Any, best: Any) -> int:
    """Load a state file of the same training into the given objects; returns the number of finished epochs."""
    if path is None or not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # a damaged state file costs time, not the run
        return 0
    if state.get("key") != key:
        return 0
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    schedule.load_state_dict(state["schedule"])
    gen.set_state(state["generator"])
    torch.set_rng_state(state["global"])
    if state.get("cuda"):
        torch.cuda.set_rng_state_all(state["cuda"])
    best.update(state["best"])
    return int(state["done"])
