"""`emgup bench latency`: from the last sample of a window to the decision, on one CPU core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from emgup_model.errors import RunError
from emgup_model.files import write_atomic

LIMIT_MS = 10.0
DEVICES = {"200 Hz × 8": (200, 8, 52), "2 kHz × 16": (2000, 16, 520)}
"""Sampling rate (Hz), channels, window (samples; 260 ms)."""


def latency(decisions: int, out: Path, console: Console) -> bool:
    """Measure every device in a process of its own; print a table and write ``out``.

    Returns:
        Whether the 99th percentile of wall time is below 10 ms for all of them.

    Raises:
        RunError: a measurement failed.
    """
    table = Table("device", "time", "p50, ms", "p95", "p99", "largest", title=f"{decisions} decisions, cnn, one core")
    rows: list[dict[str, Any]] = []
    for device, facts in DEVICES.items():
        measured = _measure(*facts, decisions)
        rows.append({"device": device, "decisions": decisions, **measured})
        for kind in ("wall", "cpu"):
            table.add_row(device, kind, *(f"{v:.2f}" for v in measured[kind].values()))
    within = all(row["wall"]["p99_ms"] < LIMIT_MS for row in rows)
    write_atomic(out, json.dumps({"limit_ms": LIMIT_MS, "within": within, "rows": rows}, indent=1) + "\n")
    console.print(table)
    console.print(f"p99 of wall time {'below' if within else 'NOT below'} {LIMIT_MS:g} ms on every device")
    console.print(f"written: {out}", soft_wrap=True, highlight=False)
    return within


def _measure(rate: int, channels: int, window: int, decisions: int) -> dict[str, dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-m", "emgup_simulation.latency_worker", *map(str, (rate, channels, window, decisions))],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        raise RunError(f"measuring {rate} Hz × {channels} failed: {last}")
    return dict(json.loads(done.stdout))
