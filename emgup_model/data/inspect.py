"""What is in a store, and what is wrong with it: numbers only, printing is the command line's business."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.data.labels import read_labels
from emgup_model.data.leakage import Copies, Fingerprint, find_copies, fingerprint
from emgup_model.data.recording import RecordingInfo, UserInfo, content_digest, recording_digest
from emgup_model.data.store import Store, UserFile
from emgup_model.errors import DataError

Array = npt.NDArray[Any]
Label = int | Array

# A channel below this share of the user's median channel level (RMS without offset) is called dead.
DEAD_LEVEL = 0.01
# An extreme value that occurs fewer times than this is a peak, not a rail of the converter.
RAIL_COUNT = 10


@dataclass(frozen=True)
class UserReport:
    """One user. ``class_seconds`` (G,) is labelled time per gesture; ``clipped`` a share of all samples."""

    info: UserInfo
    sessions: int
    recordings: int
    seconds: float
    class_seconds: tuple[float, ...]
    unlabelled_seconds: float
    clipped: float
    dead_channels: tuple[int, ...]

    @property
    def missing_classes(self) -> tuple[str, ...]:
        """Gestures of which a labelled user has nothing."""
        if not any(self.class_seconds):
            return ()
        return tuple(g for g, s in zip(self.info.gestures, self.class_seconds, strict=True) if not s)


@dataclass(frozen=True)
class StoreReport:
    """A whole store. ``leaks`` are recordings shared by users of different groups; ``related`` those within a group."""

    folder: Path
    users: tuple[UserReport, ...]
    leaks: tuple[Copies, ...]
    related: tuple[Copies, ...]


@dataclass
class _Extreme:
    """Largest value so far and how often it occurred."""

    value: float = -np.inf
    count: int = 0

    def add(self, values: Array) -> None:
        top = float(values.max())
        if top > self.value:
            self.value, self.count = top, 0
        if top == self.value:
            self.count += int((values == top).sum())


@dataclass
class _Tally:
    """Sums over one user's recordings."""

    samples: int = 0
    variance: Array | None = None
    constant: set[int] = field(default_factory=set)
    high: _Extreme = field(default_factory=_Extreme)
    low: _Extreme = field(default_factory=_Extreme)

    def add(self, emg: Array) -> None:
        self.samples += len(emg)
        values = emg.astype(np.float64)
        variance = values.var(axis=0) * len(emg)
        self.variance = variance if self.variance is None else self.variance + variance
        self.constant |= {int(c) for c in np.flatnonzero((emg == emg[:1]).all(axis=0))} if len(emg) > 1 else set()
        self.high.add(values)
        self.low.add(-values)

    def dead(self) -> tuple[int, ...]:
        """Channels that are constant in some recording, or nearly silent beside the others."""
        if self.variance is None:
            return ()
        level = np.sqrt(self.variance / max(1, self.samples))
        quiet = np.flatnonzero(level < DEAD_LEVEL * np.median(level))
        return tuple(sorted(self.constant | {int(c) for c in quiet}))


def inspect_store(folder: str | Path, progress: Callable[[str, int, int], None] | None = None) -> StoreReport:
    """Read every recording and label of a store once.

    Args:
        folder: The store.
        progress: Called after each user as (user, users done, users in all).

    Raises:
        DataError: the store or a file in it is damaged, or a file's content is not what its hash says.
    """
    store = Store(folder)
    tallies: dict[str, _Tally] = {}
    prints: list[Fingerprint] = []
    partial: list[UserReport] = []
    for number, user in enumerate(store.users, 1):
        report, tallies[user], found = _inspect_user(store, user)
        partial.append(report)
        prints += found
        if progress:
            progress(user, number, len(store.users))
    groups = {user: store.infos[user].fold_group for user in store.users}
    copies = find_copies(prints, groups, lambda user, name: _read(store, user, name))
    clipped = _clipped(tallies)
    return StoreReport(
        folder=store.folder,
        users=tuple(_with_clipping(r, clipped[r.info.user]) for r in partial),
        leaks=tuple(c for c in copies if not c.same_group),
        related=tuple(c for c in copies if c.same_group),
    )


def _read(store: Store, user: str, name: str) -> Array:
    with store.open(user) as file:
        return file.read(name)


def _inspect_user(store: Store, user: str) -> tuple[UserReport, _Tally, list[Fingerprint]]:
    labels = read_labels(store.path(user))
    tally = _Tally()
    prints: list[Fingerprint] = []
    digests: list[tuple[RecordingInfo, str]] = []
    with store.open(user) as file:
        for recording in file.recordings:
            emg = file.read(recording.name)
            tally.add(emg)
            digests.append(recording_digest(recording, emg, labels.get(recording.name)))
            print_ = fingerprint(user, recording.name, emg)
            prints += [] if print_ is None else [print_]
        if content_digest(file.info, digests) != file.info.content_sha256:
            raise DataError(f"{store.path(user)}: the content is not what its hash says; make the file again")
        return _user_report(file, labels, tally), tally, prints


def _user_report(file: UserFile, labels: dict[str, Label], tally: _Tally) -> UserReport:
    info = file.info
    counts = np.zeros(len(info.gestures), dtype=np.int64)
    for recording in file.recordings:
        label = labels.get(recording.name)
        if isinstance(label, int):
            counts[label] += recording.n_samples
        elif label is not None:
            counts += np.bincount(label, minlength=len(counts))
    return UserReport(
        info=info,
        sessions=len({r.session for r in file.recordings}),
        recordings=len(file.recordings),
        seconds=tally.samples / info.sampling_rate_hz,
        class_seconds=tuple(float(c) / info.sampling_rate_hz for c in counts),
        unlabelled_seconds=float(tally.samples - counts.sum()) / info.sampling_rate_hz,
        clipped=0.0,
        dead_channels=tally.dead(),
    )


def _with_clipping(report: UserReport, clipped: float) -> UserReport:
    return UserReport(**{**report.__dict__, "clipped": clipped})


def _clipped(tallies: dict[str, _Tally]) -> dict[str, float]:
    """Share of each user's samples at the store's rails: the outermost values, when they come up again and again."""
    share: dict[str, float] = defaultdict(float)
    for side in ("high", "low"):
        extremes: dict[str, _Extreme] = {user: getattr(t, side) for user, t in tallies.items()}
        rail = max(e.value for e in extremes.values())
        for user, extreme in extremes.items():
            tally = tallies[user]
            channels = 1 if tally.variance is None else len(tally.variance)
            at_rail = extreme.count if extreme.value == rail and extreme.count >= RAIL_COUNT else 0
            share[user] += at_rail / max(1, tally.samples * channels)
    return share
