"""Little-endian binary samples with interleaved channels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.data.descriptor import RawReader
from emgup_model.errors import DataError


def read_raw(path: Path, reader: RawReader, channels: int) -> npt.NDArray[Any]:
    """Samples of ``path``, (T, C). Raises DataError when the size is not a whole number of frames."""
    dtype = np.dtype(reader.dtype).newbyteorder("<")
    try:
        data = path.read_bytes()
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    frame = channels * dtype.itemsize
    if not data or len(data) % frame:
        raise DataError(
            f"{path}: {len(data)} bytes is not a whole number of frames of {frame} bytes "
            f"({channels} channels of {reader.dtype}); the file is cut off or the descriptor is wrong"
        )
    return np.frombuffer(data, dtype).reshape(-1, channels)
