"""One user, one method: load the windows, adapt without labels, then (where labels exist) evaluate before and after.

This is the whole of what a client computes. It knows nothing of Flower.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emgup_model import __version__
from emgup_model.backbones import Backbone
from emgup_model.config import digest
from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile
from emgup_model.data.windows import WindowedUser, load_windows, window_labels
from emgup_model.errors import ConfigError, DataError
from emgup_model.evaluation.metrics import user_metrics
from emgup_model.evaluation.protocols import Protocol, select, split_recordings
from emgup_model.evaluation.scenarios import Scenario, draw, rest_gesture
from emgup_model.methods import MethodConfig, Target, adapt, predict_logits
from emgup_model.release import Release, ReleaseManifest


class NotApplicableError(DataError):
    """The protocol has no row for this user (``later_sessions`` for a user with one session)."""


@dataclass(frozen=True)
class Task:
    """What is done for a user: with the recordings and the release, everything that determines the result.

    Attributes:
        method: method and settings.
        protocol: which recordings adapt and which test.
        scenario: which of the adapting recordings' windows the method gets; any but ``balanced`` is drawn with labels.
        seed: of every random draw, the scenario's and the method's.
    """

    method: MethodConfig
    protocol: Protocol
    scenario: Scenario = "balanced"
    seed: int = 0


@dataclass(frozen=True)
class UserWindows:
    """One user's windows, and what those to adapt on were cut from.

    Attributes:
        adapt: windows to adapt on, thinned by the scenario.
        test: windows to test on.
        recordings: names of the recordings that adapt.
        content_sha256: the file's own hash of its content.
    """

    adapt: WindowedUser
    test: WindowedUser
    recordings: tuple[str, ...]
    content_sha256: str


@dataclass(frozen=True)
class Adaptation:
    """A personalized model in eval mode, what the method logged, and the wall seconds the adaptation took."""

    model: Backbone
    log: dict[str, Any]
    seconds: float


Known = Callable[[str], Adaptation | None]
"""From the key of an adaptation to the same one, made before; None where there is none."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one user's test windows, before (the release) and after (the personalized model).

    ``confusion_*``: (K, K) int64, rows are true gestures.
    """

    accuracy: float
    macro_f1: float
    source_accuracy: float
    source_macro_f1: float
    n_windows: int
    confusion_before: np.ndarray
    confusion_after: np.ndarray


@dataclass(frozen=True)
class Personalization:
    """An adaptation and its key, the share of decisions that it changed, and the scores if the file holds labels."""

    adaptation: Adaptation
    key: str
    predictions_changed: float
    evaluation: Evaluation | None


def nothing_known(_: str) -> None:
    """No adaptation was made before."""


def personalize(
    user_path: Path, release: Release, task: Task, device: str = "cpu", known: Known = nothing_known
) -> Personalization:
    """Adapt a verified release to one user's recordings.

    Args:
        user_path: the user's recording file.
        release: source release; its model is not changed.
        task: method, protocol, scenario and seed.
        device: torch device.
        known: adaptations made before. Protocols that differ in their test windows only share one.

    Raises:
        DataError: the file does not fit the release, is too short, or (where labelled) shows one gesture only; the
            scenario cannot be drawn.
        NotApplicableError: the protocol has no row for this user.
    """
    windows = load_user(user_path, release.manifest, task)
    model = release.model.to(device)
    key = adaptation_key(release, task, windows)
    adaptation = known(key) or _adapt(
        model, Target(windows.adapt.to(device), release.manifest.windows.sequence_length), task
    )
    test = windows.test.to(device)
    before = predict_logits(model, test).argmax(1)
    after = predict_logits(adaptation.model.to(device), test).argmax(1)
    adaptation.model.cpu()
    changed = float((before != after).float().mean())
    evaluation = evaluate(user_path, windows.test, before.numpy(), after.numpy(), len(release.manifest.gestures))
    return Personalization(adaptation, key, changed, evaluation)


def adaptation_key(release: Release, task: Task, windows: UserWindows) -> str:
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
    return Adaptation(adapted.model, adapted.log, seconds)


def load_user(path: Path, manifest: ReleaseManifest, task: Task) -> UserWindows:
    """The windows to adapt on and to test on, cut from recordings that are read once.

    The scenario thins the windows to adapt on only: the test set is the protocol's, whatever the scenario.
    """
    with UserFile(path) as file:
        check_fits(file, manifest)
        split = split_recordings(file.recordings, task.protocol)
        if split is None:
            raise NotApplicableError(
                f"user '{file.info.user}' has one session; protocol {task.protocol} needs later ones"
            )
        names = [r.name for r in file.recordings if r.name in {*split[0], *split[1]}]
        windows = load_windows(file, manifest.windows, manifest.preprocessing, manifest.scale, names)
        user, content = file.info.user, file.info.content_sha256
    adapt_windows, test_windows = (windows.subset(select(windows, part)) for part in split)
    if not adapt_windows.sequences(manifest.windows.sequence_length):
        raise DataError(
            f"user '{user}' has no recording as long as one sequence ({manifest.windows.sequence_length} windows of "
            f"{manifest.windows.length} samples, hop {manifest.windows.hop}); record longer, or use a release with "
            "shorter sequences"
        )
    if not len(test_windows):
        raise DataError(f"user '{user}' has no window to test on under protocol {task.protocol}")
    return UserWindows(_drawn(path, adapt_windows, manifest, task), test_windows, split[0], content)


def _drawn(path: Path, windows: WindowedUser, manifest: ReleaseManifest, task: Task) -> WindowedUser:
    """The windows that the scenario leaves. The only place before adaptation that opens labels."""
    if task.scenario == "balanced":
        return windows
    with UserFile(path) as file:
        info, samples = file.info, {r.name: r.n_samples for r in file.recordings}
    labels = read_labels(path)
    if not labels:
        raise DataError(
            f"user '{info.user}' has no labels, and scenario {task.scenario} is drawn with them; use scenario balanced"
        )
    keep = draw(
        window_labels(labels, windows, [samples[n] for n in windows.names]),
        windows.recording.numpy(),
        windows.position.numpy(),
        task.scenario,
        classes=len(info.gestures),
        seconds_per_window=manifest.windows.hop / info.sampling_rate_hz,
        rest=rest_gesture(info.gestures),
        seed=task.seed,
    )
    drawn = windows.subset(torch.from_numpy(keep))
    if not drawn.sequences(manifest.windows.sequence_length):
        raise DataError(
            f"scenario {task.scenario} leaves user '{info.user}' no whole sequence of "
            f"{manifest.windows.sequence_length} windows; leave it out, or use a release with shorter sequences"
        )
    return drawn


def check_fits(file: UserFile, manifest: ReleaseManifest) -> None:
    """Raise DataError unless channels and sampling rate are the release's."""
    info = file.info
    if info.channels != manifest.channels:
        raise DataError(
            f"user '{info.user}' was recorded with {info.channels} channels, the release expects {manifest.channels}; "
            "use a release for this device"
        )
    if info.sampling_rate_hz != manifest.sampling_rate_hz:
        raise DataError(
            f"user '{info.user}' was recorded at {info.sampling_rate_hz:g} Hz, the release expects "
            f"{manifest.sampling_rate_hz:g} Hz; resample the recordings or use a release for this rate"
        )


def check_finite(model: torch.nn.Module) -> None:
    """Raise DataError if adaptation diverged: a model with NaN is never kept."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise DataError(f"adaptation diverged ('{name}' is not finite); the source model stays in use")


def evaluate(
    path: Path, windows: WindowedUser, before: np.ndarray, after: np.ndarray, classes: int
) -> Evaluation | None:
    """Score predictions (N,) against the file's labels; None when the file has none. Runs after adaptation only."""
    labels = read_labels(path)
    if not labels:
        return None
    with UserFile(path) as file:
        samples = {r.name: r.n_samples for r in file.recordings}
    true = window_labels(labels, windows, [samples[n] for n in windows.names])
    if len(np.unique(true)) < 2:
        raise DataError("the test windows show one gesture only; accuracy would mean nothing: drop the user")
    old, new = user_metrics(true, before, classes), user_metrics(true, after, classes)
    return Evaluation(
        accuracy=new.accuracy,
        macro_f1=new.macro_f1,
        source_accuracy=old.accuracy,
        source_macro_f1=old.macro_f1,
        n_windows=len(true),
        confusion_before=old.confusion,
        confusion_after=new.confusion,
    )
