"""Train several folds at the same time, one process each, with a progress bar; what is finished is kept."""

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
from emgup_simulation.fold_worker import progress_file
from emgup_simulation.progress import progress_bar


def train_folds(experiment: Experiment, run: RunFolder, releases: dict[int, Path], console: Console) -> None:
    """Train the folds in ``releases`` (fold → release folder to make).

    Raises:
        RunError: a worker failed; the others are ended, and what they finished is kept for the next run.
    """
    run.pretrain.mkdir(parents=True, exist_ok=True)
    waiting = sorted(releases)
    running: dict[int, subprocess.Popen[str]] = {}
    finished: set[int] = set()
    epochs = experiment.pretrain.epochs
    for fold in waiting:
        progress_file(run, fold).unlink(missing_ok=True)
    with progress_bar(console) as bar:
        task = bar.add_task("source training, epochs", total=epochs * len(releases), note="")
        try:
            while waiting or running:
                while waiting and len(running) < experiment.federation.pretrain_processes:
                    fold = waiting.pop(0)
                    running[fold] = _start(run, fold, releases[fold])
                time.sleep(0.2)
                for fold in [f for f, p in running.items() if p.poll() is not None]:
                    process = running.pop(fold)
                    if process.returncode:
                        raise RunError(_why(run, fold, process))
                    finished.add(fold)
                done, best = 0, []
                for fold in releases:
                    epoch, accuracy = _progress(run, fold)
                    done += epochs if fold in finished else epoch
                    best += [accuracy] if accuracy is not None else []
                note = f"validation accuracy {sum(best) / len(best):.3f}" if best else ""
                bar.update(task, completed=done, note=note)
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()


def _start(run: RunFolder, fold: int, release: Path) -> subprocess.Popen[str]:
    log = (run.pretrain / f"fold_{fold:02d}.log").open("w")
    command = [sys.executable, "-m", "emgup_simulation.fold_worker", str(run.path), str(fold), str(release)]
    command += [str(run.config)] if run.config else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=log, stderr=log, text=True, env=environment)


def _progress(run: RunFolder, fold: int) -> tuple[int, float | None]:
    try:
        epoch, _, accuracy = json.loads(progress_file(run, fold).read_text())
    except (OSError, ValueError):
        return 0, None
    return int(epoch), float(accuracy)


def _why(run: RunFolder, fold: int, process: subprocess.Popen[str]) -> str:
    log = run.pretrain / f"fold_{fold:02d}.log"
    lines = log.read_text().strip().splitlines()
    reason = lines[-1] if lines else f"ended by signal {-process.returncode}"
    return f"training fold {fold} failed: {reason} (whole output: {log})"
