from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from emgup_model.data.descriptor import CsvReader, MatReader, RawReader
from emgup_model.data.readers.delimited import read_csv
from emgup_model.data.readers.emg2pose import read_emg2pose
from emgup_model.data.readers.matlab import read_mat
from emgup_model.data.readers.raw import read_raw
from emgup_model.errors import DataError

CSV = CsvReader(kind="csv")
INT = CsvReader(kind="csv", dtype="int16")


def text(tmp_path: Path, content: str | bytes) -> Path:
    path = tmp_path / "r.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "reader"),
    [
        ("1,2\n3,4\n", CSV),
        ("1,2\r\n3,4\r\n", CSV),
        ("\ufeff1,2\n3,4", CSV),
        ("1,2,\n3,4,\n", CSV),
        ("1, 2\n3, 4\n\n\n", CSV),
        ("1.0,2e0\n3.0,4\n", INT),
        ("a,b\n1,2\n3,4\n", CsvReader(kind="csv", header_rows=1)),
        ("1;2\n3;4\n", CsvReader(kind="csv", delimiter=";")),
        ("1 2\n 3  4\n", CsvReader(kind="csv", delimiter=" ")),
        ("1\t2\n3\t4\n", CsvReader(kind="csv", delimiter="\t")),
        ("0.0,2,9,1\n0.1,4,9,3\n", CsvReader(kind="csv", columns=(3, 1))),
    ],
)
def test_csv_variants(tmp_path: Path, content: str, reader: CsvReader) -> None:
    samples = read_csv(text(tmp_path, content), reader, 2)
    assert samples.dtype == reader.dtype
    np.testing.assert_array_equal(samples, [[1, 2], [3, 4]])


@pytest.mark.parametrize(
    ("content", "reader", "message"),
    [
        ("", CSV, r"r\.csv: no samples"),
        ("\n\n", CSV, "no samples"),
        ("1,2,3\n", CSV, "line 1: 3 columns instead of 2"),
        ("1,2\n3\n", CSV, "line 2: 1 columns instead of 2"),
        ("1,2\n3,4,5\n", CSV, "line 2: 3 columns instead of 2"),
        ("1,2\n3,four\n", CSV, "line 2: 'four' in column 2 is not a number"),
        ("1,2\n3,\n", CSV, "line 2: '' in column 2 is not a number"),
        ("a,b\n1,2\n3,x\n", CsvReader(kind="csv", header_rows=1), "line 3: 'x' in column 2"),
        ("1,2\n3,nan\n", CSV, "line 2: nan in column 2 is not a finite float32"),
        ("1,2\n3,1e300\n", CSV, "line 2: .* is not a finite float32"),
        ("1,2\n3,4.5\n", INT, "line 2: 4.5 in column 2 is not a finite int16"),
        ("1,2\n3,40000\n", INT, "line 2: 40000.0 in column 2 is not a finite int16"),
        ("1,2\n\n3,4\n", CSV, "blank lines|line 2"),
        ("1,2\n# no comments\n", CSV, "line 2"),
        ("1,2\n", CsvReader(kind="csv", columns=(0, 5)), r"2 columns; the descriptor reads \[0, 5\]"),
        (b"\xff\xfe1", CSV, "not a text file"),
    ],
)
def test_csv_errors_name_the_file_and_line(tmp_path: Path, content: str, reader: CsvReader, message: str) -> None:
    with pytest.raises(DataError, match=message) as e:
        read_csv(text(tmp_path, content), reader, 2)
    assert "r.csv" in str(e.value)
    assert "\n" not in str(e.value)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60) | st.text("0123456789,.-e \n\r\tnaif;", max_size=60))
def test_any_bytes_are_a_table_or_a_data_error(tmp_path_factory: pytest.TempPathFactory, content: str | bytes) -> None:
    path = text(tmp_path_factory.mktemp("csv"), content)
    with contextlib.suppress(DataError):
        samples = read_csv(path, CSV, 2)
        assert samples.shape[1] == 2
        assert np.isfinite(samples).all()


