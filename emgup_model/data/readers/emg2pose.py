"""Session files of emg2pose (Salter et al. 2024, arXiv 2412.02725): one hand, one stage of about a minute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from emgup_model.data.hdf5_guard import (
    MAX_RATIO,
    RATIO_FREE_BYTES,
    child_dataset,
    child_group,
    hdf5_errors,
    members,
    open_hdf5,
)
from emgup_model.data.recording import MAX_RECORDING_BYTES
from emgup_model.errors import DataError

MAX_ROW_BYTES = 1024  # time, 20 joint angles and 16 channels take 232


def read_emg2pose(path: Path, channels: int, sampling_rate_hz: float) -> npt.NDArray[Any]:
    """EMG of ``path``, (T, C) float32; joint angles and time stamps are not read.

    Raises:
        DataError: not an emg2pose file, or one with another channel count or sampling rate.
    """
    with open_hdf5(path) as file, hdf5_errors(path, "reading"):
        if "emg2pose" not in members(file["/"], 16):
            raise DataError("no group 'emg2pose'; this is not an emg2pose session file")
        group = child_group(file["/"], "emg2pose")
        if "timeseries" not in members(group, 16):
            raise DataError("no dataset 'emg2pose/timeseries'; this is not an emg2pose session file")
        series = child_dataset(group, "timeseries")
        _check(series, channels)
        rate = float(group.attrs.get("sample_rate", sampling_rate_hz))
        if rate != sampling_rate_hz:
            raise DataError(f"sampled at {rate} Hz, the descriptor says {sampling_rate_hz}")
        return np.ascontiguousarray(series.fields("emg")[...])


def _check(series: h5py.Dataset, channels: int) -> None:
    layout = series.id.get_create_plist()
    if layout.get_layout() == h5py.h5d.VIRTUAL or layout.get_external_count():
        raise DataError("'emg2pose/timeseries' is stored outside the file")
    if series.ndim != 1 or "emg" not in (series.dtype.names or ()):
        raise DataError("'emg2pose/timeseries' is not a list of records with a field 'emg'")
    declared = int(series.size) * series.dtype.itemsize
    if series.dtype.itemsize > MAX_ROW_BYTES or declared > MAX_RECORDING_BYTES:
        raise DataError(f"'emg2pose/timeseries' declares more than {MAX_RECORDING_BYTES} bytes")
    stored = series.id.get_storage_size()
    if declared > RATIO_FREE_BYTES and declared > MAX_RATIO * stored:
        raise DataError(f"'emg2pose/timeseries' declares {declared} bytes and stores {stored}; the file is incomplete")
    if not declared:
        raise DataError("'emg2pose/timeseries' is empty")
    kind = series.dtype["emg"]
    if kind.base.kind != "f" or kind.shape != (channels,):
        raise DataError(f"field 'emg' is {kind}, expected {channels} floating-point channels")
