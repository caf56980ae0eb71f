"""Units are converted exactly and gestures matched by name; what cannot be is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.data.labels import read_labels
from emgup_model.data.matching import gesture_indices, unit_gain
from emgup_model.data.store import Recording, UserFile, write_user
from emgup_model.errors import DataError
from tests.toy import toy_info

UNITS = {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "\u00b5V": 1e-6, "\u03bcV": 1e-6, "nV": 1e-9}


@given(st.sampled_from(sorted(UNITS)), st.sampled_from(sorted(UNITS)))
def test_voltages_are_converted_by_exact_powers_of_ten(unit: str, wanted: str) -> None:
    gain = unit_gain(unit, wanted)
    assert gain == pytest.approx(UNITS[unit] / UNITS[wanted], rel=1e-12)
    assert gain == float(f"{gain:.0e}")


@pytest.mark.parametrize(("unit", "wanted"), [("adc", "mV"), ("mV", "adc"), ("MV", "mV"), ("adc", "counts"), ("", "V")])
def test_other_units_are_refused_in_one_line_with_both_names(unit: str, wanted: str) -> None:
    with pytest.raises(DataError, match=f"'{unit}', the release's in '{wanted}'") as error:
        unit_gain(unit, wanted)
    assert "\n" not in str(error.value)


def test_a_unit_that_is_not_known_is_the_same_as_itself() -> None:
    assert unit_gain("adc", "adc") == 1.0


@given(st.lists(st.text(), unique=True, max_size=8), st.data())
def test_gestures_are_found_by_name_in_any_order(wanted: list[str], data: st.DataObject) -> None:
    some = data.draw(st.permutations(wanted))[: data.draw(st.integers(0, len(wanted)))]
    assert [wanted[i] for i in gesture_indices(some, wanted)] == some


def test_the_first_unknown_gesture_is_named() -> None:
    with pytest.raises(DataError, match=r"'Fist' is none of the release's \(rest, fist\)") as error:
        gesture_indices(["rest", "Fist", "wave"], ["rest", "fist"])
    assert "\n" not in str(error.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    emg = np.array([[1, -2, 3, 100], [7, 0, 0, -128]], np.int8)
    made = [Recording("one", 0, 0, 0.0, emg, 2), Recording("each", 0, 1, 1.0, emg, np.array([2, 0]))]
    write_user(tmp_path / "u.h5", toy_info("u", gestures=("open", "rest", "fist")), made)
    return tmp_path / "u.h5"


def test_a_file_is_read_in_another_unit(path: Path) -> None:
    with UserFile(path) as file:
        plain = file.read("one")
        file.convert_to("uV")
        assert file.info.unit == "uV"
        np.testing.assert_array_equal(file.read("one"), plain.astype(float) * 1000)
        file.convert_to("mV")
        np.testing.assert_array_equal(file.read("one"), plain)
        with pytest.raises(DataError, match="adc"):
            file.convert_to("adc")


def test_labels_are_read_as_indices_of_other_names(path: Path) -> None:
    own, other = read_labels(path), read_labels(path, ("rest", "fist", "wave", "open"))
    assert (own["one"], np.asarray(own["each"]).tolist()) == (2, [2, 0])
    assert (other["one"], np.asarray(other["each"]).tolist()) == (1, [1, 3])
    with pytest.raises(DataError, match="'open'"):
        read_labels(path, ("rest", "fist"))
