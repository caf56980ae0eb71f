"""The end of a run: results.csv and draws.csv, then the printed table, summary.json and report.html."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from emgup_model.evaluation.results import write_results
from emgup_server.ledger import Cell, Ledger
from emgup_simulation.draws import read_draws, write_draws
from emgup_simulation.experiment import RunFolder
from emgup_simulation.report import read_run_info
from emgup_simulation.report_cli import report


def finish(run: RunFolder, cells: Sequence[Cell], console: Console) -> None:
    """Write everything a run leaves behind for people to look at, and print it."""
    write_results(run.results, Ledger(run.cells).rows(cells))
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
