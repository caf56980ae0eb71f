"""Raw files as they should not be: damaged, hostile or random. Each is read or refused in one line; nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_model.data.descriptor import CsvReader, load_descriptor
from emgup_model.data.discovery import discover
from emgup_model.data.importers import _labelled_runs
from emgup_model.data.readers.delimited import read_label_column
from emgup_model.data.readers.emg2pose import read_emg2pose
from emgup_model.data.synthetic.emg2pose_files import COLUMNS, ROW
from emgup_model.data.unpack import _safe
from emgup_model.errors import DataError

fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


EMG2POSE = load_descriptor("emg2pose")
NUMBERED = EMG2POSE.model_copy(update={"gesture_codes": {}})

T = TypeVar("T")


def outcome(call: Callable[[], T]) -> tuple[T | None, str]:
    """What the call gives, or the line it is refused with."""
    try:
        return call(), ""
    except DataError as e:
        return None, str(e)


def session_file(path: Path, rows: int = 64) -> bytes:
    series = np.zeros(rows, ROW)
    series["emg"] = np.random.default_rng(0).normal(size=(rows, 16))
    with h5py.File(path, "w") as file:
        file.create_dataset("emg2pose/timeseries", data=series, chunks=(32,), compression="gzip")
        file["emg2pose"].attrs["sample_rate"] = 2000.0
    return path.read_bytes()


@fuzz
@given(data=st.data())
def test_a_damaged_session_file_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "r.hdf5"
    content = bytearray(session_file(path))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for at in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=4)):
        if content:
            content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    emg, refusal = outcome(lambda: read_emg2pose(path, 16, 2000.0))
    if emg is None:
        assert str(path) in refusal
        assert "\n" not in refusal
    else:
        assert emg.shape[1:] == (16,)


def test_session_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    secret = tmp_path / "secret.hdf5"
    session_file(secret)

    def refused(message: str, fill: object) -> None:
        path = tmp_path / "r.hdf5"
        with h5py.File(path, "w") as file:
            fill(file)  # type: ignore[operator]
        with pytest.raises(DataError, match=message) as e:
            read_emg2pose(path, 16, 2000.0)
        assert str(path) in str(e.value)

    def link(file: h5py.File) -> None:
        file.create_group("emg2pose")["timeseries"] = h5py.ExternalLink(str(secret), "/emg2pose/timeseries")

    def huge(file: h5py.File) -> None:
        file.create_dataset("emg2pose/timeseries", (8_000_000,), ROW, chunks=(1000,))

    def vast(file: h5py.File) -> None:
        file.create_dataset("emg2pose/timeseries", (80_000_000_000,), ROW, chunks=(1000,))

    def rate(file: h5py.File) -> None:
        file["emg2pose/timeseries"] = np.zeros(4, ROW)
        file["emg2pose"].attrs["sample_rate"] = "often"

    refused("soft or external link", link)
    refused("declares 1856000000 bytes and stores 0; the file is incomplete", huge)
    refused("declares more than", vast)
    refused("no group 'emg2pose'", lambda f: f.create_group("other"))
    refused("no dataset 'emg2pose/timeseries'", lambda f: f.create_group("emg2pose"))
    refused("not a list of records", lambda f: f.create_dataset("emg2pose/timeseries", data=np.zeros((4, 16))))
    refused("is empty", lambda f: f.create_dataset("emg2pose/timeseries", data=np.zeros(0, ROW)))
    refused("expected 16 floating-point channels", lambda f: f.create_dataset(
        "emg2pose/timeseries", data=np.zeros(4, [("emg", "f4", (8,))])))  # fmt: skip
    refused("reading failed", rate)


cell = st.one_of(
    st.text(max_size=12), st.sampled_from(["u1", "left", "both", "PokePinchCloseFar", "12.5", "a", "../a"])
)


@fuzz
@given(rows=st.lists(st.lists(cell, min_size=1, max_size=14), max_size=4), good_header=st.booleans())
def test_any_table_is_read_or_refused(tmp_path: Path, rows: list[list[str]], good_header: bool) -> None:
    (tmp_path / "a.hdf5").touch()
    lines = [",".join(COLUMNS)] if good_header else []
    (tmp_path / "metadata.csv").write_text("\n".join([*lines, *(",".join(r) for r in rows)]), errors="replace")
    found, refusal = outcome(lambda: discover(EMG2POSE, tmp_path, partial=True))
    if found is None:
        assert refusal
    else:
        assert all(f.path.is_relative_to(tmp_path) for files in found.users.values() for f in files)


@fuzz
@given(text=st.text(max_size=200))
def test_any_label_column_is_read_or_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("utf-8", "replace"))
    reader = CsvReader(kind="csv", columns=(0,), label_column=1)
    labels, refusal = outcome(lambda: read_label_column(path, reader, NUMBERED.gesture_index))
    if labels is None:
        assert str(path) in refusal
    else:
        assert labels.min() >= 0
        assert labels.max() < len(EMG2POSE.gestures)


@given(st.lists(st.integers(-1, 2), min_size=1, max_size=40))
def test_runs_are_exactly_the_labelled_samples(labels: list[int]) -> None:
    runs = _labelled_runs(np.array(labels))
    inside = [i for first, last in runs for i in range(first, last)]
    assert inside == [i for i, label in enumerate(labels) if label >= 0]
    assert all(b > a for (_, a), (b, _) in pairwise(runs))


@given(
    st.text(min_size=1, max_size=30) | st.lists(st.sampled_from(["..", ".", "", "a", "/"]), min_size=1).map("/".join)
)
def test_no_archive_member_leaves_the_folder(name: str) -> None:
    root = Path("/data/raw")
    try:
        path = root / _safe(Path("a.tar"), name)
    except DataError:
        return
    assert Path(*(p for p in path.parts if p != ".")).is_relative_to(root)
    assert ".." not in path.parts
