"""``python -m emgup_simulation.bare_loop RUN SHARE OF THREADS``: a run's adaptations in a plain loop.

The yardstick of `emgup bench overhead`: the same function on the same cells, nothing saved, nothing sent. As on a
client, cells of one user that differ in their test windows only share one adaptation. Prints one JSON object: wall
seconds of the loop (imports and preparation left out) and each cell's accuracy.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from emgup_model.data.store import Store
from emgup_model.personalize import Adaptation, personalize
from emgup_model.release import load_release
from emgup_model.task import Task
from emgup_simulation.cells import expected_cells
from emgup_simulation.experiment import RunFolder, load_experiment
from emgup_simulation.prepare import prepare


def main(argv: list[str]) -> None:
    """Do every OF-th cell, starting with SHARE."""
    share, of, threads = (int(a) for a in argv[1:])
    torch.set_num_threads(threads)
    run = RunFolder(Path(argv[0]))
    experiment = load_experiment(run.experiment)
    prepared = prepare(experiment, run)
    store = Store(prepared.store)
    users = sorted({c.user for c in expected_cells(experiment, prepared)})[share::of]
    cells = [c for c in expected_cells(experiment, prepared) if c.user in users]
    accuracies = {}
    user, made = "", dict[str, Adaptation]()
    started = time.perf_counter()
    for cell in cells:
        release = load_release(prepared.releases[cell.fold, cell.source_seed], prepared.trusted)
        device = experiment.federation.device
        task = Task(cell.config, cell.protocol, cell.scenario, cell.seed, cell.streaming)
        if cell.user != user:  # a user's cells follow each other
            user, made = cell.user, {}
        done = personalize(store.path(user), release, task, device, made.get, experiment.compute.precision)
        made[done.key] = done.adaptation
        accuracies[cell.key] = done.evaluation.accuracy if done.evaluation else None
    print(json.dumps({"seconds": time.perf_counter() - started, "accuracies": accuracies}))


if __name__ == "__main__":
    main(sys.argv[1:])
