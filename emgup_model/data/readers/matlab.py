"""One variable of a MATLAB file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat

from emgup_model.data.descriptor import MatReader
from emgup_model.data.readers.convert import to_type
from emgup_model.errors import DataError


def read_mat(path: Path, reader: MatReader, channels: int) -> npt.NDArray[Any]:
    """Samples of ``path``, (T, C). Raises DataError when the variable is missing or has another shape."""
    try:
        found = loadmat(path, variable_names=[reader.variable])
    except NotImplementedError:
        raise DataError(f"{path}: a MATLAB 7.3 file; save it again with save(..., '-v7')") from None
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror or e})") from None
    except Exception as e:  # scipy raises many kinds on a damaged file
        raise DataError(f"{path}: not a readable MATLAB file ({' '.join(str(e).split())[:100]})") from None
    if reader.variable not in found:
        raise DataError(f"{path}: no variable '{reader.variable}'")
    values = np.asarray(found[reader.variable])
    if values.dtype.kind not in "iuf" or values.ndim != 2:
        raise DataError(f"{path}: variable '{reader.variable}' is not a matrix of numbers")
    if not reader.samples_first:
        values = values.T
    if values.shape[1] != channels:
        raise DataError(f"{path}: variable '{reader.variable}' gives {values.shape[1]} channels instead of {channels}")
    return to_type(values, reader.dtype, path)
