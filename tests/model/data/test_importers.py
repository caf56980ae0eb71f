from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emgup_model.config import configs_dir
from emgup_model.data import importers
from emgup_model.data.descriptor import load_descriptor
from emgup_model.data.importers import ImportSummary, import_dataset
from emgup_model.data.labels import read_labels
from emgup_model.data.recording import UserInfo
from emgup_model.data.store import Recording, Store, UserFile, write_user
from emgup_model.errors import ConfigError, DataError


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


LABELLED = """
name: streams
title: A label for every sample
sampling_rate_hz: 100
channels: 2
unit: uV
ring: false
gestures: [rest, fist]
gesture_codes: {"0": rest, "3": fist, hold: fist}
unlisted_gestures: drop
expected_users: 1
pattern: (?P<user>[a-z]+)/(?P<repetition>[0-9]+)\\.csv
reader: {kind: csv, columns: [0, 1], label_column: 2}
"""


def labelled(tmp_path: Path, labels: Iterable[object], **changes: str) -> Path:
    text = LABELLED
    for before, after in changes.items():
        text = text.replace(
            {"codes": 'gesture_codes: {"0": rest, "3": fist, hold: fist}', "drop": "drop"}[before], after
        )
    (tmp_path / "streams.yaml").write_text(text)
    path = tmp_path / "raw/ann/0.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(f"{i},{-i},{label}" for i, label in enumerate(labels)))
    return tmp_path / "streams.yaml"


class TestLabelColumn:
    def test_a_gesture_for_every_sample(self, tmp_path: Path) -> None:
        labels = [0, 0, " 3.0", "3.000e+00", "hold", 0]
        imported(str(labelled(tmp_path, labels)), tmp_path / "raw", tmp_path / "out")
        found = read_labels(tmp_path / "out/ann.h5")
        np.testing.assert_array_equal(found["s00_0000"], [0, 0, 1, 1, 1, 0])
        with UserFile(tmp_path / "out/ann.h5") as file:
            np.testing.assert_array_equal(file.read("s00_0000"), [[i, -i] for i in range(6)])

    def test_unlisted_gestures_are_cut_out(self, tmp_path: Path) -> None:
        imported(str(labelled(tmp_path, [9, 0, 0, 9, 9, 3, "", 0])), tmp_path / "raw", tmp_path / "out")
        labels = read_labels(tmp_path / "out/ann.h5")
        with UserFile(tmp_path / "out/ann.h5") as file:
            found = [(round(r.start_s, 9), labels[r.name].tolist(), file.read(r.name)[:, 0].tolist())  # type: ignore[union-attr]
                     for r in file.recordings]  # fmt: skip
        assert found == [(0.01, [0, 0], [1, 2]), (0.05, [1], [5]), (0.07, [0], [7])]

    def test_other_codes_import_again(self, tmp_path: Path) -> None:
        descriptor = str(labelled(tmp_path, [0, 3]))
        imported(descriptor, tmp_path / "raw", tmp_path / "out")
        assert imported(descriptor, tmp_path / "raw", tmp_path / "out").imported == ()
        swapped = 'gesture_codes={"0": fist, "3": rest}'
        assert imported(descriptor, tmp_path / "raw", tmp_path / "out", swapped).imported == ("ann",)
        np.testing.assert_array_equal(read_labels(tmp_path / "out/ann.h5")["s00_0000"], [1, 0])

    @pytest.mark.parametrize(
        ("labels", "changes", "message"),
        [
            ([0, 9], {"drop": "error"}, r"0\.csv line 2: gesture '9' is not in gesture_codes of streams"),
            ([0, 2], {"codes": ""}, r"0\.csv line 2: gesture 2 is not one of the 2 gestures"),
            ([0, "wave"], {"codes": ""}, r"line 2: gesture 'wave' is neither one of the gestures nor a number"),
            ([9, 9], {}, "has no recordings"),
        ],
    )
    def test_what_is_refused(
        self, tmp_path: Path, labels: list[object], changes: dict[str, str], message: str
    ) -> None:  # fmt: skip
        with pytest.raises(DataError, match=message):
            imported(str(labelled(tmp_path, labels, **changes)), tmp_path / "raw", tmp_path / "out")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("reader.columns=null", "list the channels in columns"),
            ("reader.label_column=1", "list the channels in columns, without that one"),
            ("reader.label_column=7", "line 1: 3 columns; label_column is 7, counted from 0"),
            ("pattern='(?P<user>[a-z]+)/(?P<gesture>0).csv'", "the path gives the gesture, and label_column too"),
        ],
    )
    def test_a_bad_reader(self, tmp_path: Path, override: str, message: str) -> None:
        descriptor = str(labelled(tmp_path, [0, 3]))
        with pytest.raises((ConfigError, DataError), match=message):
            imported(descriptor, tmp_path / "raw", tmp_path / "out", override)


