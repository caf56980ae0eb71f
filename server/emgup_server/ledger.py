"""The result ledger: one small file per cell, written atomically the moment its reply has been judged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from emgup_model.config import Frozen, canonical_json
from emgup_model.evaluation.protocols import Protocol
from emgup_model.evaluation.results import OK, ResultRow
from emgup_model.evaluation.scenarios import Scenario
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.files import write_atomic
from emgup_model.methods import MethodConfig
from emgup_model.provenance import Origin, origin
from emgup_model.wire import Reply, Status, from_parts

MISSING = "missing"
"""Status of the row of a cell that nobody has answered for."""
COMPLETE = (Status.OK, Status.NOT_APPLICABLE, Status.NOT_EVALUATED)
"""Statuses that running again would not change."""
_IDENTITY = ("dataset", "backbone", "method", "protocol", "scenario", "fold", "user", "source_seed", "seed")


@dataclass(frozen=True)
class Cell:
    """One result to be computed by one client.

    ``key`` is the SHA-256 of everything that determines the result: the same key never means two results.
    ``streaming`` is given for the protocol of that name only.
    """

    dataset: str
    backbone: str
    method: str
    config: MethodConfig
    protocol: Protocol
    scenario: Scenario
    fold: int
    user: str
    seed: int
    release_id: str
    key: str
    streaming: StreamingConfig | None = None
    source_seed: int = 0


class Entry(Frozen):
    """One file of the ledger: the cell's row, and what it means for the next run.

    ``complete``: nothing is left to do. ``failed``: the client answered, or cannot; the next run tries again. ``lost``:
    no answer came, through no fault of the cell that is known; worth another attempt at once. ``origin`` and ``date``
    (UTC) say with what and when it was made.
    """

    key: str
    release_id: str
    state: Literal["complete", "failed", "lost"]
    row: ResultRow
    origin: Origin
    date: str

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "complete"


class Ledger:
    """Entries below one folder, ``<key>.json`` each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._origin = origin()  # asks git: now, and not while clients are waited for

    def record(self, cell: Cell, reply: Reply) -> Entry:
        """Save what a client answered. A complete entry stays as it is: duplicates change nothing."""
        if reply.result is None:
            return self._save(cell, reply.status.name.lower(), {}, "complete" if reply.status in COMPLETE else "failed")
        r = reply.result
        values = {
            "accuracy": from_parts(r.accuracy),
            "macro_f1": from_parts(r.macro_f1),
            "source_accuracy": from_parts(r.source_accuracy),
            "source_macro_f1": from_parts(r.source_macro_f1),
            "n_windows": r.n_windows,
            "adapt_seconds": r.adapt_ms / 1000,
        }
        return self._save(cell, OK, values, "complete")

    def record_failure(self, cell: Cell, status: str, *, lost: bool = False) -> Entry:
        """Save that there is no valid answer, and why."""
        return self._save(cell, status, {}, "lost" if lost else "failed")

    def read(self, key: str) -> Entry | None:
        """The entry of a cell; None when there is none, or an unreadable one (which will be made again)."""
        try:
            return Entry.model_validate_json((self.folder / f"{key}.json").read_bytes())
        except (OSError, ValueError):
            return None

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells that are not complete, in the order given."""
        return [c for c in cells if not ((entry := self.read(c.key)) and entry.complete)]

    def unanswered(self, cells: Iterable[Cell]) -> list[Cell]:
        """The missing cells that nobody has answered for: those without an entry, and those that were lost."""
        return [c for c in self.missing(cells) if not ((entry := self.read(c.key)) and entry.state == "failed")]

    def entries(self, cells: Iterable[Cell]) -> list[Entry]:
        """The entries of those cells that have one."""
        return [entry for c in cells if (entry := self.read(c.key)) is not None]

    def rows(self, cells: Iterable[Cell]) -> list[ResultRow]:
        """One row per cell: the ledger's, or one with the status ``missing``."""
        entries = ((c, self.read(c.key)) for c in cells)
        return [e.row if e else _row(c, MISSING, {}) for c, e in entries]

    def _save(
        self, cell: Cell, status: str, values: Mapping[str, Any], state: Literal["complete", "failed", "lost"]
    ) -> Entry:
        known = self.read(cell.key)
        if known is not None and known.complete:
            return known
        date = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
        row = _row(cell, status, values)
        entry = Entry(key=cell.key, release_id=cell.release_id, state=state, row=row, origin=self._origin, date=date)
        write_atomic(self.folder / f"{cell.key}.json", canonical_json(entry) + b"\n")
        return entry


def _row(cell: Cell, status: str, values: Mapping[str, Any]) -> ResultRow:
    none = {"accuracy": None, "macro_f1": None, "source_accuracy": None, "source_macro_f1": None}
    return ResultRow.model_validate(
        {
            **none,
            "n_windows": 0,
            "adapt_seconds": 0.0,
            **values,
            **{name: getattr(cell, name) for name in _IDENTITY},
            "status": status,
        }
    )
