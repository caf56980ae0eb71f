"""The end of a run: what made its results, results.csv and draws.csv, then the table, summary.json and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from emgup_model.evaluation.results import ResultRow, write_results
from emgup_server.ledger import Cell, Ledger
from emgup_simulation.draws import read_draws, write_draws
from emgup_simulation.experiment import Experiment, RunFolder, resolved
from emgup_simulation.report import note_results, read_run_info
from emgup_simulation.report.made import made_by
from emgup_simulation.report_cli import report


def finish(experiment: Experiment, run: RunFolder, cells: Sequence[Cell], ledger: Ledger, console: Console) -> None:
    """Write everything a run leaves behind for people to look at, and print it."""
    write_rows(experiment, run.path, cells, ledger)
    draws, different = read_draws(run.client_home / "vault", cells)
    write_draws(run.draws, draws, read_run_info(run.path).gestures)
    report(run.path, console=console)
    console.print(f"draws    {run.draws}", markup=False, highlight=False, soft_wrap=True)
    if different:
        where = ", ".join(map(str, different[0]))
        console.print(
            f"{len(different)} draws differ between methods ({where}): they are not comparable there; run again with "
            "an empty --out",
            style="red",
            markup=False,
            highlight=False,
        )


def write_rows(experiment: Experiment, folder: Path, cells: Sequence[Cell], ledger: Ledger) -> list[ResultRow]:
    """Write results.csv into ``folder``, after what made it was noted in run.json; returns the rows."""
    rows = ledger.rows(cells)
    note_results(folder, resolved(experiment).model_dump(mode="json"), rows, made_by(ledger.entries(cells)))
    write_results(folder / "results.csv", rows)
    return rows
