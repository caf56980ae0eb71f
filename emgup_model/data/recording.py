"""What a recording and its user are: the values a store file holds, and the rules they must satisfy."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.config import canonical_json
from emgup_model.errors import DataError

FORMAT = "emgup-recordings"
VERSION = 1

MAX_CHANNELS = 1024
MAX_GESTURES = 1000
MAX_RECORDINGS = 20_000
MAX_TEXT_BYTES = 32 * 1024  # an HDF5 attribute in an object header can hold 64 KiB
MAX_RECORDING_BYTES = 2 * 1024**3
MAX_USER_BYTES = 16 * 1024**3

# Bounded integers and plain floats only: whatever NumPy would have to interpret (objects, strings, records) is refused.
EMG_DTYPES = frozenset(np.dtype(t) for t in ("<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<f4", "<f8"))
LABEL_DTYPES = frozenset(np.dtype(t) for t in ("<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4"))

# User names become file names and recording names HDF5 paths: no separators, no leading or trailing dot, no blanks.
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")

Attribute = str | float | int


@dataclass(frozen=True)
class UserInfo:
    """One user of a dataset: everything that holds for all of the user's recordings.

    Attributes:
        user: Name, unique in its store; also the file name.
        dataset: Name of the dataset the user belongs to.
        sampling_rate_hz: Samples per second of every recording.
        channels: Electrode channels of every recording.
        unit: Unit of the samples, for example ``uV``, ``V`` or ``adc``.
        gestures: Names of the classes; a label is an index into them.
        ring: True when the electrodes are equally spaced around the arm in channel order.
        group: Users with the same group are kept in one fold (probably the same person). Empty: the user alone.
        attributes: Further facts about the user, such as handedness.
        content_sha256: Hash of everything the file says; filled in by the writer.
    """

    user: str
    dataset: str
    sampling_rate_hz: float
    channels: int
    unit: str
    gestures: tuple[str, ...]
    ring: bool
    group: str = ""
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    content_sha256: str = ""

    @property
    def fold_group(self) -> str:
        """Name of the group that folds must not split: ``group``, or the user alone."""
        return self.group or self.user


@dataclass(frozen=True)
class Recording:
    """One recording to write. ``emg`` is (T, C); ``label`` one gesture index, one per sample (T,), or None."""

    name: str
    session: int
    repetition: int
    start_s: float
    emg: npt.NDArray[Any]
    label: int | npt.NDArray[Any] | None


@dataclass(frozen=True)
class RecordingInfo:
    """One recording as stored, without its samples and without labels. ``start_s`` is seconds within the session."""

    name: str
    session: int
    repetition: int
    start_s: float
    n_samples: int

    @property
    def order(self) -> tuple[int, float, int, str]:
        """Sort key: the order in which the recordings were made."""
        return (self.session, self.start_s, self.repetition, self.name)


def check_name(name: str, what: str) -> str:
    """Return ``name`` when it is safe as a file name and an HDF5 link name; raise DataError otherwise."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise DataError(
            f"{what} {str(name)[:80]!r} is not usable as a name; "
            "use 1 to 100 letters, digits, '_', '-' or '.', beginning with a letter or digit"
        )
    return name


