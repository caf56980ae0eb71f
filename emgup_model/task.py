"""One task for one user: what is to be done, and the windows that adapt and test, cut from the user's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile
from emgup_model.data.windows import WindowedUser, load_windows, window_labels
from emgup_model.errors import ConfigError, DataError, NotApplicableError
from emgup_model.evaluation.disturbance import UNDISTURBED, Disturbance
from emgup_model.evaluation.protocols import Protocol, select, split_recordings
from emgup_model.evaluation.scenarios import Scenario, draw, rest_gesture
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.methods import MethodConfig
from emgup_model.release import ReleaseManifest

FLAT = 1e-4
"""Of the source users' RMS: a signal that nowhere varies by more is no EMG; the noise of electrodes is far above."""


@dataclass(frozen=True)
class Task:
    """What is done for a user: with the recordings and the release, everything that determines the result.

    Attributes:
        method: method and settings.
        protocol: which recordings adapt and which test.
        scenario: which of the adapting recordings' windows the method gets; any but ``balanced`` is drawn with labels.
        seed: of every random draw, the scenario's and the method's.
        streaming: sizes of block and memory; given exactly for protocol ``streaming``.
        disturbance: planted difficulty, in tuning only.

    Raises:
        ConfigError: ``streaming`` does not go with the protocol.
    """

    method: MethodConfig
    protocol: Protocol
    scenario: Scenario = "balanced"
    seed: int = 0
    streaming: StreamingConfig | None = None
    disturbance: Disturbance = UNDISTURBED

    def __post_init__(self) -> None:
        if (self.protocol == "streaming") != (self.streaming is not None):
            raise ConfigError("protocol streaming needs its block and memory, and no other protocol takes them")


@dataclass(frozen=True)
class UserWindows:
    """One user's windows, and what those to adapt on were cut from.

    Attributes:
        adapt: windows to adapt on, thinned by the scenario.
        test: windows to test on; in ``streaming`` those that adapt.
        recordings: names of the recordings that adapt.
        content_sha256: the file's own hash of its content.
        ring: whether the electrodes are a ring.
    """

    adapt: WindowedUser
    test: WindowedUser
    recordings: tuple[str, ...]
    content_sha256: str
    ring: bool


def load_user(path: Path, manifest: ReleaseManifest, task: Task) -> UserWindows:
    """The windows to adapt on and to test on, cut from recordings that are read once.

    The scenario thins the windows to adapt on only: the test set is the protocol's, whatever the scenario. In
    ``streaming`` both are one stream, which the scenario thins.
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
        user, content, ring = file.info.user, file.info.content_sha256, file.info.ring
    windows = task.disturbance.apply(windows, user, ring)
    adapt_windows, test_windows = (windows.subset(select(windows, part)) for part in split)
    if not adapt_windows.sequences(manifest.windows.sequence_length):
        raise DataError(
            f"user '{user}' has no recording as long as one sequence ({manifest.windows.sequence_length} windows of "
            f"{manifest.windows.length} samples, hop {manifest.windows.hop}); record longer, or use a release with "
            "shorter sequences"
        )
    check_signal(adapt_windows, user)
    if not len(test_windows):
        raise DataError(f"user '{user}' has no window to test on under protocol {task.protocol}")
    drawn = _drawn(path, adapt_windows, manifest, task)
    return UserWindows(drawn, drawn if task.protocol == "streaming" else test_windows, split[0], content, ring)


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
        person=info.user,
        seed=task.seed,
    )
    drawn = windows.subset(torch.from_numpy(keep))
    if not drawn.sequences(manifest.windows.sequence_length):
        raise DataError(
            f"scenario {task.scenario} leaves user '{info.user}' no whole sequence of "
            f"{manifest.windows.sequence_length} windows; leave it out, or use a release with shorter sequences"
        )
    return drawn


def check_signal(windows: WindowedUser, user: str) -> None:
    """Raise DataError where no window holds a signal that varies, or filtering has left one that is not finite."""
    if not bool(torch.isfinite(windows.signal).all()):
        raise DataError(f"user '{user}' has samples too large to compute with; check the unit of the recordings")
    for some in torch.split(torch.arange(len(windows)), 256):
        x = windows.batch(some)
        if bool((x.amax(2) - x.amin(2) > FLAT).any()):
            return
    raise DataError(
        f"user '{user}' has a constant signal on every channel; check electrodes and connection, and record again"
    )


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
