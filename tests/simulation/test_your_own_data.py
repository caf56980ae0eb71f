"""docs/your-own-data.md, followed to the letter: its YAML files and its commands on CSV files as it describes them."""

from __future__ import annotations

import csv
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from emgup_model.config import load_yaml
from emgup_model.data.synthetic import SyntheticConfig, iter_recordings

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "docs" / "your-own-data.md").read_text(encoding="utf-8")
PEOPLE = ("anna", "ben", "cleo", "dora", "emil", "finn")
GESTURES = ("rest", "fist", "point")


def saved_files() -> dict[str, str]:
    """File name -> what the guide says to save as it."""
    found = re.findall(r"[Ss]ave this as `([a-z_]+\.yaml)`.*?```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert [name for name, _ in found] == ["gym.yaml", "gym_table.yaml"]
    return dict(found)


def commands() -> list[list[str]]:
    """The guide's commands, in order."""
    lines = re.findall(r"^ {4}emgup (.*)$", GUIDE, re.MULTILINE)
    assert len(lines) == 3
    return [shlex.split(line) for line in lines]


def make_gym(folder: Path, people: tuple[str, ...], seconds: float, repetitions: int = 1) -> None:
    """CSV files as in section 1 of the guide, with the EMG of synthetic people."""
    config = SyntheticConfig(
        gestures=3, sessions=2, repetitions=repetitions, seconds=seconds, channels=4, sampling_rate_hz=1000
    )
    for number, person in enumerate(people):
        for recording in iter_recordings(config, number):
            gesture = GESTURES[int(np.asarray(recording.label))]
            name = f"{gesture}_{recording.repetition + 1}.csv"
            path = folder / "gym" / person / f"day{recording.session + 1}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [f"{i / 1000:.3f},{','.join(f'{v:.1f}' for v in row)}" for i, row in enumerate(recording.emg)]
            path.write_text("\n".join(["time,ch1,ch2,ch3,ch4", *rows]) + "\n")
    for name, text in saved_files().items():
        (folder / name).write_text(text)


def emgup(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emgup_simulation.cli", *arguments]
    env = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=1200)


def test_the_descriptor_with_its_examples_of_leaving_out_and_grouping(tmp_path: Path) -> None:
    make_gym(tmp_path, ("anna", "anne", "carl"), seconds=0.5)
    (example,) = re.findall(r"For example:\n\n```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "gym.yaml").write_text(saved_files()["gym.yaml"] + example)
    done = emgup(tmp_path, *commands()[0], "expected_users=2")
    assert done.returncode == 0, done.stderr
    assert "6 recordings of carl: wore the armband upside down" in done.stdout
    assert "2 recordings: the cue was late" in done.stdout
    assert "one fold    anna and anne" in done.stdout


@pytest.mark.slow
@pytest.mark.flower
def test_the_guide_leads_from_csv_files_to_a_table(tmp_path: Path) -> None:
    make_gym(tmp_path, PEOPLE, seconds=4, repetitions=2)
    said = ""
    for command in commands():
        done = emgup(tmp_path, *command)
        assert done.returncode == 0, done.stderr[-2000:]
        said = done.stdout
    methods = load_yaml(tmp_path / "gym_table.yaml")["methods"]
    assert all(method in said for method in methods)
    with (tmp_path / "runs/gym/results.csv").open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert {(r["user"], r["method"], r["protocol"]) for r in rows} == {
        (user, method, protocol)
        for user in PEOPLE
        for method in methods
        for protocol in ("transductive", "later_sessions")
    }
    assert {r["status"] for r in rows} == {"ok"}
    assert np.mean([float(r["accuracy"]) for r in rows]) > 1 / len(GESTURES)
    assert (tmp_path / "runs/gym/report.html").is_file()
