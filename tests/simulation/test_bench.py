from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from emgup_model.data.store import write_user
from emgup_simulation.bench import overhead
from emgup_simulation.experiment import RunFolder
from emgup_simulation.memory import PeakMemory
from emgup_simulation.prepare import prepare
from tests.toy import toy_experiment, toy_info, toy_recordings


@pytest.mark.slow
@pytest.mark.flower
def test_the_benchmark_compares_the_same_numbers_and_leaves_the_run_alone(tmp_path: Path) -> None:
    for i in range(4):
        write_user(tmp_path / "store" / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i))
    experiment, run = toy_experiment(tmp_path / "store"), RunFolder(tmp_path / "run")
    prepare(experiment, run)
    before = {p: p.read_bytes() for p in run.path.rglob("*") if p.is_file()}
    overhead(experiment, run, Console(quiet=True))
    result = json.loads((run.path / "overhead.json").read_text())
    assert result["cells"] == 16
    assert result["cells_with_another_accuracy"] == 0
    assert min(result["seconds"].values()) > 0
    assert min(result["peak_mib"].values()) > 50
    assert {p: p.read_bytes() for p in before} == before


def test_peak_memory_sees_child_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    import sys

    monkeypatch.setattr("emgup_simulation.memory.EVERY_S", 0.05)
    script = "import time; x = bytearray(80 * 2**20); time.sleep(1)"
    with PeakMemory() as memory:
        subprocess.run([sys.executable, "-c", script], check=True)
    assert 80 * 2**20 < memory.peak_bytes < 400 * 2**20
