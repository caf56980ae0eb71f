"""Converting what a text or MATLAB file holds to the descriptor's sample type, without losing anything silently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.errors import DataError


def to_type(values: npt.NDArray[Any], dtype: str, path: Path, first_line: int | None = None) -> npt.NDArray[Any]:
    """``values`` (T, C) as ``dtype``.

    Raises:
        DataError: NaN or infinity, a fraction where integers are expected, or a value out of the type's range; with
            the line when ``first_line`` (line number of sample 0) is known.
    """
    target = np.dtype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        converted = values.astype(target)
    bad = ~np.isfinite(converted) if target.kind == "f" else converted != values
    if bad.any():
        sample, channel = (int(i) for i in np.argwhere(bad)[0])
        where = f"sample {sample}" if first_line is None else f"line {first_line + sample}"
        raise DataError(f"{path} {where}: {values[sample, channel]} in column {channel + 1} is not a finite {dtype}")
    return converted
