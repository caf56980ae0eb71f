"""What cannot be imported is said in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emgup_model.errors import ConfigError, DataError
from tests.model.data.raw_sets import imported, make_emg2pose, make_myo, signal, write_csv


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
