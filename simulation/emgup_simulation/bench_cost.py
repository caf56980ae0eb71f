"""`emgup bench cost`: CPU seconds and memory of one user's adaptation, over the length of the recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from emgup_model.errors import ConfigError, RunError
from emgup_model.files import write_atomic
from emgup_model.methods import load_method
from emgup_simulation.cost_worker import RECORDING_S


def cost(methods: Sequence[str], seconds: Sequence[int], out: Path, console: Console) -> None:
    """Measure every method at every length, each in a process of its own; print a table and write ``out``.

    Raises:
        ConfigError: an unknown method, or a length shorter than one recording.
        RunError: a measurement failed.
    """
    for method in methods:
        load_method(method)
    if min(seconds) < RECORDING_S:
        raise ConfigError(f"--seconds must be at least {RECORDING_S}")
    table = Table("method", "recording, s", "windows", "CPU s", "CPU s / recording s", "peak MiB")
    rows = []
    for method in methods:
        for length in seconds:
            row = {"method": method, "seconds": length, **_measure(method, length)}
            rows.append(row)
            cpu = row["cpu_seconds"]
            table.add_row(
                method, str(length), str(row["windows"]), f"{cpu:.2f}", f"{cpu / length:.3f}", f"{row['peak_mib']:.0f}"
            )
    write_atomic(out, json.dumps(rows, indent=1) + "\n")
    console.print(table)
    console.print(f"written: {out}", soft_wrap=True, highlight=False)


def _measure(method: str, seconds: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "emgup_simulation.cost_worker", method, str(seconds)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        raise RunError(f"measuring {method} on {seconds} s failed: {last}")
    return dict(json.loads(done.stdout))
