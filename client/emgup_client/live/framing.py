"""Samples in a stream of bytes: lines of text, or little-endian binary, cut anywhere."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from emgup_model.errors import DataError

Format = Literal["csv", "float32", "int16"]
MAX_LINE = 64 * 1024
"""Bytes; a longer line is no sample."""


class Parser(Protocol):
    """Keeps the unfinished sample between calls."""

    def feed(self, data: bytes) -> np.ndarray:
        """The samples (n, C) that ``data`` completes, float64 or as sent. Raises DataError."""

    def finish(self) -> np.ndarray:
        """The stream has ended: what is left of it (n, C). Raises DataError when that is half a sample."""


def parser(form: Format, channels: int) -> Parser:
    """The parser of a format, for samples of ``channels`` values."""
    if form == "csv":
        return CsvParser(channels)
    return BinaryParser(channels, np.dtype("<f4" if form == "float32" else "<i2"))


class BinaryParser:
    """Samples one after the other, each its C values in channel order; no header, no separators."""

    def __init__(self, channels: int, dtype: np.dtype) -> None:
        self._channels, self._dtype = channels, dtype
        self._rest = b""

    def feed(self, data: bytes) -> np.ndarray:
        """The samples (n, C) that ``data`` completes."""
        data = self._rest + data
        size = self._channels * self._dtype.itemsize
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        return checked(np.frombuffer(data[:whole], self._dtype).reshape(-1, self._channels))

    def finish(self) -> np.ndarray:
        """Nothing, or DataError."""
        if self._rest:
            raise DataError(f"the stream ended inside a sample ({len(self._rest)} bytes too many): wrong --format?")
        return np.empty((0, self._channels), self._dtype)


class CsvParser:
    """One sample a line: C numbers, separated by commas, semicolons, blanks or tabs. Empty lines and # are skipped."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._rest = b""
        self._line = 0

    def feed(self, data: bytes) -> np.ndarray:
        """The samples (n, C) that ``data`` completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE:
            raise DataError(f"line {self._line + len(lines) + 1} of the stream is longer than {MAX_LINE} bytes")
        return self._samples(lines)

    def finish(self) -> np.ndarray:
        """A last line without its end."""
        last, self._rest = self._rest, b""
        return self._samples([last])

    def _samples(self, lines: list[bytes]) -> np.ndarray:
        rows = [row for line in lines if (row := self._row(line)) is not None]
        return checked(np.array(rows, np.float64).reshape(-1, self._channels))

    def _row(self, line: bytes) -> list[float] | None:
        self._line += 1
        text = line.strip()
        if not text or text.startswith(b"#"):
            return None
        try:
            row = [float(v) for v in text.replace(b",", b" ").replace(b";", b" ").split()]
        except ValueError:
            raise DataError(f"line {self._line} of the stream is no list of numbers: {text[:40]!r}") from None
        if len(row) != self._channels:
            raise DataError(f"line {self._line} of the stream has {len(row)} values, the model takes {self._channels}")
        return row


def checked(samples: np.ndarray) -> np.ndarray:
    """The samples; DataError when one is NaN, infinite, or too large for single precision."""
    limit = float(np.finfo(np.float32).max)
    if samples.dtype.kind == "f" and not (np.abs(samples) <= limit).all():
        raise DataError("the stream holds NaN, infinity or a number beyond single precision")
    return samples
