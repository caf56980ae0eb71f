"""One user, one method: load the windows, adapt without labels, then (where labels exist) evaluate before and after.

This is the whole of what a client computes. It knows nothing of Flower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emgup_model import __version__
from emgup_model.backbones import Backbone, Precision
from emgup_model.compute import resolve_device
from emgup_model.config import digest
from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile
from emgup_model.data.windows import UNLABELLED, WindowedUser, window_labels
from emgup_model.errors import ConfigError, DataError, EmgupError
from emgup_model.evaluation.metrics import user_metrics
from emgup_model.evaluation.streaming import Progress, StreamingConfig, stream
from emgup_model.methods import Target, adapt, predict_logits
from emgup_model.methods.base import copy_model
from emgup_model.methods.checkpoints import Checkpoints, Store
from emgup_model.release import Release
from emgup_model.task import Task, UserWindows, load_user


@dataclass(frozen=True)
class Adaptation:
    """A personalized model in eval mode, what the method logged, the wall seconds the adaptation took, and where."""

    model: Backbone
    log: dict[str, Any]
    seconds: float
    device: str


Known = Callable[[str], Adaptation | None]
"""From the key of an adaptation to the same one, made before; None where there is none."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one user's test windows, before (the release) and after (the personalized model).

    ``confusion_*``: (K, K) int64, rows are true gestures. ``adapted_on``: (K,) windows of each gesture among those that
    adapted, which is what the scenario drew. Windows without a gesture are in none of these numbers.
    """

    accuracy: float
    macro_f1: float
    source_accuracy: float
    source_macro_f1: float
    n_windows: int
    confusion_before: np.ndarray
    confusion_after: np.ndarray
    adapted_on: tuple[int, ...]


@dataclass(frozen=True)
class Personalization:
    """An adaptation and its key, what can be said about it without labels, and the scores if the file holds labels.

    Attributes:
        predictions_changed: share of the test windows' decisions that it changed.
        mean_confidence: mean probability of its decisions; None where they were made while the model changed.
        test_windows: how many there are.
        confidence_percentiles: percentiles 0, 1, … 100 of the adapted model's largest probability; empty after
            streaming.
        unscored: why there are no scores though the file holds labels; None where there are, or it holds none.
    """

    adaptation: Adaptation
    key: str
    predictions_changed: float
    mean_confidence: float | None
    test_windows: int
    evaluation: Evaluation | None
    confidence_percentiles: tuple[float, ...] = ()
    unscored: str | None = None


def nothing_known(_: str) -> None:
    """No adaptation was made before."""


def personalize(
    user_path: Path,
    release: Release,
    task: Task,
    device: str = "cpu",
    known: Known = nothing_known,
    precision: Precision = "fp32",
    checkpoints: Store | None = None,
) -> Personalization:
    """Adapt a verified release to one user's recordings. Where that raises, release and file are as they were.

    An adaptation that was made is never lost to its evaluation: labels that cannot be scored leave it without scores.

    Args:
        user_path: the user's recording file.
        release: source release; its model is not changed.
        task: method, protocol, scenario and seed.
        device: torch device, or ``auto``.
        known: adaptations made before. Protocols that differ in their test windows only share one.
        precision: of the backbone's arithmetic; the weights are float32 either way.
        checkpoints: where a killed adaptation's state is found again, on the same device.

    Raises:
        ConfigError: no such device, or the method's settings do not fit the release.
        DataError: the file does not fit the release or is too short; the scenario cannot be drawn.
        NotApplicableError: the protocol has no row for this user, or the method no meaning for the network.
    """
    place = resolve_device(device)
    windows = load_user(user_path, release.manifest, task)
    model = copy_model(release.model).to(place)
    model.precision = precision
    key = adaptation_key(release, task, windows, precision)
    saved = None if checkpoints is None else Checkpoints(checkpoints, f"{key} {place}")
    test = windows.test.to(place)
    before = predict_logits(model, test).argmax(1)
    mean_confidence: float | None = None
    percentiles: tuple[float, ...] = ()
    if task.streaming is not None:
        adaptation, after = _stream(model, test, windows.ring, release, task, task.streaming, saved)
    else:
        length = release.manifest.windows.sequence_length
        target = Target(windows.adapt.to(place), length, windows.ring, release.statistics, saved)
        adaptation = known(key) or _adapt(model, target, task)
        logits = predict_logits(adaptation.model.to(place), test)
        after, largest = logits.argmax(1), logits.softmax(1).amax(1)
        mean_confidence, percentiles = float(largest.mean()), percentiles_of(largest)
    adaptation.model.cpu()
    changed = float((before != after).float().mean())
    evaluation, unscored = None, None
    try:
        evaluation = evaluate(user_path, windows, before.numpy(), after.numpy(), len(release.manifest.gestures))
    except (EmgupError, OSError) as e:
        unscored = str(e)
    return Personalization(adaptation, key, changed, mean_confidence, len(before), evaluation, percentiles, unscored)


def percentiles_of(values: torch.Tensor) -> tuple[float, ...]:
    """Percentiles 0, 1, … 100 of values (N,)."""
    return tuple(round(float(p), 6) for p in np.percentile(values.numpy(), np.arange(101)))


def adaptation_key(release: Release, task: Task, windows: UserWindows, precision: Precision = "fp32") -> str:
    """SHA-256 (hex) of everything that determines the adapted weights; the test windows are no part of it."""
    return digest(
        {
            "version": __version__,
            "release": release.id,
            "content": windows.content_sha256,
            "recordings": list(windows.recordings),
            "config": task.method.model_dump(mode="json"),
            "scenario": task.scenario,
            "seed": task.seed,
            "streaming": task.streaming and task.streaming.model_dump(mode="json"),
            **({"disturbance": task.disturbance.label} if task.disturbance.label else {}),
            **({"precision": precision} if precision != "fp32" else {}),
        }
    )


def _adapt(model: Backbone, target: Target, task: Task) -> Adaptation:
    started = time.perf_counter()
    try:
        adapted = adapt(model, target, task.method, task.seed)
    except ValueError as e:
        raise ConfigError(f"the method's settings do not fit this release: {e}") from None
    seconds = time.perf_counter() - started
    check_finite(adapted.model)
    return Adaptation(adapted.model, adapted.log, seconds, str(target.windows.signal.device))


def _stream(
    model: Backbone,
    windows: WindowedUser,
    ring: bool,
    release: Release,
    task: Task,
    config: StreamingConfig,
    saved: Checkpoints | None,
) -> tuple[Adaptation, torch.Tensor]:
    """(the last adaptation, with the seconds of all of them; (N,) predictions made before adapting)."""
    log: dict[str, Any] = {"adaptations": 0, "last": None, "seconds": 0.0}

    def adapt_on(target: Target) -> Backbone:
        made = _adapt(model, replace(target, source_statistics=release.statistics), task)
        log.update(adaptations=log["adaptations"] + 1, last=made.log, seconds=log["seconds"] + made.seconds)
        return made.model

    manifest = release.manifest
    hop_s = manifest.windows.hop / manifest.sampling_rate_hz
    progress = None if saved is None else Progress(saved, log)
    length = manifest.windows.sequence_length
    predictions, last = stream(model, windows, length, hop_s, config, adapt_on, ring, progress)
    return Adaptation(last, log, log.pop("seconds"), str(windows.signal.device)), predictions


def check_finite(model: torch.nn.Module) -> None:
    """Raise DataError if adaptation diverged: a model with NaN is never kept."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"adaptation diverged ('{name}' is not finite); the source model stays in use")


