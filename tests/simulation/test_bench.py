from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from emgup_model import personalize as personalization
from emgup_model.data.store import write_user
from emgup_model.errors import ConfigError
from emgup_model.methods import EmgupConfig, load_method
from emgup_server.ledger import Ledger
from emgup_simulation import bare_loop
from emgup_simulation.bench import overhead
from emgup_simulation.bench_cost import cost
from emgup_simulation.bench_latency import latency
from emgup_simulation.client_app import app
from emgup_simulation.cost_worker import all_the_way
from emgup_simulation.experiment import RunFolder
from emgup_simulation.local import LocalGrid
from emgup_simulation.memory import PeakMemory
from emgup_simulation.prepare import prepare
from emgup_simulation.server_app import serve
from tests.federation import FAST, make_sessions_store, make_toy
from tests.toy import toy_experiment, toy_info, toy_recordings


def test_the_bare_loop_shares_adaptations_as_a_client_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sessions_store(tmp_path / "store")
    toy = make_toy(tmp_path, protocols=["transductive", "later_sessions", "inductive"], pretrain={"seeds": [0, 1]})
    adapted: list[object] = []
    real = personalization.adapt
    monkeypatch.setattr(personalization, "adapt", lambda *task: (adapted.append(task), real(*task))[1])
    bare_loop.main([str(toy.run.path), "0", "1", "1"])
    accuracies = json.loads(capsys.readouterr().out)["accuracies"]
    assert len(adapted) == 2 * 2 * 2 * 4  # source seeds, methods, different adaptations, users
    serve(LocalGrid(app, 2, toy.run_config), toy.experiment, toy.run, FAST)
    ledger = Ledger(toy.run.cells)
    rows = {c.key: row.accuracy for c, row in zip(toy.cells, ledger.rows(toy.cells), strict=True)}
    assert rows == pytest.approx(accuracies, abs=1e-6)


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


def test_cost_is_measured_per_method_and_length(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "cost.json"
    cost(["adabn"], [5, 10], out, Console(quiet=True))
    rows = json.loads(out.read_text())
    assert [(r["method"], r["seconds"], r["windows"]) for r in rows] == [("adabn", 5, 48), ("adabn", 10, 96)]
    assert all(r["cpu_seconds"] > 0 and r["peak_mib"] > 50 for r in rows)
    with pytest.raises(ConfigError, match="at least 5"):
        cost(["adabn"], [3], out, Console(quiet=True))


def test_latency_is_measured_for_both_devices(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "latency.json"
    within = latency(100, out, Console(quiet=True))
    result = json.loads(out.read_text())
    assert result["within"] == within == all(r["wall"]["p99_ms"] < 10 for r in result["rows"])
    assert [r["device"] for r in result["rows"]] == ["200 Hz × 8", "2 kHz × 16"]
    assert all(0 < r[k]["p50_ms"] <= r[k]["p99_ms"] <= r[k]["max_ms"] for r in result["rows"] for k in ("wall", "cpu"))


def test_the_cost_of_emgup_is_that_of_both_stages() -> None:
    config = load_method("emgup")
    assert isinstance(config, EmgupConfig)
    changed = all_the_way(config)
    assert isinstance(changed, EmgupConfig)
    assert changed.safety is not None
    assert changed.safety.seen_probability == 0
    assert all_the_way(load_method("tent")) == load_method("tent")
