"""Delimited text: one line per sample, one column per channel, perhaps one that names the gesture."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emgup_model.data.descriptor import CsvReader
from emgup_model.data.readers.convert import to_type
from emgup_model.errors import DataError


def read_csv(path: Path, reader: CsvReader, channels: int) -> npt.NDArray[Any]:
    """Samples of ``path``, (T, C).

    A byte-order mark, blank lines at the end and a delimiter after the last cell of every line are accepted.

    Raises:
        DataError: a cell that is no number, a line with another number of cells (with its line number), no samples.
    """
    lines = _lines(path, reader)
    delimiter = None if reader.delimiter == " " else reader.delimiter
    first = reader.header_rows + 1
    _check_width(path, lines[0], delimiter, reader, channels, first)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            values = np.loadtxt(
                lines, dtype=np.float64, delimiter=delimiter, comments=None, usecols=reader.columns, ndmin=2
            )
        except ValueError:
            raise _explain(path, lines, delimiter, first) from None
    if len(values) != len(lines):
        raise DataError(f"{path}: blank lines between the samples")
    return to_type(values, reader.dtype, path, first)


def read_label_column(path: Path, reader: CsvReader, index_of: Callable[[str], int | None]) -> npt.NDArray[np.int64]:
    """Gesture index of each sample, (T,); -1 where ``index_of`` leaves the gesture out.

    Raises:
        DataError: a line without the column, or with a gesture that ``index_of`` does not know (ValueError).
    """
    assert reader.label_column is not None
    delimiter = None if reader.delimiter == " " else reader.delimiter
    known: dict[str, int] = {}
    out = np.empty(len(lines := _lines(path, reader)), np.int64)
    for i, line in enumerate(lines):
        cells = line.split(delimiter)
        where = f"{path} line {reader.header_rows + 1 + i}"
        if reader.label_column >= len(cells):
            raise DataError(f"{where}: {len(cells)} columns; label_column is {reader.label_column}, counted from 0")
        text = cells[reader.label_column].strip()
        if text not in known:
            try:
                index = index_of(_whole(text))
            except ValueError as e:
                raise DataError(f"{where}: {e}") from None
            known[text] = -1 if index is None else index
        out[i] = known[text]
    return out


def _whole(text: str) -> str:
    """A whole number without its decimals (3.000e+00 is 3); other text as it is."""
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text


def _lines(path: Path, reader: CsvReader) -> list[str]:
    """Lines that hold samples. Raises DataError when there are none, or the file cannot be read as text."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as e:
        raise DataError(f"{path}: cannot be read ({e.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not a text file") from None
    lines = text.rstrip().splitlines()[reader.header_rows :]
    if not lines:
        raise DataError(f"{path}: no samples")
    if lines[0].rstrip().endswith(reader.delimiter) and not reader.delimiter.isspace():
        lines = [line.rstrip().removesuffix(reader.delimiter) for line in lines]
    return lines


def _check_width(path: Path, line: str, delimiter: str | None, reader: CsvReader, channels: int, number: int) -> None:
    width = len(line.split(delimiter))
    if reader.columns is None and width != channels:
        raise DataError(f"{path} line {number}: {width} columns instead of {channels} (one for each channel)")
    if reader.columns is not None and (len(reader.columns) != channels or max(reader.columns) >= width):
        raise DataError(f"{path} line {number}: {width} columns; the descriptor reads {list(reader.columns)}")


def _explain(path: Path, lines: list[str], delimiter: str | None, first: int) -> DataError:
    """The first line that NumPy could not read, in words."""
    width = len(lines[0].split(delimiter))
    for number, line in enumerate(lines, first):
        cells = line.split(delimiter)
        if len(cells) != width:
            return DataError(f"{path} line {number}: {len(cells)} columns instead of {width}")
        for column, cell in enumerate(cells, 1):
            try:
                float(cell)
            except ValueError:
                return DataError(f"{path} line {number}: '{cell.strip()[:40]}' in column {column} is not a number")
    return DataError(f"{path}: not a table of numbers")
