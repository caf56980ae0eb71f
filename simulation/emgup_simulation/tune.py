"""`emgup tune`: every method of an experiment on validation users of its source side, and a ranking of them."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from emgup_model.config import dump_yaml
from emgup_model.errors import RunError
from emgup_model.evaluation.disturbance import UNDISTURBED, Disturbance
from emgup_model.evaluation.statistics import summarise
from emgup_model.files import write_atomic
from emgup_model.lock import exclusive
from emgup_server.ledger import MISSING, Cell
from emgup_simulation.cells import validation_cells
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.finish import write_rows
from emgup_simulation.prepare import check_inputs, prepare
from emgup_simulation.progress import progress_bar
from emgup_simulation.report import print_table, read_run_info, write_run_info
from emgup_simulation.report.choice import to_choice
from emgup_simulation.same_run import check_same
from emgup_simulation.signals import sigterm_unwinds
from emgup_simulation.tune_plan import TuneFolder, split_jobs
from emgup_simulation.watch import Watch, print_problems, show

POLL_S = 0.2


def tune(
    experiment: Experiment,
    run: RunFolder,
    folds: Sequence[int],
    console: Console,
    disturbance: Disturbance = UNDISTURBED,
    replace_results: bool = False,
) -> int:
    """Evaluate all methods on the validation users of ``folds``, each with that fold's release, and rank them.

    Test users have no part in it: of a user who is in no train or validation set of these folds, the header of the file
    is read to make the split, and nothing else. Whatever stops it, no process stays behind, and the next call goes on
    from there. ``replace_results`` accepts a folder that holds the results of another experiment or of other folds.

    Returns:
        Exit status: 0 when every cell has its result, 1 when cells failed, 130 after Ctrl-C.

    Raises:
        EmgupError: the experiment cannot be prepared, a worker died, or the run folder is in use.
    """
    folder = TuneFolder.of(run.path, disturbance)
    experiment = experiment.model_copy(update={"only_folds": tuple(sorted(folds))})
    run = replace(run, config=folder.experiment)
    check_inputs(experiment, run, folds)
    run.path.mkdir(parents=True, exist_ok=True)
    try:
        with sigterm_unwinds(), exclusive(run.path / ".driver.lock", run.busy):
            check_same(experiment, folder.path, replace_results)
            prepared = prepare(experiment, run, console, folds)
            write_atomic(folder.disturbance, dump_yaml(disturbance))
            write_run_info(folder.path, shlex.join(["emgup", *sys.argv[1:]]), experiment.federation.device)
            cells = validation_cells(experiment, prepared)
            if not cells:
                raise RunError("no validation user of these folds has recordings for the experiment's protocols")
            _evaluate(experiment, run, folds, cells, folder, console)
            _finish(experiment, cells, folder, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return 128 + signal.SIGINT
    if not folder.ledger.missing(cells):
        return 0
    print_problems(cells, folder.ledger, console)
    console.print(f"the reasons are in {folder.log(0).parent / 'worker_*.log'}", markup=False, soft_wrap=True)
    return 1


def _evaluate(
    experiment: Experiment,
    run: RunFolder,
    folds: Sequence[int],
    cells: Sequence[Cell],
    folder: TuneFolder,
    console: Console,
) -> None:
    """Let workers do the missing cells; those that failed in an earlier call are tried again, once."""
    ledger = folder.ledger
    missing = ledger.missing(cells)
    for cell in missing:
        if ledger.read(cell.key) is not None:
            ledger.record_failure(cell, MISSING, lost=True)
    count = min(experiment.federation.pretrain_processes, len(split_jobs(missing)))
    watch = Watch(cells, ledger)
    workers: list[subprocess.Popen[bytes]] = []
    with progress_bar(console) as bar:
        task = bar.add_task("validation users, cells", total=len(cells), completed=len(cells) - len(missing), note="")
        try:
            workers += [_start(run, folds, folder, i) for i in range(count)]
            while _busy(workers, folder):
                time.sleep(POLL_S)
                show(watch, bar, task)
        finally:
            _end(workers)


def _start(run: RunFolder, folds: Sequence[int], folder: TuneFolder, number: int) -> subprocess.Popen[bytes]:
    """A worker in a session of its own: Ctrl-C reaches the driver only, which then ends the workers."""
    command = [sys.executable, "-m", "emgup_simulation.tune_worker", str(run.path), folder.path.name, *map(str, folds)]
    with folder.log(number).open("w") as log:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _busy(workers: Sequence[subprocess.Popen[bytes]], folder: TuneFolder) -> bool:
    """Whether a worker goes on. Raises RunError when one died."""
    for i, worker in enumerate(workers):
        if worker.poll():
            raise RunError(_why(folder, i, worker))
    return any(worker.poll() is None for worker in workers)


def _end(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.wait()
        if worker.stdin:
            worker.stdin.close()


def _why(folder: TuneFolder, number: int, worker: subprocess.Popen[bytes]) -> str:
    lines = folder.log(number).read_text(errors="replace").strip().splitlines()
    reason = lines[-1] if lines and worker.returncode > 0 else f"ended by signal {-worker.returncode}"
    return f"a worker of the tuning failed: {reason} (whole output: {folder.log(number)})"


def _finish(experiment: Experiment, cells: Sequence[Cell], folder: TuneFolder, console: Console) -> None:
    """Write results.csv, choice.md and users.txt; print the table and their names."""
    rows = write_rows(experiment, folder.path, cells, folder.ledger)
    summary = summarise(rows)
    decided = [(row, d) for cell, row in zip(cells, rows, strict=True) if row.ok and (d := folder.decision(cell))]
    write_atomic(folder.users, "".join(f"{user}\n" for user in sorted({c.user for c in cells})))
    write_atomic(folder.choice, to_choice(experiment, rows, summary, decided, read_run_info(folder.path, rows)))
    print_table(rows, console, summary)
    for name, path in (("table", folder.results), ("users", folder.users), ("choice", folder.choice)):
        console.print(f"{name:9}{path}", markup=False, highlight=False, soft_wrap=True)
