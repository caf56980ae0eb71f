"""Writing one user's recordings: streamed, checked, and in place only when complete."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from emgup_model.data.hdf5_guard import MAX_CHUNK_BYTES
from emgup_model.data.labels import read_labels
from emgup_model.data.recording import (
    EMG_DTYPES,
    FORMAT,
    VERSION,
    Recording,
    RecordingInfo,
    UserInfo,
    check_finite,
    check_info,
    check_labels,
    check_recording,
    content_digest,
    recording_digest,
)
from emgup_model.data.store_reader import UserFile
from emgup_model.errors import DataError
from emgup_model.files import atomic_path


def write_user(path: str | Path, info: UserInfo, recordings: Iterable[Recording]) -> None:
    """Write one user's file, one recording in memory at a time; an existing file is replaced only on success.

    The finished file is opened with the validating reader before it is put in place, so whatever is written can be
    read. The same content gives the same ``content_sha256``, whatever the order of the recordings.

    Raises:
        DataError: a value the reader would refuse (unsafe name, NaN, wrong channel count, label out of range ...),
            two recordings of one name, or no recording at all.
    """
    path = Path(path)
    check_info(info)
    try:
        with atomic_path(path) as tmp:
            # 1.10 object headers carry checksums: a bit flipped in the structure is noticed too, not only in the EMG.
            with h5py.File(tmp, "w", libver=("v110", "v110")) as file:
                _write(file, info, recordings)
            _check_readable(tmp, path)
    except OSError as e:
        raise DataError(f"{path}: cannot be written ({e.strerror or e})") from None


def _check_readable(tmp: Path, path: Path) -> None:
    try:
        UserFile(tmp).close()
        read_labels(tmp)
    except DataError as e:
        raise DataError(f"{path}: {str(e).removeprefix(f'{tmp}: ')}") from None


def _write(file: h5py.File, info: UserInfo, recordings: Iterable[Recording]) -> None:
    groups = {name: file.create_group(name) for name in ("recordings", "labels")}
    digests: list[tuple[RecordingInfo, str]] = []
    names: set[str] = set()
    for recording in recordings:
        if recording.name in names:
            raise DataError(f"user '{info.user}': two recordings are named '{recording.name}'")
        names.add(recording.name)
        try:
            digests.append(_write_recording(groups, info, recording))
        except DataError as e:
            raise DataError(f"user '{info.user}': {e}") from None
    if not digests:
        raise DataError(f"user '{info.user}' has no recordings")
    _write_header(file, replace(info, content_sha256=content_digest(info, digests)))


def _write_header(file: h5py.File, info: UserInfo) -> None:
    file.attrs["version"] = np.int64(VERSION)
    file.attrs["sampling_rate_hz"] = np.float64(info.sampling_rate_hz)
    file.attrs["channels"] = np.int64(info.channels)
    file.attrs["ring"] = np.int64(info.ring)
    texts = {
        "format": FORMAT,
        "user": info.user,
        "dataset": info.dataset,
        "unit": info.unit,
        "gestures": json.dumps(list(info.gestures)),
        "group": info.group,
        "attributes": json.dumps(dict(info.attributes), sort_keys=True),
        "content_sha256": info.content_sha256,
    }
    for name, text in texts.items():
        raw = text.encode()
        # Fixed length: variable-length text would bring pointers into the file, which the reader refuses.
        file.attrs.create(name, raw, dtype=h5py.string_dtype("utf-8", max(1, len(raw))))


def _write_recording(groups: dict[str, h5py.Group], info: UserInfo, recording: Recording) -> tuple[RecordingInfo, str]:
    name = recording.name
    check_recording(name, recording.session, recording.repetition, recording.start_s)
    emg = _as_stored(recording.emg, name)
    if emg.ndim != 2 or emg.shape[1] != info.channels:
        raise DataError(f"recording '{name}' has the shape {emg.shape}, expected (samples, {info.channels})")
    if not len(emg):
        raise DataError(f"recording '{name}' is empty")
    check_finite(emg, name)
    node = groups["recordings"].create_group(name)
    node.attrs["session"] = np.int64(recording.session)
    node.attrs["repetition"] = np.int64(recording.repetition)
    node.attrs["start_s"] = np.float64(recording.start_s)
    _create(node, "emg", emg)
    label = _write_label(groups["labels"], info, recording, len(emg))
    facts = RecordingInfo(name, recording.session, recording.repetition, float(recording.start_s), len(emg))
    return recording_digest(facts, emg, label)


def _as_stored(emg: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    little = emg.dtype.newbyteorder("<")
    if little not in EMG_DTYPES:
        raise DataError(f"recording '{name}' has the type {emg.dtype}; use an integer or float type up to 64 bits")
    return np.ascontiguousarray(emg, dtype=little)


def _write_label(
    group: h5py.Group, info: UserInfo, recording: Recording, n_samples: int
) -> int | npt.NDArray[Any] | None:
    if recording.label is None:
        return None
    label = np.asarray(recording.label)
    if label.dtype.kind not in "iu" or (label.ndim and label.shape != (n_samples,)):
        raise DataError(f"recording '{recording.name}': labels must be one integer, or one for each sample")
    check_labels(label, len(info.gestures), recording.name)
    label = label.astype("<i4")
    if label.ndim:
        _create(group, recording.name, label)
        return label
    compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    compact.set_layout(h5py.h5d.COMPACT)  # inside the object header, which has a checksum
    compact.set_obj_track_times(False)  # the time of writing is not content
    kind, space = h5py.h5t.py_create(label.dtype), h5py.h5s.create(h5py.h5s.SCALAR)
    h5py.h5d.create(group.id, recording.name.encode(), kind, space, compact).write(space, space, label)
    return int(label)


def _create(group: h5py.Group, name: str, data: npt.NDArray[Any]) -> None:
    rows = max(1, min(len(data), MAX_CHUNK_BYTES // (data.itemsize * int(np.prod(data.shape[1:], dtype=int)))))
    group.create_dataset(
        name,
        data=data,
        chunks=(rows, *data.shape[1:]),
        shuffle=True,
        compression="gzip",
        compression_opts=4,
        fletcher32=True,
    )
