"""The most recent samples of a stream, in a fixed piece of memory."""

from __future__ import annotations

import numpy as np


class RingBuffer:
    """The last ``length`` samples (C values each) that were written."""

    def __init__(self, length: int, channels: int) -> None:
        self._data = np.zeros((length, channels), np.float32)
        self._next = 0

    def write(self, samples: np.ndarray) -> None:
        """Add samples (n, C), float32; of more than fit, the last ones."""
        length = len(self._data)
        samples = samples[-length:]
        first = min(len(samples), length - self._next)
        self._data[self._next : self._next + first] = samples[:first]
        self._data[: len(samples) - first] = samples[first:]
        self._next = (self._next + len(samples)) % length

    def read(self) -> np.ndarray:
        """The last ``length`` samples, oldest first: a (length, C) copy. Before that many came, zeros lead."""
        return np.concatenate((self._data[self._next :], self._data[: self._next]))
