"""The labels of a user's recordings. Only source training and the evaluator may import it: adaptation may not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from emgup_model.data import hdf5_guard as guard
from emgup_model.data.matching import gesture_indices
from emgup_model.data.recording import LABEL_DTYPES, MAX_RECORDINGS, check_labels
from emgup_model.data.store_reader import check_recordings, parse_header
from emgup_model.errors import DataError


def read_labels(path: str | Path, gestures: Sequence[str] | None = None) -> dict[str, int | npt.NDArray[Any]]:
    """Labels of one user's file: recording name -> one gesture index, or one per sample (T,) int64.

    Recordings without a label are left out; a file without labels gives an empty dict.

    Args:
        path: the file.
        gestures: names that the labels are to be indices of, such as a release's; by default the file's own.

    Raises:
        DataError: the file is damaged or hostile, a label belongs to no recording, has the wrong length, or is not an
            index of a gesture name; the file has a gesture that is not in ``gestures``.
    """
    path = Path(path)
    with guard.open_hdf5(path) as file, guard.hdf5_errors(path, "reading the labels"):
        info = parse_header(file)
        if "labels" not in file:
            return {}
        lengths = {r.name: r.n_samples for r in check_recordings(file, info, path.stat().st_size)}
        group = guard.child_group(file["/"], "labels")
        found: dict[str, int | npt.NDArray[Any]] = {}
        for name in guard.members(group, MAX_RECORDINGS):
            if name not in lengths:
                raise DataError(f"there are labels for '{name[:80]}', but no such recording")
            found[name] = _read_label(guard.child_dataset(group, name), lengths[name], len(info.gestures), name)
    if gestures is None or tuple(gestures) == info.gestures:
        return found
    index = np.array(gesture_indices(info.gestures, gestures), np.int64)
    return {name: int(index[label]) if np.ndim(label) == 0 else index[label] for name, label in found.items()}


def _read_label(dset: h5py.Dataset, n_samples: int, n_gestures: int, name: str) -> int | npt.NDArray[Any]:
    if dset.shape == ():
        guard.check_scalar(dset, LABEL_DTYPES)
        label = np.asarray(dset[()])
        check_labels(label, n_gestures, name)
        return int(label)
    if dset.shape is None or len(dset.shape) != 1 or dset.shape[0] != n_samples:
        raise DataError(f"recording '{name}' has {n_samples} samples, its labels have the shape {dset.shape}")
    guard.check_dataset(dset, 1, LABEL_DTYPES, max_ratio=None)  # one label for hours compresses to nothing
    labels = np.asarray(dset[...]).astype(np.int64)
    check_labels(labels, n_gestures, name)
    return labels
