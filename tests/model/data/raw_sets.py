"""Small raw data sets in the layouts of the public ones, and what an import made of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.importers import ImportSummary, import_dataset
from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile

ROWS = [
    # filename, user, session, stage, side, moving hand, start
    ("a_left", "u1", "2022-b", "FingerWigglingSpreading", "left", "both", 1000.0),
    ("a_right", "u1", "2022-b", "FingerWigglingSpreading", "right", "both", 1000.0),
    ("b_right", "u1", "2022-b", "WristFlexionAbduction", "right", "left", 1100.5),
    ("b_left", "u1", "2022-b", "WristFlexionAbduction", "left", "left", 1100.5),
    ("c_left", "u1", "2022-a", "CoffeePanicPete", "left", "", 1200.0),
    ("d_left", "u1", "2022-a", "CountingUpDownFaceSideAway_both", "left", "both", 1300.25),
    ("e_left", "u2", "2023", "PokePinchCloseFar", "left", "both", 50.0),
    ("gone_left", "u2", "2023", "PokePinchCloseFar", "left", "both", 60.0),
]


def signal(*key: int, samples: int = 12, channels: int = 8) -> np.ndarray:
    """Samples that tell which file they came from."""
    return np.random.default_rng(key).integers(-100, 100, (samples, channels))


def write_csv(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(",".join(str(v) for v in row) for row in values) + "\n")


def write_raw(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(values.astype("<i2").tobytes())


def make_myo(
    root: Path, parts: Iterable[str] = ("PreTraining/Female0", "Evaluation/Female0", "Evaluation/Male11")
) -> None:
    for p, part in enumerate(parts):
        folder, person = part.split("/")
        for s, session in enumerate(["training0", "Test0", "Test1"][: 1 if folder == "PreTraining" else 3]):
            for index in range(28):
                write_raw(root / f"{folder}Dataset/{person}/{session}/classe_{index}.dat", signal(p, s, index))
        (root / f"{folder}Dataset/{person}/experiment.csv").write_text("Sex,F\n")


def imported(name: str, raw: Path, out: Path, *overrides: str, **options: Any) -> ImportSummary:
    return import_dataset(load_descriptor(name, overrides), raw, out, **({"partial": True} | options))


def contents(path: Path) -> list[tuple[int, int, float, int, np.ndarray]]:
    """(session, repetition, start, gesture, samples) of each recording, in order."""
    labels = read_labels(path)
    with UserFile(path) as file:
        return [
            (r.session, r.repetition, round(r.start_s, 9), int(labels[r.name]), file.read(r.name))
            for r in file.recordings
        ]


def make_emg2pose(root: Path, rows: Iterable[tuple[object, ...]] = ROWS) -> None:
    root.mkdir(parents=True)
    lines = ["filename,user,session,stage,side,moving_hand,start,end,split"]
    for i, row in enumerate(rows):
        lines.append(",".join(str(v) for v in (*row, 0, "train")))
        series = np.zeros(40, dtype=[("time", "f8"), ("joint_angles", "f8", (20,)), ("emg", "f4", (16,))])
        series["emg"] = signal(i, samples=40, channels=16)
        if not str(row[0]).startswith("gone"):
            with h5py.File(root / f"{row[0]}.hdf5", "w") as file:
                file["emg2pose/timeseries"] = series
                file["emg2pose"].attrs["sample_rate"] = 2000.0
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
