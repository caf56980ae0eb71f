"""The result table: one row per cell (user, method, protocol, scenario, source seed, seed), and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from emgup_model.config import Frozen
from emgup_model.errors import RunError
from emgup_model.files import write_atomic

OK = "ok"
"""Status of a cell that was adapted and scored; any other status is the code of what went wrong."""


def _printable(text: str) -> str:
    if not text.isprintable():  # also keeps out line breaks and lone surrogates, which CSV and UTF-8 cannot carry
        raise ValueError("must be printable text on one line")
    return text


Name = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Score = Annotated[float, Field(ge=0, le=1)]


class ResultRow(Frozen):
    """Result of one cell. Field order is the column order of results.csv.

    ``accuracy`` and ``macro_f1`` are those of the personalized model, ``source_*`` those of the source release on
    the same test windows; all are in [0, 1]. ``macro_f1`` averages over the gestures present in the user's labels.
    A cell whose status is not "ok" has no ``accuracy`` and no ``macro_f1``.
    """

    dataset: Name
    backbone: Name
    method: Name
    protocol: Name
    scenario: Name = "balanced"
    fold: int = Field(ge=0)
    user: Name
    source_seed: int = Field(0, ge=0, description="of the source training whose release was adapted")
    seed: int = Field(ge=0, description="of the scenario's draw and the adaptation")
    accuracy: Score | None
    macro_f1: Score | None
    source_accuracy: Score | None
    source_macro_f1: Score | None
    n_windows: int = Field(ge=0, description="test windows")
    adapt_seconds: float = Field(ge=0, description="wall time of the adaptation on the client, seconds")
    status: Name

    @model_validator(mode="after")
    def _scores_match_status(self) -> Self:
        if self.ok and None in (self.accuracy, self.macro_f1, self.source_accuracy, self.source_macro_f1):
            raise ValueError("a cell with status ok needs all four scores")
        if not self.ok and (self.accuracy is not None or self.macro_f1 is not None):
            raise ValueError(f"a cell with status {self.status} cannot have an accuracy or macro_f1")
        return self

    @property
    def run(self) -> tuple[int, int]:
        """(source seed, seed): a user's cells of one run are what two methods are compared on."""
        return self.source_seed, self.seed

    @property
    def ok(self) -> bool:
        """Whether the cell was adapted and scored."""
        return self.status == OK


COLUMNS = tuple(ResultRow.model_fields)
_KEY = ("dataset", "backbone", "method", "protocol", "scenario", "user", "source_seed", "seed")
_ORDER = ("dataset", "backbone", "method", "protocol", "scenario", "fold", "user", "source_seed", "seed")


def sort_rows(rows: Iterable[ResultRow]) -> tuple[ResultRow, ...]:
    """Rows in the order of results.csv: dataset, backbone, method, protocol, scenario, fold, user, source seed, seed.

    Raises:
        RunError: two rows of one cell. A user is tested once per pair of seeds, whatever the fold.
    """
    ordered = sorted(rows, key=attrgetter(*_ORDER))
    seen: set[tuple[object, ...]] = set()
    for row in ordered:
        key = tuple(getattr(row, name) for name in _KEY)
        if key in seen:
            shown = ", ".join(f"{name}={value}" for name, value in zip(_KEY, key, strict=True))
            raise RunError(f"two results for one cell ({shown}); every user is tested once, remove one of the two")
        seen.add(key)
    return tuple(ordered)


def write_results(path: str | Path, rows: Iterable[ResultRow]) -> None:
    """Write ``rows`` to results.csv atomically, sorted. Floats are written so that they are read back bit by bit.

    Raises:
        RunError: two rows of one cell; the file that was there stays.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in sort_rows(rows):
        writer.writerow([_cell(getattr(row, name)) for name in COLUMNS])
    write_atomic(path, out.getvalue())


def read_results(path: str | Path) -> tuple[ResultRow, ...]:
    """Rows of a results.csv, sorted.

    Raises:
        RunError: no file, other columns, a malformed or repeated row; the message names the line.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8", newline="") as f:
            lines = csv.reader(f, strict=True)
            header = next(lines, [])
            _check_header(header, path)
            rows = [_parse(values, path, lines.line_num) for values in lines]
    except FileNotFoundError:
        raise RunError(f"there is no {path.name} in {path.parent}; run the experiment first") from None
    except OSError as e:
        raise RunError(f"cannot read {path}: {e.strerror}") from None
    except UnicodeDecodeError:
        raise RunError(f"{path} is not UTF-8 text; write it again from the run's cells") from None
    except csv.Error as e:
        raise RunError(f"{path} line {lines.line_num}: not valid CSV ({e})") from None
    try:
        return sort_rows(rows)
    except RunError as e:
        raise RunError(f"{path}: {e}") from None


def _check_header(header: Sequence[str], path: Path) -> None:
    if tuple(header) == COLUMNS:
        return
    missing = [c for c in COLUMNS if c not in header]
    unknown = [c for c in header if c not in COLUMNS]
    if missing:
        problem = f"column '{missing[0]}' is missing"
    elif unknown:
        problem = f"unknown column '{unknown[0][:40]}'"
    else:
        problem = "the columns are repeated or in another order"
    raise RunError(f"{path}: {problem}; a results.csv has exactly the columns {', '.join(COLUMNS)}")


def _parse(values: Sequence[str], path: Path, line: int) -> ResultRow:
    if len(values) != len(COLUMNS):
        raise RunError(f"{path} line {line}: {len(values)} values instead of {len(COLUMNS)}")
    data = {name: (None if value == "" else value) for name, value in zip(COLUMNS, values, strict=True)}
    try:
        return ResultRow.model_validate(data)
    except ValidationError as e:
        error = e.errors()[0]
        if not error["loc"]:
            raise RunError(f"{path} line {line}: {error['msg'].removeprefix('Value error, ')}") from None
        column = error["loc"][0]
        raise RunError(f"{path} line {line}: {column} = {str(error['input'])[:40]!r}: {error['msg']}") from None


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value)
