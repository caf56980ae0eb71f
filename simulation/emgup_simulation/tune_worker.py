"""``python -m emgup_simulation.tune_worker RUN TUNE FOLD …``: do what is missing of a tuning, beside other workers.

It is told folds, never users: whom it evaluates is the folds' validation users. All workers walk over the same list of
jobs; a job is taken by locking its byte of one file, which the kernel frees when a worker dies. A worker ends when its
standard input closes, which the kernel does when the driver dies in whatever way.
"""

from __future__ import annotations

import fcntl
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from emgup_client.app import reply_of
from emgup_client.exporter import status_of
from emgup_model.config import load_yaml, parse
from emgup_model.data.store import Store
from emgup_model.errors import EmgupError
from emgup_model.evaluation.disturbance import Disturbance
from emgup_model.personalize import Adaptation, Personalization, personalize
from emgup_model.release import Release, load_release
from emgup_model.task import Task
from emgup_model.wire import Reply
from emgup_server.ledger import Cell
from emgup_simulation.cells import validation_cells
from emgup_simulation.experiment import Experiment, RunFolder, load_experiment
from emgup_simulation.prepare import Prepared, prepared_before
from emgup_simulation.tune_plan import TuneFolder, split_jobs


def work(experiment: Experiment, prepared: Prepared, folder: TuneFolder, disturbance: Disturbance) -> None:
    """Do every job that nobody else does, and that has a cell without an answer."""
    ledger, store = folder.ledger, Store(prepared.store)
    with folder.jobs.open("w") as lock:
        for number, job in enumerate(split_jobs(validation_cells(experiment, prepared))):
            if not ledger.unanswered(job) or not _taken(lock.fileno(), number):
                continue
            release = load_release(prepared.releases[job[0].fold, job[0].source_seed], prepared.trusted)
            made: dict[str, Adaptation] = {}
            for cell in ledger.unanswered(job):
                ledger.record(
                    cell, _answer(cell, store.path(cell.user), release, experiment, made, folder, disturbance)
                )


def _taken(lock: int, number: int) -> bool:
    """Whether the job is now this process's, until it ends; a job that another one finished is found answered."""
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, number)
    except OSError:
        return False
    return True


def _answer(
    cell: Cell,
    user: Path,
    release: Release,
    experiment: Experiment,
    made: dict[str, Adaptation],
    folder: TuneFolder,
    disturbance: Disturbance,
) -> Reply:
    """What a client would reply; a failure's traceback goes to the worker's log."""
    task = Task(cell.config, cell.protocol, cell.scenario, cell.seed, cell.streaming, disturbance)
    try:
        device, precision = experiment.federation.device, experiment.compute.precision
        done = personalize(user, release, task, device, made.get, precision)
    except Exception as error:
        place = f"{cell.protocol}, {cell.scenario}, source seed {cell.source_seed}, seed {cell.seed}"
        print(f"user {cell.user}, {cell.method}, {place}:", file=sys.stderr)
        traceback.print_exception(error)
        return Reply(status=status_of(error))
    made[done.key] = done.adaptation
    _note_decision(cell, done, folder)
    return reply_of(done)


def _note_decision(cell: Cell, done: Personalization, folder: TuneFolder) -> None:
    if isinstance(decision := done.adaptation.log.get("decision"), str):
        folder.note_decision(cell, decision)


def _end_with(stream: int) -> None:
    """End this process, whatever it is doing, as soon as ``stream`` closes."""

    def wait() -> None:
        while os.read(stream, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def main(argv: Sequence[str]) -> int:
    """Entry point; an error the user can fix is one line on stderr."""
    _end_with(sys.stdin.fileno())
    torch.set_num_threads(1)
    run = RunFolder(Path(argv[0]))
    folder = TuneFolder(run.path / argv[1])
    try:
        experiment = load_experiment(folder.experiment)
        prepared = prepared_before(experiment, replace(run, config=folder.experiment), [int(f) for f in argv[2:]])
        work(experiment, prepared, folder, parse(Disturbance, load_yaml(folder.disturbance), str(folder.disturbance)))
    except EmgupError as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