class TestErrors:
    """Each ends in one line, with nothing written."""

    def fails(self, raw: Path, out: Path, message: str, *overrides: str, partial: bool = True) -> None:
        with pytest.raises((DataError, ConfigError), match=message) as e:
            imported("myo_armband", raw, out, *overrides, partial=partial)
        assert "\n" not in str(e.value)
        assert not out.exists() or not list(out.iterdir())

    def test_missing_folder(self, tmp_path: Path) -> None:
        self.fails(tmp_path / "nowhere", tmp_path / "out", "no folder at .*nowhere; give --raw")

    def test_no_match_shows_the_pattern_and_a_file(self, tmp_path: Path) -> None:
        write_csv(tmp_path / "raw/some/file.csv", signal(0))
        self.fails(tmp_path / "raw", tmp_path / "out", r"matches the pattern \(\?P<part>.*for example some/file\.csv")
        (tmp_path / "empty").mkdir()
        self.fails(tmp_path / "empty", tmp_path / "out", "it holds no files")

    def test_cut_off_file(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        file = tmp_path / "raw/PreTrainingDataset/Female0/training0/classe_5.dat"
        file.write_bytes(file.read_bytes()[:-1])
        self.fails(tmp_path / "raw", tmp_path / "out", r"classe_5\.dat: 191 bytes is not a whole number of frames")

    def test_too_few_users(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        self.fails(tmp_path / "raw", tmp_path / "out", "gives 1 users, myo_armband should have 37", partial=False)

    def test_grouped_user_missing(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["Evaluation/Male11"])
        self.fails(
            tmp_path / "raw", tmp_path / "out", "names the user 'pretraining_male10'", "expected_users=1", partial=False
        )

    def test_unknown_session(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["Evaluation/Male1"])
        self.fails(
            tmp_path / "raw", tmp_path / "out", "session 'Test0' is not in the sessions map", "sessions={training0: 0}"
        )

    def test_gesture_out_of_range(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["Evaluation/Male1"])
        self.fails(tmp_path / "raw", tmp_path / "out", "gesture 7 is not one of the 7", "index={by: 8, gesture: mod}")

    def test_two_copies_of_the_dataset(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        make_myo(tmp_path / "raw/copy", ["PreTraining/Female0"])
        self.fails(tmp_path / "raw", tmp_path / "out", "are both session 0, repetition 0, gesture 0")

    def test_users_that_differ_only_in_case(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        make_emg2pose(raw, [("a", "Anna", "s", "PokePinchCloseFar", "left", "both", 0.0)])
        table = raw / "metadata.csv"
        table.write_text(table.read_text() + "a,anna,s,PokePinchCloseFar,left,both,5.0,0,train\n")
        with pytest.raises(DataError, match="users 'Anna' and 'anna' differ only in case"):
            imported("emg2pose", raw, tmp_path / "out")

    def test_everything_dropped(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female7"])
        self.fails(tmp_path / "raw", tmp_path / "out", "every recording in .* is dropped")

    def test_nan_in_a_raw_file(self, tmp_path: Path) -> None:
        path = tmp_path / "raw/PreTrainingDataset/Female0/training0/classe_0.dat"
        path.parent.mkdir(parents=True)
        path.write_bytes(np.array([[1] * 7 + [np.nan]], "<f4").tobytes())
        self.fails(tmp_path / "raw", tmp_path / "out", r"classe_0\.dat' holds NaN", "reader.dtype=float32")

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("pattern='(?P<user>'", "not a regular expression"),
            ("pattern='(?P<person>x)'", "the pattern has no named group 'index'"),
            ("user='{nobody}'", "the pattern has no named group 'nobody'"),
            ("user='{part.__class__}'", "only plain names in braces"),
            ("channnels=8", "unknown key 'channnels'"),
            ("reader.kind=wav", "reader"),
            ("gesture_codes={a: nothing}", "names 'nothing', which is not in gestures"),
            ("drop=[{reason: because}]", "give either users or pattern"),
            ("groups={a: [x], b: [x]}", "a user is in two groups"),
            ("table={file: a, path: b, columns: {user: u, gesture: g}}", "either pattern or table"),
        ],
    )
    def test_a_bad_descriptor(self, tmp_path: Path, override: str, message: str) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        self.fails(tmp_path / "raw", tmp_path / "out", message, override)

    def test_emg2pose_table(self, tmp_path: Path) -> None:
        raw = tmp_path / "raw"
        make_emg2pose(raw)
        table = raw / "metadata.csv"
        good = table.read_text()
        for text, message in (
            (good.replace("moving_hand", "hand"), "has no column 'moving_hand'; its columns are end, filename, hand"),
            (good.replace("a_left", "../a_left"), r"line 2: \.\./a_left\.hdf5 points outside"),
            (good.replace("a_left,u1", "a_left"), "line 2: fewer cells than the header"),
            (good.replace("1000.0", "noon"), "start 'noon' is not a number"),
            (good.replace("u1", "u/1"), "user 'u/1' is not usable as a name"),
            ("filename,user\n", "has no column"),
        ):
            table.write_text(text)
            with pytest.raises(DataError, match=message):
                imported("emg2pose", raw, tmp_path / "out")
        table.unlink()
        with pytest.raises(DataError, match=r"no metadata\.csv in"):
            imported("emg2pose", raw, tmp_path / "out")
        assert not (tmp_path / "out").exists()


class TestResuming:
    def test_a_second_import_does_only_what_changed(self, tmp_path: Path) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        imported("myo_armband", raw, out)
        before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")}
        again = imported("myo_armband", raw, out)
        assert (again.imported, len(again.skipped), again.recordings) == ((), 3, 196)
        assert {p.name: p.stat().st_mtime_ns for p in out.glob("*.h5")} == before

        write_raw(raw / "PreTrainingDataset/Female0/training0/classe_3.dat", signal(99))
        assert imported("myo_armband", raw, out).imported == ("pretraining_female0",)
        np.testing.assert_array_equal(contents(out / "pretraining_female0.h5")[3][4], signal(99))

        (out / "evaluation_male11.h5").write_bytes(b"damaged")
        assert imported("myo_armband", raw, out).imported == ("evaluation_male11",)
        assert len(imported("myo_armband", raw, out, "unit=raw").imported) == 3
        assert len(imported("myo_armband", raw, out, "unit=raw", force=True).imported) == 3

    def test_an_import_that_died_goes_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        made: list[str] = []

        def dying(path: Path, info: UserInfo, recordings: Iterable[Recording]) -> None:
            if made:
                raise KeyboardInterrupt
            made.append(info.user)
            write_user(path, info, recordings)

        monkeypatch.setattr(importers, "write_user", dying)
        with pytest.raises(KeyboardInterrupt):
            imported("myo_armband", raw, out)
        monkeypatch.undo()
        rest = imported("myo_armband", raw, out)
        assert (rest.skipped, len(rest.imported)) == (("evaluation_female0",), 2)
        imported("myo_armband", raw, tmp_path / "whole")
        for user in Store(out).users:
            assert (out / f"{user}.h5").read_bytes() == (tmp_path / f"whole/{user}.h5").read_bytes()

    def test_a_user_half_read_leaves_nothing_behind(self, tmp_path: Path) -> None:
        raw, out = tmp_path / "raw", tmp_path / "out"
        make_myo(raw)
        broken = raw / "EvaluationDataset/Male11/Test1/classe_27.dat"
        broken.write_bytes(b"x")
        with pytest.raises(
            DataError, match=r"1 of 3 users not imported, such as evaluation_male11: .*classe_27\.dat: 1 b"
        ):
            imported("myo_armband", raw, out)
        others = {"evaluation_female0.h5", "pretraining_female0.h5"}
        assert {p.name for p in out.iterdir()} == others | {importers.LEDGER}
        broken.unlink()
        again = imported("myo_armband", raw, out)
        assert (again.imported, len(again.skipped)) == (("evaluation_male11",), 2)

    def test_dropping_one_recording_costs_one_user(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw")
        imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        drop = "drop=[{pattern: Male11/Test1/classe_27, reason: torn}]"
        again = imported("myo_armband", tmp_path / "raw", tmp_path / "out", drop, "expected_users=9", "title=other")
        assert (again.imported, len(again.skipped)) == (("evaluation_male11",), 2)

    def test_one_import_at_a_time(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        out = tmp_path / "out"
        out.mkdir()
        fd = os.open(out, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(DataError, match=r"another import is writing .*out; wait for it"):
            imported("myo_armband", tmp_path / "raw", out)
        os.close(fd)
        assert len(imported("myo_armband", tmp_path / "raw", out).imported) == 1

    def test_a_broken_ledger_only_costs_time(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female0"])
        imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        for text in ("not json", "[1]", json.dumps({"pretraining_female0": "x"})):
            (tmp_path / "out" / importers.LEDGER).write_text(text)
            assert imported("myo_armband", tmp_path / "raw", tmp_path / "out").imported == ("pretraining_female0",)

    def test_a_store_with_strangers_is_refused(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw", ["PreTraining/Female7", "PreTraining/Female6"])
        imported("myo_armband", tmp_path / "raw", tmp_path / "out", "drop=[]")
        with pytest.raises(DataError, match="already holds 'pretraining_female7'"):
            imported("myo_armband", tmp_path / "raw", tmp_path / "out")
        (tmp_path / "file").touch()
        with pytest.raises(DataError, match="is a file; give --out a folder"):
            imported("myo_armband", tmp_path / "raw", tmp_path / "file")

    def test_progress_counts_to_the_end(self, tmp_path: Path) -> None:
        make_myo(tmp_path / "raw")
        seen: list[tuple[str, int, int]] = []
        import_dataset(
            load_descriptor("myo_armband"), tmp_path / "raw", tmp_path / "out", partial=True,
            progress=lambda *step: seen.append(step),
        )  # fmt: skip
        assert len(seen) == 196
        assert [s[1] for s in seen] == sorted(s[1] for s in seen)
        assert seen[-1][1] == seen[-1][2] == 196 * 12 * 8 * 2


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
