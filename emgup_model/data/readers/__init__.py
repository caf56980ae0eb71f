"""Reading one raw file as samples, (T, C). One small module per file format; no dataset has code of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.data.descriptor import CsvReader, Descriptor
from emgup_model.data.readers.delimited import read_csv, read_label_column
from emgup_model.data.readers.emg2pose import read_emg2pose
from emgup_model.data.readers.matlab import read_mat
from emgup_model.data.readers.raw import read_raw

__all__ = ["read_labels_of", "read_samples"]


def read_samples(path: Path, descriptor: Descriptor) -> npt.NDArray[Any]:
    """Samples of ``path``, (T, C), in the type the descriptor names.

    Raises:
        DataError: the file does not hold what the descriptor says; names the file, and the line where there is one.
    """
    reader, channels = descriptor.reader, descriptor.channels
    match reader.kind:
        case "csv":
            return read_csv(path, reader, channels)
        case "raw":
            return read_raw(path, reader, channels)
        case "mat":
            return read_mat(path, reader, channels)
        case "emg2pose":
            return read_emg2pose(path, channels, descriptor.sampling_rate_hz)


def read_labels_of(path: Path, descriptor: Descriptor) -> npt.NDArray[np.int64]:
    """Gesture index of each sample of ``path``, (T,), -1 where it is left out; for ``labels_each_sample`` only.

    Raises:
        DataError: a gesture that the descriptor does not know; names the line.
    """
    assert isinstance(descriptor.reader, CsvReader)
    return read_label_column(path, descriptor.reader, descriptor.gesture_index)
