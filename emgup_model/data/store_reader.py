"""Reading one user's recordings. There is no way from here to the labels: see :mod:`emgup_model.data.labels`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from emgup_model.data import hdf5_guard as guard
from emgup_model.data.matching import unit_gain
from emgup_model.data.recording import (
    EMG_DTYPES,
    FORMAT,
    MAX_RECORDINGS,
    MAX_USER_BYTES,
    VERSION,
    RecordingInfo,
    UserInfo,
    check_finite,
    check_info,
    check_recording,
)
from emgup_model.errors import DataError

ROOT_ATTRIBUTES = {
    "format",
    "version",
    "user",
    "dataset",
    "sampling_rate_hz",
    "channels",
    "unit",
    "gestures",
    "ring",
    "group",
    "attributes",
    "content_sha256",
}
RECORDING_ATTRIBUTES = {"session", "repetition", "start_s"}


def read_info(path: str | Path) -> UserInfo:
    """Read what a user's file says about the user, without looking at the recordings. Raises DataError."""
    path = Path(path)
    with guard.open_hdf5(path) as file, guard.hdf5_errors(path, "reading the header"):
        return parse_header(file)


def parse_header(file: h5py.File) -> UserInfo:
    """Check the root of an open file and return its user."""
    if _format(file) != FORMAT:
        raise DataError("not a recording file of this program; make one with 'emgup data import'")
    version = _version(file)
    if version != VERSION:
        raise DataError(f"format version {version} is not supported (this program reads {VERSION})")
    root = guard.attributes(file, ROOT_ATTRIBUTES)
    info = UserInfo(
        user=_text(root, "user"),
        dataset=_text(root, "dataset"),
        sampling_rate_hz=float(_number(root, "sampling_rate_hz")),
        channels=_integer(root, "channels"),
        unit=_text(root, "unit"),
        gestures=_gestures(_text(root, "gestures")),
        ring=_integer(root, "ring") == 1,
        group=_text(root, "group"),
        attributes=_attributes(_text(root, "attributes")),
        content_sha256=_text(root, "content_sha256"),
    )
    check_info(info)
    names = set(guard.members(file["/"], 2))
    if "recordings" not in names or names - {"recordings", "labels"}:
        raise DataError("the root must hold the group 'recordings', perhaps 'labels', and nothing else")
    return info


class UserFile:
    """One user's recordings, read-only: ``with UserFile(path) as user: user.read(name)``.

    The whole structure is checked when the file is opened; samples are read, and checked, one recording at a time.

    Attributes:
        info: The user.
        recordings: What is there, in the order it was recorded.

    Raises:
        DataError: the file is missing, damaged, hostile, or not of this format.
    """

    info: UserInfo
    recordings: tuple[RecordingInfo, ...]

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._gain = 1.0
        self._file = guard.open_hdf5(self._path)
        try:
            with guard.hdf5_errors(self._path, "checking"):
                self.info = parse_header(self._file)
                self._emg = check_recordings(self._file, self.info, self._path.stat().st_size)
        except BaseException:
            self._file.close()
            raise
        self.recordings = tuple(sorted(self._emg, key=lambda r: r.order))
        self._by_name = {r.name: self._emg[r] for r in self.recordings}

    def convert_to(self, unit: str) -> None:
        """From now on samples are read in ``unit``, which ``info`` then says. Raises DataError if that cannot be."""
        self._gain *= unit_gain(self.info.unit, unit)
        self.info = replace(self.info, unit=unit)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Samples of one recording, (T, C) in the stored type, or float64 where converted; in ``info.unit``.

        Raises:
            DataError: no such recording, a checksum that does not fit, NaN or infinity.
        """
        if name not in self._by_name:
            raise DataError(f"{self._path}: no recording '{name}'")
        with guard.hdf5_errors(self._path, f"reading '{name}'"):
            emg: npt.NDArray[Any] = self._by_name[name][...]
            check_finite(emg, name)
        return emg if self._gain == 1 else emg.astype(np.float64) * self._gain

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> UserFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def check_recordings(file: h5py.File, info: UserInfo, file_bytes: int) -> dict[RecordingInfo, h5py.Dataset]:
    """Check every recording's structure and sizes; the datasets by what is known of them."""
    group = guard.child_group(file["/"], "recordings")
    found: dict[RecordingInfo, h5py.Dataset] = {}
    declared = stored = 0
    for name in guard.members(group, MAX_RECORDINGS):
        recording, dset, sizes = _check_recording(group, name, info)
        found[recording] = dset
        declared += sizes.declared
        stored += sizes.stored
    if not found:
        raise DataError("no recordings in the file")
    if declared > MAX_USER_BYTES:
        raise DataError(f"the recordings declare {declared} bytes, more than the {MAX_USER_BYTES} allowed")
    if stored > file_bytes:  # chunks that several recordings share
        raise DataError(f"the recordings claim to store {stored} bytes in a file of {file_bytes}")
    return found


def _check_recording(group: h5py.Group, name: str, info: UserInfo) -> tuple[RecordingInfo, h5py.Dataset, guard.Sizes]:
    node = guard.child_group(group, name)
    if guard.members(node, 1) != ["emg"]:
        raise DataError(f"'{node.name}' must hold the dataset 'emg' and nothing else")
    attrs = guard.attributes(node, RECORDING_ATTRIBUTES)
    dset = guard.child_dataset(node, "emg")
    sizes = guard.check_dataset(dset, 2, EMG_DTYPES)
    samples, channels = (int(n) for n in dset.shape)
    if channels != info.channels:
        raise DataError(f"recording '{name}' has {channels} channels, the file says {info.channels}")
    if samples < 1:
        raise DataError(f"recording '{name}' is empty")
    session, repetition = _integer(attrs, "session"), _integer(attrs, "repetition")
    start_s = float(_number(attrs, "start_s"))
    check_recording(name, session, repetition, start_s)
    return RecordingInfo(name, session, repetition, start_s, samples), dset, sizes


def _format(file: h5py.File) -> str | None:
    if "format" not in file.attrs:
        return None
    attr = h5py.h5a.open(file.id, b"format")
    kind = attr.get_type()
    if kind.get_class() != h5py.h5t.STRING or kind.is_variable_str() or attr.get_storage_size() > 100:
        return None
    raw = file.attrs["format"]
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _version(file: h5py.File) -> int | None:
    if "version" not in file.attrs:
        return None
    attr = h5py.h5a.open(file.id, b"version")
    if attr.get_type().get_class() != h5py.h5t.INTEGER or attr.get_storage_size() > 8:
        return None
    return int(file.attrs["version"])


def _number(values: dict[str, int | float | str], key: str) -> int | float:
    value = values[key]
    if isinstance(value, str):
        raise DataError(f"attribute '{key}' is text instead of a number")
    return value


def _integer(values: dict[str, int | float | str], key: str) -> int:
    value = values[key]
    if not isinstance(value, int):
        raise DataError(f"attribute '{key}' is not a whole number")
    return value


def _text(values: dict[str, int | float | str], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise DataError(f"attribute '{key}' is a number instead of text")
    return value


def _json(text: str, key: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"attribute '{key}' is not valid JSON") from None


def _gestures(text: str) -> tuple[str, ...]:
    names = _json(text, "gestures")
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise DataError("attribute 'gestures' is not a JSON list of names")
    return tuple(names)


def _attributes(text: str) -> dict[str, str | float | int]:
    values = _json(text, "attributes")
    if not isinstance(values, dict) or not all(type(v) in (str, int, float) for v in values.values()):
        raise DataError("attribute 'attributes' is not a JSON object of texts and numbers")
    return values
