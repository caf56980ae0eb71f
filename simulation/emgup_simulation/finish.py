"""The end of a run: results.csv, summary.json and report.html from the ledger's rows."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.evaluation.results import ResultRow, write_results
from emgup_simulation.experiment import Experiment, RunFolder


def finish(experiment: Experiment, run: RunFolder, rows: Sequence[ResultRow]) -> None:
    """Write everything a run leaves behind for people to look at."""
    write_results(run.results, rows)
