"""What made a results.csv: the experiment, and for every cell the code and libraries. Kept in RUN/run.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import Field

from emgup_model.config import Frozen, digest
from emgup_model.evaluation.results import ResultRow, sort_rows
from emgup_model.provenance import Origin
from emgup_server.ledger import Entry
from emgup_simulation.report import text


class Made(Frozen):
    """Complete cells of one origin, with the dates (UTC) of the first and the last."""

    origin: Origin
    cells: int = Field(ge=1)
    first: str
    last: str


class Results(Frozen):
    """What made the results.csv with these rows."""

    rows_sha256: str
    experiment: dict[str, Any]
    made_by: tuple[Made, ...]


def rows_sha256(rows: Iterable[ResultRow]) -> str:
    """SHA-256 (hex) of result rows, whatever their order."""
    return digest([row.model_dump(mode="json") for row in sort_rows(rows)])


def made_by(entries: Iterable[Entry]) -> tuple[Made, ...]:
    """The complete cells among ``entries`` by origin, the one that made most of them first."""
    dates: dict[Origin, list[str]] = {}
    for entry in entries:
        if entry.complete:
            dates.setdefault(entry.origin, []).append(entry.date)
    made = [Made(origin=o, cells=len(found), first=min(found), last=max(found)) for o, found in dates.items()]
    return tuple(sorted(made, key=lambda m: (-m.cells, m.first)))


def made_lines(made: Sequence[Made]) -> list[str]:
    """One line for each origin: how many cells, commit, code, libraries, dates."""
    return [f"{text.plural(m.cells, 'cell')}: {_origin(m.origin)}, {_dates(m)}" for m in made]


def _origin(origin: Origin) -> str:
    commit = f"commit {origin.commit}" if origin.commit else "no commit known"
    changes = " with uncommitted changes" if origin.uncommitted else ""
    return f"{commit}{changes}, code {origin.code[:12]}, torch {origin.torch}, numpy {origin.numpy}"


def _dates(made: Made) -> str:
    return f"{made.first} UTC" if made.first == made.last else f"{made.first} to {made.last} UTC"
