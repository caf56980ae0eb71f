"""`emgup simulate`: prepare, run the federation until nothing is missing, show what came out."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from emgup_model.lock import exclusive
from emgup_server.ledger import Cell, Ledger
from emgup_simulation.cells import expected_cells
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.finish import finish
from emgup_simulation.launch import Outcome, launch
from emgup_simulation.prepare import check_inputs, prepare
from emgup_simulation.progress import progress_bar
from emgup_simulation.run_config import AGAIN, COMMAND
from emgup_simulation.signals import sigterm_unwinds
from emgup_simulation.watch import Watch, print_problems, show


def simulate(experiment: Experiment, run: RunFolder, console: Console) -> int:
    """Compute every missing cell of an experiment through Flower; print the table and the files made.

    Whatever stops it (Ctrl-C, SIGTERM, SIGKILL), no process stays behind, and the next call goes on from there.

    Returns:
        Exit status: 0 when every cell has its result, 1 when cells failed or the ServerApp did, 130 after Ctrl-C.

    Raises:
        EmgupError: the experiment cannot be prepared, Flower does not start, or the run folder is in use.
    """
    check_inputs(experiment, run)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_unwinds(), exclusive(run.path / ".driver.lock", run.busy):
            prepared = prepare(experiment, run, console)
            cells = expected_cells(experiment, prepared)
            ledger = Ledger(run.cells)
            outcome = _federate(experiment, run, cells, ledger, console)
            finish(run, cells, console)
            return _verdict(cells, ledger, outcome, run, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 128 + signal.SIGINT


def _federate(
    experiment: Experiment, run: RunFolder, cells: Sequence[Cell], ledger: Ledger, console: Console
) -> Outcome | None:
    """Start the runtime as often as it takes, within the experiment's limit; returns how the last one ended."""
    outcome = None
    for attempt in range(1, experiment.federation.attempts + 1):
        watch = Watch(cells, ledger)
        if not watch.open:
            break
        if attempt > 1:
            left = len(ledger.unanswered(cells))
            console.print(f"attempt {attempt}: {left} cells were lost ({_short(outcome)})", markup=False)
        outcome = _attempt(experiment, run, watch, console, again=attempt > 1)
        if not watch.changed or not ledger.unanswered(cells):
            break
    return outcome


def _attempt(experiment: Experiment, run: RunFolder, watch: Watch, console: Console, again: bool) -> Outcome:
    federation = experiment.federation
    before = _stamp(run.results)  # writing the results is the last thing a ServerApp does
    with progress_bar(console) as bar:
        task = bar.add_task("personalizing, cells", total=len(watch.cells), note="starting Flower and Ray")
        return launch(
            run_config={"experiment": str(run.experiment), "overrides": "", "out": str(run.path)},
            federation_config={
                "num-supernodes": federation.supernodes,
                "client-resources-num-cpus": federation.cpus_per_client,
                "client-resources-num-gpus": federation.gpus_per_client,
            },
            log=run.path / "runtime.log",
            variables={COMMAND: shlex.join(["emgup", *sys.argv[1:]])} | ({AGAIN: "1"} if again else {}),
            finished=lambda: _stamp(run.results) != before,
            tick=lambda: show(watch, bar, task),
        )


def _verdict(cells: Sequence[Cell], ledger: Ledger, outcome: Outcome | None, run: RunFolder, console: Console) -> int:
    missing = ledger.missing(cells)
    failed = outcome is not None and outcome.failed
    if not missing and not failed:
        return 0
    if missing:
        print_problems(cells, ledger, console)
    if outcome is not None and not outcome.completed:
        console.print(f"Flower: {_short(outcome)}", style="red", markup=False, highlight=False)
    console.print(f"the runtime's log is {run.path / 'runtime.log'}, the clients' {run.client_home / 'client.log'}")
    return 1


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _short(outcome: Outcome | None) -> str:
    if outcome is None:
        return "not started"
    details = " ".join(outcome.details.split())[:300]
    return f"{outcome.status}: {details}" if details and details != "N/A" else outcome.status
