"""`emgup bench backbones`: source training of each backbone against a bare PyTorch loop over the same network."""

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

from emgup_model.compute import ComputeConfig, resolve_device
from emgup_model.errors import RunError
from emgup_model.files import write_atomic
from emgup_simulation.model_cli import read_backbone

TIMES = 2
"""Each loop runs this often, in turns; its fastest time and its largest memory count."""


def backbones(
    names: Sequence[str], batch: int, steps: int, device: str, compute: ComputeConfig, out: Path, console: Console
) -> None:
    """Measure every backbone, each loop in processes of its own; print a table and write ``out``.

    Raises:
        ConfigError: an unknown backbone or device.
        RunError: a measurement failed.
    """
    for name in names:
        read_backbone(name, [])
    resolve_device(device)
    table = Table("backbone", "window", "ms / window, bare", "ms / window", "ratio", "MiB, bare", "MiB", "ratio")
    rows = []
    for name in names:
        _, shape = read_backbone(name, [])
        spec = {"backbone": name, "overrides": [], "batch": batch, "steps": steps, "device": device}
        row = {"backbone": name, "shape": shape.model_dump(), "batch": batch, **_compared(spec, compute)}
        rows.append(row)
        bare, ours = row["bare"], row["project"]
        table.add_row(
            name,
            f"{shape.channels} x {shape.window}",
            f"{bare['ms_per_window']:.3f}",
            f"{ours['ms_per_window']:.3f}",
            f"{ours['ms_per_window'] / bare['ms_per_window']:.2f}",
            f"{bare['peak_mib']:.0f}",
            f"{ours['peak_mib']:.0f}",
            f"{ours['peak_mib'] / bare['peak_mib']:.2f}",
        )
    write_atomic(out, json.dumps({"device": device, "compute": compute.model_dump(), "rows": rows}, indent=1) + "\n")
    console.print(table)
    console.print(f"written: {out}", soft_wrap=True, highlight=False)


def _compared(spec: dict[str, Any], compute: ComputeConfig) -> dict[str, dict[str, float]]:
    """Both loops in turns; the bare one has the precision, but neither micro-batches nor compilation."""
    bare = ComputeConfig(precision=compute.precision)
    settings = {"bare": bare, "project": compute}
    found: dict[str, list[dict[str, float]]] = {"bare": [], "project": []}
    for _ in range(TIMES):
        for loop, here in settings.items():
            found[loop].append(_measure(spec | {"loop": loop, "compute": here.model_dump()}))
    return {
        loop: {
            "ms_per_window": min(r["ms_per_window"] for r in runs),
            "peak_mib": max(r["peak_mib"] for r in runs),
        }
        for loop, runs in found.items()
    }


def _measure(spec: dict[str, Any]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "emgup_simulation.backbone_worker", json.dumps(spec)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"signal {-done.returncode}"])[-1]
        raise RunError(f"measuring {spec['backbone']} ({spec['loop']}) failed: {last}")
    return dict(json.loads(done.stdout))