def evaluate(
    path: Path, windows: UserWindows, before: np.ndarray, after: np.ndarray, classes: int
) -> Evaluation | None:
    """Score predictions (N,) of the test windows against the file's labels; None when the file has none.

    Windows without a gesture (of an unlabelled recording, or with a tie) are left out. Runs after adaptation only.

    Raises:
        DataError: the labels are damaged, or the test windows show fewer than two gestures.
    """
    labels = read_labels(path)
    if not labels:
        return None
    with UserFile(path) as file:
        samples = {r.name: r.n_samples for r in file.recordings}
    true, seen = (
        window_labels(labels, some, [samples[n] for n in some.names]) for some in (windows.test, windows.adapt)
    )
    scored = true != UNLABELLED
    if len(np.unique(true[scored])) < 2:
        raise DataError("the labels of the test windows show fewer than two gestures; accuracy would mean nothing")
    true, before, after = true[scored], before[scored], after[scored]
    old, new = user_metrics(true, before, classes), user_metrics(true, after, classes)
    return Evaluation(
        accuracy=new.accuracy,
        macro_f1=new.macro_f1,
        source_accuracy=old.accuracy,
        source_macro_f1=old.macro_f1,
        n_windows=len(true),
        confusion_before=old.confusion,
        confusion_after=new.confusion,
        adapted_on=tuple(np.bincount(seen[seen != UNLABELLED], minlength=classes).tolist()),
    )
