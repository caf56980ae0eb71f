"""Train several source models at the same time, one process each, with a progress bar; what is finished is kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from emgup_model.errors import RunError
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.progress import progress_bar
from emgup_simulation.source_models import FoldSeed, log_file, progress_file


def train_folds(experiment: Experiment, run: RunFolder, releases: dict[FoldSeed, Path], console: Console) -> None:
    """Train what is in ``releases`` ((fold, source seed) → release folder to make), in that order.

    Raises:
        RunError: a worker failed; the others are ended, and what they finished is kept for the next run.
    """
    run.pretrain.mkdir(parents=True, exist_ok=True)
    waiting = list(releases)
    running: dict[FoldSeed, subprocess.Popen[str]] = {}
    finished: set[FoldSeed] = set()
    epochs = experiment.pretrain.epochs
    for trained in waiting:
        progress_file(run, trained).unlink(missing_ok=True)
    with progress_bar(console) as bar:
        task = bar.add_task("source training, epochs", total=epochs * len(releases), note="")
        try:
            while waiting or running:
                while waiting and len(running) < experiment.federation.pretrain_processes:
                    trained = waiting.pop(0)
                    running[trained] = _start(run, trained, releases[trained])
                time.sleep(0.2)
                for trained in [t for t, p in running.items() if p.poll() is not None]:
                    process = running.pop(trained)
                    if process.returncode:
                        raise RunError(_why(run, trained, process))
                    finished.add(trained)
                done, best = 0, []
                for trained in releases:
                    epoch, accuracy = _progress(run, trained)
                    done += epochs if trained in finished else epoch
                    best += [accuracy] if accuracy is not None else []
                note = f"validation accuracy {sum(best) / len(best):.3f}" if best else ""
                bar.update(task, completed=done, note=note)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _start(run: RunFolder, trained: FoldSeed, release: Path) -> subprocess.Popen[str]:
    log = log_file(run, trained).open("w")
    command = [sys.executable, "-m", "emgup_simulation.fold_worker", str(run.path), *map(str, trained), str(release)]
    command += [str(run.config)] if run.config else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def _progress(run: RunFolder, trained: FoldSeed) -> tuple[int, float | None]:
    try:
        epoch, _, accuracy = json.loads(progress_file(run, trained).read_text())
    except (OSError, ValueError):
        return 0, None
    return int(epoch), float(accuracy)


def _why(run: RunFolder, trained: FoldSeed, process: subprocess.Popen[str]) -> str:
    log = log_file(run, trained)
    lines = log.read_text().strip().splitlines()
    reason = lines[-1] if lines else f"ended by signal {-process.returncode}"
    return f"training fold {trained[0]} with source seed {trained[1]} failed: {reason} (whole output: {log})"
