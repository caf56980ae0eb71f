"""The end of a run: results.csv from the ledger's rows, then the printed table, summary.json and report.html."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from emgup_model.evaluation.results import ResultRow, write_results
from emgup_simulation.experiment import RunFolder
from emgup_simulation.report_cli import report


def finish(run: RunFolder, rows: Sequence[ResultRow], console: Console) -> None:
    """Write everything a run leaves behind for people to look at, and print it."""
    write_results(run.results, rows)
    report(run.path, console=console)
