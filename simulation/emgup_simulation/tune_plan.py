"""What `emgup tune` is to do, and where it keeps what it did."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from emgup_model.errors import ConfigError
from emgup_model.evaluation.disturbance import Disturbance
from emgup_model.files import write_atomic
from emgup_server.ledger import Cell, Ledger


@dataclass(frozen=True)
class TuneFolder:
    """RUN/tune, or RUN/tune_… with planted difficulty."""

    path: Path

    @classmethod
    def of(cls, run: Path, disturbance: Disturbance) -> TuneFolder:
        """The folder for a tuning of ``run`` with this disturbance."""
        return cls(run / "_".join(filter(None, ("tune", disturbance.label))))

    @property
    def disturbance(self) -> Path:
        """What is planted."""
        return self.path / "disturbance.yaml"

    @property
    def experiment(self) -> Path:
        """Resolved config; that of the run's own results stays as it is."""
        return self.path / "experiment.yaml"

    @property
    def ledger(self) -> Ledger:
        """One file per finished cell."""
        return Ledger(self.path / "cells")

    @property
    def jobs(self) -> Path:
        """Locked byte by byte: byte n by the worker that does job n."""
        return self.path / ".jobs.lock"

    @property
    def results(self) -> Path:
        """One row per cell."""
        return self.path / "results.csv"

    @property
    def choice(self) -> Path:
        """The ranking."""
        return self.path / "choice.md"

    @property
    def users(self) -> Path:
        """The users that were used, one per line."""
        return self.path / "users.txt"

    def log(self, worker: int) -> Path:
        """What a worker printed."""
        return self.path / f"worker_{worker}.log"

    def note_decision(self, cell: Cell, decision: str) -> None:
        """Save the method's decision about a user, before the cell is recorded."""
        write_atomic(self._decision(cell), json.dumps(decision) + "\n")

    def decision(self, cell: Cell) -> str | None:
        """What was noted for a cell; None where the method takes no such decision."""
        try:
            return str(json.loads(self._decision(cell).read_text()))
        except (OSError, ValueError):
            return None

    def _decision(self, cell: Cell) -> Path:
        return self.path / "decisions" / f"{cell.key}.json"


def parse_folds(text: str | None, count: int) -> tuple[int, ...]:
    """Fold numbers from ``0,1,2``; the first half of ``count`` folds without a text.

    Raises:
        ConfigError: not numbers, or a fold that does not exist.
    """
    if text is None:
        return tuple(range(count // 2))
    try:
        folds = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"folds '{text[:80]}': give numbers separated by commas, such as 0,1,2") from None
    for fold in folds:
        if not 0 <= fold < count:
            raise ConfigError(f"fold {fold} does not exist; the experiment has the folds 0 to {count - 1}")
    return tuple(folds)


def split_jobs(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that are done together, one after the other: those that may share an adaptation.

    They differ in their protocol only. Streaming adapts in its own way and is a job of its own.
    """
    jobs: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        seeds = (cell.source_seed, cell.seed)
        same = (cell.fold, cell.user, cell.method, cell.scenario, seeds, cell.streaming is None)
        jobs.setdefault(same, []).append(cell)
    return list(jobs.values())