def check_info(info: UserInfo) -> None:
    """Raise DataError when a field of ``info`` is out of range."""
    check_name(info.user, "user")
    check_name(info.dataset, "dataset")
    if info.group:
        check_name(info.group, "group")
    if not (math.isfinite(info.sampling_rate_hz) and 1 <= info.sampling_rate_hz <= 1e6):
        raise DataError(f"sampling rate {info.sampling_rate_hz} Hz is not between 1 and 1000000")
    if not 1 <= info.channels <= MAX_CHANNELS:
        raise DataError(f"channel count {info.channels} is not between 1 and {MAX_CHANNELS}")
    if not info.unit or len(info.unit) > 20 or not info.unit.isprintable():
        raise DataError(f"unit {info.unit[:20]!r} is not a short printable name such as uV")
    if len(info.gestures) > MAX_GESTURES or len(set(info.gestures)) != len(info.gestures):
        raise DataError(f"gesture names must be different and at most {MAX_GESTURES}")
    for gesture in info.gestures:
        if not gesture or len(gesture) > 100 or not gesture.isprintable():
            raise DataError(f"gesture name {gesture[:40]!r} is empty, too long or not printable")
    for key, value in info.attributes.items():
        check_name(key, "attribute")
        if isinstance(value, str) and (len(value) > 200 or not value.isprintable()):
            raise DataError(f"attribute '{key}' is too long or not printable")
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"attribute '{key}' is {value}, not a finite number")
    for text in (json.dumps(list(info.gestures)), json.dumps(dict(info.attributes))):
        if len(text) > MAX_TEXT_BYTES:
            raise DataError(f"gesture names or attributes need more than {MAX_TEXT_BYTES} bytes")


def check_recording(name: str, session: int, repetition: int, start_s: float) -> None:
    """Raise DataError when a recording's name or numbers are out of range."""
    check_name(name, "recording")
    for what, number in (("session", session), ("repetition", repetition)):
        if not 0 <= number < 2**31:
            raise DataError(f"recording '{name}': {what} {number} is not between 0 and 2147483647")
    if not (math.isfinite(start_s) and 0 <= start_s < 1e12):
        raise DataError(f"recording '{name}': start {start_s} s is not a time of at least 0")


def check_finite(emg: npt.NDArray[Any], name: str) -> None:
    """Raise DataError naming the first NaN or infinity of ``emg`` (T, C)."""
    if emg.dtype.kind == "f" and not np.isfinite(emg).all():
        sample, channel = (int(i) for i in np.argwhere(~np.isfinite(emg))[0])
        raise DataError(f"recording '{name}' holds NaN or infinity (first at sample {sample}, channel {channel})")


def check_labels(label: npt.NDArray[Any], n_gestures: int, name: str) -> None:
    """Raise DataError when a label is not an index into the gesture names."""
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= n_gestures:
        wrong = low if low < 0 else high
        raise DataError(f"recording '{name}': label {wrong} is not an index of its {n_gestures} gesture names")


def recording_digest(
    info: RecordingInfo, emg: npt.NDArray[Any], label: int | npt.NDArray[Any] | None
) -> tuple[RecordingInfo, str]:
    """``info`` with the SHA-256 (hex) of one recording: its facts, its samples and its labels."""
    labels = None if label is None else np.atleast_1d(np.asarray(label)).astype("<i8")
    facts = {
        "name": info.name,
        "session": info.session,
        "repetition": info.repetition,
        "start_s": float(info.start_s),
        "dtype": emg.dtype.str,
        "shape": list(emg.shape),
        "label": None if label is None else ("one" if np.asarray(label).ndim == 0 else "each"),
    }
    h = hashlib.sha256(canonical_json(facts))
    h.update(np.ascontiguousarray(emg).data)
    if labels is not None:
        h.update(labels.tobytes())
    return info, h.hexdigest()


def content_digest(info: UserInfo, recordings: Iterable[tuple[RecordingInfo, str]]) -> str:
    """SHA-256 (hex) of a user's whole content; the same whatever order the recordings are given in."""
    facts = {
        "format": FORMAT,
        "version": VERSION,
        "user": info.user,
        "dataset": info.dataset,
        "sampling_rate_hz": float(info.sampling_rate_hz),
        "channels": info.channels,
        "unit": info.unit,
        "gestures": list(info.gestures),
        "ring": info.ring,
        "group": info.group,
        "attributes": dict(info.attributes),
        "recordings": [digest for _, digest in sorted(recordings, key=lambda r: r[0].order)],
    }
    return hashlib.sha256(canonical_json(facts)).hexdigest()
