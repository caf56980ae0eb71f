"""`emgup bench overhead`: what federation costs on top of a plain loop doing the same adaptations, in one run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from emgup_model.errors import RunError
from emgup_model.files import write_atomic
from emgup_server.transcript import read_transcript
from emgup_simulation.experiment import Experiment, RunFolder
from emgup_simulation.memory import PeakMemory
from emgup_simulation.prepare import prepare

LIMIT = 1.25


@dataclass(frozen=True)
class Measured:
    """Wall seconds, peak memory of all processes together in bytes, and each cell's accuracy."""

    seconds: float
    peak_bytes: int
    accuracies: dict[str, float | None]


def overhead(experiment: Experiment, run: RunFolder, console: Console) -> None:
    """Measure a bare loop, bare loops side by side, and the federation; print a table and write overhead.json.

    The federation's wall time is from the moment the clients hold their releases (Flower, Ray and the imports of its
    workers have started by then) to the last reply.

    Raises:
        RunError: a run failed, or the federation computed other numbers than the loop.
    """
    work = _work_folder(run)
    prepare(experiment, work, console)
    cores = experiment.federation.supernodes
    total = os.cpu_count() or 1
    console.print(f"bare loop, 1 process with {total} threads")
    bare = _bare(work, 1, total)
    console.print(f"bare loops side by side, {cores} processes with 1 thread each")
    side = _bare(work, cores, 1)
    console.print(f"federation, {cores} clients with 1 thread each")
    federated = _federated(experiment, work, console)
    differing = sum(abs((federated.accuracies.get(k) or -1) - (a or -1)) > 1e-6 for k, a in bare.accuracies.items())
    rows = {"bare loop": bare, "bare loops side by side": side, "federation": federated}
    result = {
        "cells": len(bare.accuracies),
        "cells_with_another_accuracy": differing,
        "federation_over_bare_loop": federated.seconds / bare.seconds,
        "federation_over_side_by_side": federated.seconds / side.seconds,
        "seconds": {k: m.seconds for k, m in rows.items()},
        "peak_mib": {k: m.peak_bytes / 2**20 for k, m in rows.items()},
    }
    path = run.path / "overhead.json"
    write_atomic(path, json.dumps(result, indent=1) + "\n")
    _print(result, rows, console)
    console.print(f"written: {path}", soft_wrap=True, highlight=False)


MADE_BEFORE = ("releases", "server", "cohort", "folds.json")
"""What a run folder holds before its federation starts."""


def _copy_prepared(source: RunFolder, to: RunFolder) -> None:
    to.path.mkdir(parents=True, exist_ok=True)
    for part in MADE_BEFORE:
        path = source.path / part
        if path.is_dir():
            shutil.copytree(path, to.path / part, dirs_exist_ok=True)
        elif path.exists():
            shutil.copy(path, to.path / part)


def _work_folder(run: RunFolder) -> RunFolder:
    """A folder of the benchmark's own below ``run``; the run's releases are used, its results stay as they are."""
    work = RunFolder(run.path / "overhead")
    _copy_prepared(run, work)
    return work


def _print(result: dict[str, object], rows: dict[str, Measured], console: Console) -> None:
    table = Table(title=f"{result['cells']} cells; {result['cells_with_another_accuracy']} with another accuracy")
    for name in ("", "wall s", "peak MiB", "federation / this"):
        table.add_column(name, justify="left" if not name else "right")
    for name, m in rows.items():
        ratio = f"{rows['federation'].seconds / m.seconds:.2f}"
        table.add_row(name, f"{m.seconds:.1f}", f"{m.peak_bytes / 2**20:.0f}", ratio)
    console.print(table)


def _bare(run: RunFolder, processes: int, threads: int) -> Measured:
    command = [sys.executable, "-m", "emgup_simulation.bare_loop", str(run.path)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with PeakMemory() as memory:
        started = [
            subprocess.Popen(
                [*command, str(i), str(processes), str(threads)], stdout=subprocess.PIPE, text=True, env=environment
            )
            for i in range(processes)
        ]
        outputs = [p.communicate()[0] for p in started]
    if any(p.returncode for p in started):
        raise RunError("the bare loop failed; its error is above")
    parts = [json.loads(o) for o in outputs]
    accuracies = {k: v for part in parts for k, v in part["accuracies"].items()}
    return Measured(max(p["seconds"] for p in parts), memory.peak_bytes, accuracies)


def _federated(experiment: Experiment, run: RunFolder, console: Console) -> Measured:
    from emgup_simulation.simulate import simulate

    fresh = RunFolder(run.path / "federated")
    shutil.rmtree(fresh.path, ignore_errors=True)
    _copy_prepared(run, fresh)
    with PeakMemory() as memory:
        status = simulate(experiment, fresh, console)
    if status:
        raise RunError(f"the federated run failed; see {fresh.path}")
    received = read_transcript(fresh.transcript)
    train = [m["received"] for m in received if str(m["metadata"]["message_type"]).startswith("train")]
    ready = [m["received"] for m in received if str(m["metadata"]["message_type"]).startswith("query")]
    entries = [json.loads(p.read_text()) for p in fresh.cells.glob("*.json")]
    accuracies = {e["key"]: e["row"]["accuracy"] for e in entries}
    return Measured(max(train) - max(ready), memory.peak_bytes, accuracies)
