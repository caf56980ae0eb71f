"""Array types of this package."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Signal = npt.NDArray[np.float32]
Spectrum = npt.NDArray[np.complex64]
Integers = npt.NDArray[np.int64]
