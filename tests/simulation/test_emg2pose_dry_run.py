"""What would be done with the real emg2pose, on generated files: generate, import, inspect, one cell of Table 1."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from emgup_simulation.experiment import load_experiment


@pytest.mark.parametrize("experiment", ["table1_emg2pose", "table1_private"])
@pytest.mark.parametrize("backbone", ["vemg2pose", "neuropose"])
def test_every_cell_of_table_1_is_one_command(experiment: str, backbone: str) -> None:
    config = load_experiment(experiment, [f"backbone={backbone}"])
    assert config.backbone.kind == backbone
    config.backbone.check(config.windows.length, 16, 2000.0)
    assert config.windows.length >= 2000
    assert {"source_only", "emgup_paper"} <= set(config.methods)
    text = (Path(__file__).resolve().parents[2] / f"configs/experiments/{experiment}.yaml").read_text()
    assert f"backbone={backbone} --out runs/{experiment}_{backbone}" in text


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "emgup_simulation.cli", *arguments]
    env = {**os.environ, "COLUMNS": "120", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.flower
def test_from_generated_files_to_a_table(tmp_path: Path) -> None:
    stages = "stages=[FingerAbductionSeries, GraspPunchCloseFar, WristFlexionAbduction]"
    run(tmp_path, "data", "generate-emg2pose", "--out", "raw", "users=3", "sessions=1", "seconds=4", stages)
    run(
        tmp_path,
        *("data", "import", "--dataset", "emg2pose", "--raw", "raw", "--out", "data/emg2pose", "--partial"),
        "table.side.mirror=left",
    )
    assert "16 channels in a ring, 2000 Hz, uV" in run(tmp_path, "data", "inspect", "data/emg2pose")
    said = run(
        tmp_path,
        *("simulate", "table1_emg2pose", "backbone=vemg2pose", "backbone.width=32", "backbone.block_channels=8"),
        *("windows.hop=300", "windows.sequence_length=5", "folds.count=3", "pretrain.epochs=1"),
        *("methods=[source_only,emgup_paper]", "methods.emgup_paper.ssa.epochs=1", "methods.emgup_paper.ssp.epochs=1"),
    )
    assert "emgup_paper" in said
    with (tmp_path / "runs/table1_emg2pose/results.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == 3 * 2
    assert {(r["dataset"], r["backbone"], r["status"]) for r in rows} == {("emg2pose", "vemg2pose", "ok")}