def test_raw(tmp_path: Path) -> None:
    expected = np.arange(12, dtype="<i2").reshape(4, 3) - 6
    (tmp_path / "r.dat").write_bytes(expected.tobytes())
    samples = read_raw(tmp_path / "r.dat", RawReader(kind="raw"), 3)
    np.testing.assert_array_equal(samples, expected)
    assert samples.dtype == "<i2"
    with pytest.raises(DataError, match=r"r\.dat: 24 bytes is not a whole number of frames of 10 bytes"):
        read_raw(tmp_path / "r.dat", RawReader(kind="raw"), 5)
    (tmp_path / "empty.dat").touch()
    with pytest.raises(DataError, match="0 bytes"):
        read_raw(tmp_path / "empty.dat", RawReader(kind="raw"), 3)


def test_mat(tmp_path: Path) -> None:
    expected = np.arange(12.0).reshape(4, 3)
    path = tmp_path / "r.mat"
    savemat(path, {"emg": expected, "turned": expected.T, "name": "x", "cube": np.ones((2, 2, 2))})
    samples = read_mat(path, MatReader(kind="mat", variable="emg"), 3)
    np.testing.assert_array_equal(samples, expected)
    turned = read_mat(path, MatReader(kind="mat", variable="turned", samples_first=False, dtype="int16"), 3)
    np.testing.assert_array_equal(turned, expected)
    for variable, channels, message in (
        ("other", 3, "no variable 'other'"),
        ("emg", 8, "3 channels instead of 8"),
        ("name", 3, "not a matrix of numbers"),
        ("cube", 2, "not a matrix of numbers"),
    ):
        with pytest.raises(DataError, match=message):
            read_mat(path, MatReader(kind="mat", variable=variable), channels)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match=r"r\.mat"):
        read_mat(path, MatReader(kind="mat", variable="emg"), 3)
    path.write_text("nothing of the kind")
    with pytest.raises(DataError, match=r"r\.mat"):
        read_mat(path, MatReader(kind="mat", variable="emg"), 3)


def test_mat_7_3_is_refused_with_advice(tmp_path: Path) -> None:
    path = tmp_path / "new.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file["emg"] = np.ones((3, 4))
    with path.open("r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(DataError, match=r"MATLAB 7\.3 file; save it again"):
        read_mat(path, MatReader(kind="mat", variable="emg"), 3)


def test_the_official_emg2pose_sample_is_read(real_data: Path) -> None:
    path = real_data / "emg2pose_format" / "test_data.hdf5"
    samples = read_emg2pose(path, 16, 2000.0)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(samples, file["emg2pose/timeseries"]["emg"])
    assert samples.shape == (100, 16)
    assert samples.dtype == np.float32
    with pytest.raises(DataError, match="expected 8 floating-point channels"):
        read_emg2pose(path, 8, 2000.0)
    with pytest.raises(DataError, match=r"sampled at 2000.0 Hz, the descriptor says 1000.0"):
        read_emg2pose(path, 16, 1000.0)


def test_emg2pose_files_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "f.hdf5"
    series = np.zeros(5, dtype=[("time", "f8"), ("emg", "f4", (16,))])
    makers: tuple[tuple[Callable[[h5py.File], object], str], ...] = (
        (lambda f: f.create_group("other"), "no group 'emg2pose'"),
        (lambda f: f.create_group("emg2pose"), "no dataset 'emg2pose/timeseries'"),
        (lambda f: f.create_dataset("emg2pose/timeseries", data=np.ones(5)), "not a list of records"),
        (lambda f: f.__setitem__("emg2pose", h5py.ExternalLink("x.h5", "/")), "soft or external link"),
        (lambda f: f.create_dataset("emg2pose/timeseries", (2**31,), series.dtype), "declares more than"),
    )
    for make, message in makers:
        with h5py.File(path, "w") as file:
            make(file)
        with pytest.raises(DataError, match=message):
            read_emg2pose(path, 16, 2000.0)
    path.write_text("no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        read_emg2pose(path, 16, 2000.0)
