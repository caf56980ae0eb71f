"""Files with a label for every sample."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile
from emgup_model.errors import ConfigError, DataError
from tests.model.data.raw_sets import imported

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
