"""`emgup bench import`: how fast a dataset is imported, and in how much memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.discovery import discover
from emgup_model.data.store import Store
from emgup_model.errors import RunError
from emgup_model.files import write_atomic

# On Linux in KiB, on macOS in bytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Measured:
    """One import in a process of its own."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def bench_import(dataset: str, raw: Path, overrides: Sequence[str], out: Path, console: Console) -> None:
    """Import ``raw`` into a temporary store beside ``out``, print rate and peak memory, and write ``out`` (JSON).

    Raises:
        DataError: the files are not the dataset's.
        RunError: the import failed.
    """
    users = discover(load_descriptor(dataset, overrides), raw, partial=True).users
    sizes = [sum(f.path.stat().st_size for f in files) for files in users.values()]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        measured = _measure(dataset, raw, Path(folder) / "store", overrides)
        store = Store(Path(folder) / "store")
        signal = [_signal_bytes(store, user) for user in store.users]
        stored = sum(store.path(user).stat().st_size for user in store.users)
    read = sum(sizes)
    result = {
        "users": len(users),
        "recordings": sum(len(files) for files in users.values()),
        "read_mib": read / 2**20,
        "largest_user_signal_mib": max(user for user, _ in signal) / 2**20,
        "largest_recording_signal_mib": max(recording for _, recording in signal) / 2**20,
        "stored_mib": stored / 2**20,
        "seconds": measured.seconds,
        "cpu_seconds": measured.cpu_seconds,
        "peak_mib": measured.peak_bytes / 2**20,
        "read_mib_per_cpu_second": read / 2**20 / measured.cpu_seconds,
    }
    write_atomic(out, json.dumps(result, indent=1) + "\n")
    table = Table("measured", "value")
    for name, value in result.items():
        table.add_row(
            name.replace("_mib", ", MiB").replace("_", " "), f"{value:,.1f}" if value % 1 else f"{value:,.0f}"
        )
    console.print(table)
    console.print(f"written: {out}", soft_wrap=True, highlight=False)


def _signal_bytes(store: Store, user: str) -> tuple[int, int]:
    """Bytes of a user's samples, uncompressed, and of the longest recording."""
    with store.open(user) as file:
        lengths = [r.n_samples for r in file.recordings]
        frame = file.read(file.recordings[0].name)[:1].nbytes
    return sum(lengths) * frame, max(lengths) * frame


def _measure(dataset: str, raw: Path, store: Path, overrides: Sequence[str]) -> Measured:
    began = time.monotonic()
    command = [sys.executable, "-m", "emgup_simulation.cli", "data", "import", "--dataset", dataset, "--partial"]
    process = subprocess.Popen(
        [*command, "--raw", str(raw), "--out", str(store), *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RunError(f"the import failed: {(said.strip().splitlines() or ['no message'])[-1]}")
    return Measured(time.monotonic() - began, used.ru_utime + used.ru_stime, used.ru_maxrss * _RSS_UNIT)
