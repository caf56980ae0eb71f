"""The ServerApp of a simulation: prepare, ask the clients for every missing cell, write the results."""

from __future__ import annotations

import logging
import os
import sys

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from emgup_model.errors import RunError
from emgup_model.lock import exclusive
from emgup_server.dispatch import Tally, dispatch
from emgup_server.exchange import Limits
from emgup_server.ledger import Ledger
from emgup_server.transcript import TranscriptGrid
from emgup_simulation.cells import expected_cells
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.finish import finish
from emgup_simulation.prepare import prepare
from emgup_simulation.report import write_run_info
from emgup_simulation.run_config import AGAIN, COMMAND, read_run_config

LOCK_WAIT_S = 30.0

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point named by simulation/pyproject.toml."""
    _log_to_stdout()
    experiment, run = read_run_config(context.run_config)
    serve(grid, experiment, run)


def serve(grid: Grid, experiment: Experiment, run: RunFolder, limits: Limits | None = None) -> Tally:
    """Do what is missing of an experiment and write its results.

    Some failed cells leave the run completed: they are in the ledger and the results with their status, and the next
    run tries them again.

    Raises:
        RunError: no client at all gave a result that was still needed, or every worker died; the results of what
            there is are written first.
    """
    log = logging.getLogger(__name__)
    limits = limits or Limits(reply_timeout_s=experiment.federation.reply_timeout_s)
    run.path.mkdir(parents=True, exist_ok=True)
    with exclusive(run.path / ".server.lock", run.busy, LOCK_WAIT_S):
        log.info("run folder %s", run.path)
        console = Console(width=100)
        prepared = prepare(experiment, run, console)
        write_run_info(run.path, os.environ.get(COMMAND, "flwr run simulation"), experiment.federation.device)
        cells = expected_cells(experiment, prepared)
        ledger = Ledger(run.cells)
        missing = ledger.unanswered(cells) if AGAIN in os.environ else ledger.missing(cells)
        log.info("%d of %d cells to do", len(missing), len(cells))
        folders = {c.release_id: prepared.releases[c.fold] for c in cells}
        tally = Tally(0, {})
        try:
            if missing:
                tally = dispatch(TranscriptGrid(grid, run.transcript), missing, folders, ledger, limits)
        finally:
            finish(run, cells, console)
        log.info(
            "%d cells done, %d failed %s; results in %s",
            tally.complete,
            sum(tally.failed.values()),
            dict(tally.failed),
            run.results,
        )
        if missing and not tally.complete:
            raise RunError(f"no client gave a result: {dict(tally.failed)}")
    return tally


def _log_to_stdout() -> None:
    """Our own messages and nobody else's into the run's log, which Flower makes of what the ServerApp prints."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("emgup: %(message)s"))
    for name in ("emgup_server", "emgup_simulation"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
