"""Every shipped layout becomes a store."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from emgup_model.config import configs_dir
from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.importers import import_dataset
from emgup_model.data.labels import read_labels
from emgup_model.data.store import Store
from emgup_model.errors import DataError
from tests.model.data.raw_sets import contents, imported, make_emg2pose, make_myo, signal, write_csv


def test_every_shipped_descriptor_is_valid() -> None:
    names = sorted(p.stem for p in (configs_dir() / "datasets").glob("*.yaml"))
    assert set(names) >= {
        "3dc",
        "ciil_electrode_shift",
        "contraction_intensity",
        "emg2pose",
        "emg2pose_29",
        "myo_armband",
    }
    for name in names:
        descriptor = load_descriptor(name)
        assert descriptor.name == name
        assert descriptor.downloads


def test_myo_armband(tmp_path: Path) -> None:
    make_myo(tmp_path / "raw")
    summary = imported("myo_armband", tmp_path / "raw", tmp_path / "out")
    assert summary.imported == ("evaluation_female0", "evaluation_male11", "pretraining_female0")
    assert summary.recordings == 28 * 7
    assert len(summary.ignored) == 3
    store = Store(tmp_path / "out")
    with store.open("evaluation_female0") as file:
        assert (file.info.sampling_rate_hz, file.info.channels, file.info.unit) == (200.0, 8, "adc")
        assert file.info.attributes == {"sex": "female"}
        assert file.info.group == ""
    assert store.infos["evaluation_male11"].group == "myo_pair_male10_male11"
    found = contents(store.path("evaluation_female0"))
    expected = [
        (session, index // 7, round(index * 12 / 200, 9), index % 7, signal(1, session, index))
        for session in range(3)
        for index in range(28)
    ]
    for got, want in zip(found, expected, strict=True):
        assert got[:4] == want[:4]
        np.testing.assert_array_equal(got[4], want[4])
        assert got[4].dtype == np.int16


def test_myo_armband_drops_the_copies(tmp_path: Path) -> None:
    make_myo(tmp_path / "raw", ("PreTraining/Female7", "PreTraining/Female6", "PreTraining/Male7"))
    summary = imported("myo_armband", tmp_path / "raw", tmp_path / "out")
    assert Store(tmp_path / "out").users == ("pretraining_female6", "pretraining_male7")
    (dropped,) = summary.dropped
    assert (dropped.recordings, dropped.users) == (28, ("pretraining_female7",))
    assert "byte-identical" in dropped.reason
    kept = imported("myo_armband", tmp_path / "raw", tmp_path / "all", "drop=[]")
    assert len(kept.imported) == 3


def test_recording_names_do_not_tell_the_gesture(tmp_path: Path) -> None:
    make_myo(tmp_path / "raw", ["PreTraining/Female0"])
    imported("myo_armband", tmp_path / "raw", tmp_path / "out")
    with Store(tmp_path / "out").open("pretraining_female0") as file:
        assert [r.name for r in file.recordings] == [f"s00_{i:04d}" for i in range(28)]


def test_3dc(tmp_path: Path) -> None:
    for participant in (1, 10):
        for session in ("train", "test"):
            for repetition in range(2):
                for gesture in range(11):
                    samples = 5 if (repetition, gesture) == (0, 3) else 12
                    write_csv(
                        tmp_path / f"raw/Participant{participant}/{session}/EMG"
                        f"/3dc_EMG_gesture_{repetition}_{gesture}.txt",
                        signal(participant, session == "test", repetition, gesture, samples=samples, channels=10) * 300,
                    )
            write_csv(tmp_path / f"raw/Participant{participant}/{session}/IMU/3dc_IMU_gesture_0_0.txt", np.ones((3, 9)))
    summary = imported("3dc", tmp_path / "raw", tmp_path / "out")
    assert summary.imported == ("participant01", "participant10")
    assert len(summary.ignored) == 4
    found = contents(tmp_path / "out/participant10.h5")
    assert [f[:2] + f[3:4] for f in found] == [(s, r, g) for s in range(2) for r in range(2) for g in range(11)]
    np.testing.assert_array_equal(found[13][4], signal(10, 0, 1, 2, channels=10) * 300)
    short = found[3]
    assert len(short[4]) == 5
    assert found[4][2] == round(short[2] + 5 / 1000, 9)


def test_ciil_electrode_shift(tmp_path: Path) -> None:
    for subject in (0, 20):
        for s, session in enumerate(["training", "trial_1", "trial_4"]):
            for repetition in range(2):
                for gesture in range(5):
                    name = f"ElectrodeShift/subject{subject}/{session}/R_{repetition}_C_{gesture}.csv"
                    write_csv(tmp_path / "raw/CIILData" / name, signal(subject, s, repetition, gesture))
    write_csv(tmp_path / "raw/CIILData/MinimalTrainingData/subject0/train/R_0_C_0.csv", signal(9))
    imported("ciil_electrode_shift", tmp_path / "raw", tmp_path / "out")
    store = Store(tmp_path / "out")
    assert store.users == ("subject00", "subject20")
    assert store.infos["subject00"].gestures == ("close", "open", "rest", "flexion", "extension")
    found = contents(store.path("subject20"))
    assert [f[0] for f in found[::10]] == [0, 1, 4]
    np.testing.assert_array_equal(found[-1][4], signal(20, 2, 1, 4))


def test_contraction_intensity(tmp_path: Path) -> None:
    levels = ["20P", "80P", "Ramp", "Light", "MVC"]
    for subject in (1, 10):
        for i, level in enumerate(levels):
            for gesture in range(1, 8):
                for repetition in (1, 2):
                    name = f"S{subject}/S{subject}_{level}_C{gesture}_R{repetition}.csv"
                    write_csv(tmp_path / "raw" / name, signal(subject, i, gesture, repetition) / 1e4)
    write_csv(tmp_path / "raw/S1/S10_20P_C1_R1.csv", signal(1))
    summary = imported("contraction_intensity", tmp_path / "raw", tmp_path / "out")
    assert summary.ignored == ("S1/S10_20P_C1_R1.csv",)
    found = contents(tmp_path / "out/s10.h5")
    assert [f[0] for f in found[::14]] == [0, 1, 7, 8, 9]
    assert [f[1] for f in found[:14]] == [0] * 7 + [1] * 7
    assert [f[3] for f in found[:7]] == list(range(7))
    np.testing.assert_array_equal(found[0][4], (signal(10, 2, 1, 1) / 1e4).astype(np.float32))


def test_emg2pose_17_classes(tmp_path: Path) -> None:
    make_emg2pose(tmp_path / "raw")
    summary = imported("emg2pose", tmp_path / "raw", tmp_path / "out")
    assert summary.imported == ("u1", "u2")
    assert {(d.reason, d.recordings) for d in summary.dropped} == {
        ("listed in metadata.csv but not in the folder", 1),
        ("recording of the hand that rests", 1),
        ("gesture not among the classes", 1),
    }
    names = load_descriptor("emg2pose").gestures
    assert len(names) == 17
    found = [(s, r, t, names[g]) for s, r, t, g, _ in contents(tmp_path / "out/u1.h5")]
    assert found == [
        (0, 0, 0.0, "count_wiggle"),  # both hands at once: two repetitions
        (0, 1, 0.0, "count_wiggle"),
        (0, 0, 100.5, "wrist_flex"),
        (1, 0, 0.0, "count_wiggle"),  # sessions are numbered by when they began, not by name
    ]
    np.testing.assert_array_equal(contents(tmp_path / "out/u1.h5")[2][4], signal(3, samples=40, channels=16))


def test_emg2pose_29_classes_and_mirroring(tmp_path: Path) -> None:
    make_emg2pose(tmp_path / "raw")
    imported("emg2pose_29", tmp_path / "raw", tmp_path / "out", "table.side.mirror=left")
    names = load_descriptor("emg2pose_29").gestures
    assert len(names) == len(load_descriptor("emg2pose_29").gesture_codes) == 29
    found = contents(tmp_path / "out/u1.h5")
    assert [names[f[3]] for f in found] == ["wiggling_1", "wiggling_1", "wrist_flex", "object_1", "counting_1"]
    np.testing.assert_array_equal(found[0][4], signal(0, samples=40, channels=16)[:, ::-1])
    np.testing.assert_array_equal(found[1][4], signal(1, samples=40, channels=16))


def test_the_table_may_lie_one_folder_down_as_an_archive_has_it(tmp_path: Path) -> None:
    make_emg2pose(tmp_path / "raw/emg2pose_dataset")
    (tmp_path / "raw/other").mkdir()
    assert imported("emg2pose", tmp_path / "raw", tmp_path / "out").imported == ("u1", "u2")
    make_emg2pose(tmp_path / "raw/emg2pose_dataset_mini")
    with pytest.raises(DataError, match=r"has several metadata\.csv, such as .*_dataset/.* and .*_mini/"):
        imported("emg2pose", tmp_path / "raw", tmp_path / "out")


def test_the_official_emg2pose_sample_imports(tmp_path: Path, real_data: Path) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    shutil.copyfile(real_data / "emg2pose_format/test_data.hdf5", raw / "test_data.hdf5")
    with h5py.File(raw / "test_data.hdf5") as file:
        attrs = dict(file["emg2pose"].attrs)
    columns = ("user", "session", "stage", "side", "start")
    (raw / "metadata.csv").write_text(
        f"filename,moving_hand,{','.join(columns)}\ntest_data,both,{','.join(str(attrs[c]) for c in columns)}\n"
    )
    imported("emg2pose", raw, tmp_path / "out")
    (found,) = contents(tmp_path / f"out/{attrs['user']}.h5")
    assert load_descriptor("emg2pose").gestures[found[3]] == "pointing"
    assert found[4].shape == (100, 16)


def test_raw_files_are_left_alone(tmp_path: Path) -> None:
    make_myo(tmp_path / "raw", ["PreTraining/Female0"])
    for folder, _, files in os.walk(tmp_path / "raw"):
        for file in files:
            (Path(folder) / file).chmod(0o444)
    before = sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "raw").rglob("*"))
    imported("myo_armband", tmp_path / "raw", tmp_path / "out")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in (tmp_path / "raw").rglob("*")) == before


def test_the_real_myo_set_gives_37_users(tmp_path: Path, real_data: Path) -> None:
    summary = import_dataset(load_descriptor("myo_armband"), real_data / "myo_armband", tmp_path / "store")
    assert (len(summary.imported), summary.recordings) == (37, 2044)
    store = Store(tmp_path / "store")
    groups = [info.fold_group for info in store.infos.values()]
    assert len(set(groups)) == 36
    assert store.infos["pretraining_male10"].fold_group == store.infos["evaluation_male11"].fold_group
    labels = read_labels(store.path("evaluation_male3"))
    with store.open("evaluation_male3") as file:
        assert [r.session for r in file.recordings] == [0] * 28 + [1] * 28 + [2] * 28
        raw = (real_data / "myo_armband/EvaluationDataset/Male3/Test1/classe_9.dat").read_bytes()
        tenth = file.recordings[56 + 9]
        assert (tenth.repetition, labels[tenth.name]) == (1, 2)
        assert file.read(tenth.name).tobytes() == raw
