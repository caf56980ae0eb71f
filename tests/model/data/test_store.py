from __future__ import annotations

import contextlib
import os
import string
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from emgup_model.data.labels import read_labels
from emgup_model.data.recording import EMG_DTYPES, check_name
from emgup_model.data.store import Recording, Store, UserFile, UserInfo, read_info, write_user
from emgup_model.errors import DataError
from tests.toy import toy_info, toy_recordings

names = st.text(string.ascii_letters + string.digits, min_size=1, max_size=8)
dtypes = st.sampled_from(sorted(EMG_DTYPES, key=str))


@st.composite
def users(draw: st.DrawFn) -> tuple[UserInfo, list[Recording]]:
    channels, gestures = draw(st.integers(1, 5)), draw(st.lists(names, min_size=1, max_size=4, unique=True))
    info = UserInfo(
        user=draw(names),
        dataset=draw(names),
        sampling_rate_hz=draw(st.floats(1, 1e6)),
        channels=channels,
        unit=draw(st.sampled_from(["adc", "uV", "µV"])),
        gestures=tuple(gestures),
        ring=draw(st.booleans()),
        group=draw(st.just("") | names),
        attributes=draw(st.dictionaries(names, st.integers(-5, 5) | st.floats(-1, 1) | names, max_size=3)),
    )
    recordings = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        samples = draw(st.integers(1, 30))
        dtype = draw(dtypes)
        limits = {"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}
        emg = draw(hnp.arrays(dtype, (samples, channels), elements=hnp.from_dtype(dtype, **limits)))  # type: ignore[arg-type]
        index = st.integers(0, len(gestures) - 1)
        label = draw(st.none() | index | hnp.arrays(np.int64, samples, elements=index))
        recordings.append(
            Recording(name, draw(st.integers(0, 9)), draw(st.integers(0, 99)), draw(st.floats(0, 1e9)), emg, label)
        )
    return info, recordings


@settings(max_examples=40, deadline=None)
@given(users())
def test_what_is_written_is_read_back(user: tuple[UserInfo, list[Recording]]) -> None:
    info, recordings = user
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{info.user}.h5"
        write_user(path, info, recordings)
        with UserFile(path) as file:
            assert replace(file.info, content_sha256="") == info
            assert [r.order for r in file.recordings] == sorted(r.order for r in file.recordings)
            assert {r.name for r in file.recordings} == {r.name for r in recordings}
            for r in recordings:
                emg = file.read(r.name)
                assert emg.dtype == r.emg.dtype
                np.testing.assert_array_equal(emg, r.emg)
        labels = read_labels(path)
        assert set(labels) == {r.name for r in recordings if r.label is not None}
        for r in recordings:
            if r.label is not None:
                np.testing.assert_array_equal(labels[r.name], r.label)
                assert np.ndim(labels[r.name]) == np.ndim(r.label)
        write_user(Path(folder) / "again.h5", info, recordings[::-1])
        assert read_info(Path(folder) / "again.h5") == read_info(path)


def test_the_content_hash_follows_the_content(tmp_path: Path) -> None:
    recordings = toy_recordings(1)

    def digest(info: UserInfo, recs: list[Recording]) -> str:
        write_user(tmp_path / "u.h5", info, recs)
        return read_info(tmp_path / "u.h5").content_sha256

    first = digest(toy_info("u"), recordings)
    assert digest(toy_info("u", content_sha256="0" * 64), recordings) == first
    louder = recordings[0].emg.copy()
    louder[5, 1] += 1
    changes: list[tuple[UserInfo, list[Recording]]] = [
        (toy_info("u", group="g"), recordings),
        (toy_info("u", sampling_rate_hz=101.0), recordings),
        (toy_info("u", attributes={"hand": "left"}), recordings),
        (toy_info("u"), [replace(recordings[0], emg=louder), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], emg=recordings[0].emg.astype(np.float64)), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], label=1), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], label=None), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], label=np.zeros(300, int)), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], start_s=0.5), *recordings[1:]]),
        (toy_info("u"), [replace(recordings[0], session=1), *recordings[1:]]),
        (toy_info("u"), recordings[1:]),
    ]
    digests = {digest(info, recs) for info, recs in changes}
    assert len(digests) == len(changes)
    assert first not in digests


def test_the_same_recordings_make_the_same_bytes(tmp_path: Path) -> None:
    write_user(tmp_path / "a", toy_info("u"), toy_recordings(1))
    time.sleep(1.1)  # HDF5 time stamps count seconds; there must be none
    write_user(tmp_path / "b", toy_info("u"), toy_recordings(1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_recordings_are_streamed(tmp_path: Path) -> None:
    alive = 0

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def recordings() -> Iterator[Recording]:
        nonlocal alive
        for i in range(6):
            emg = np.ones((50, 4), np.int16).view(Counted)
            alive += 1
            yield Recording(f"r{i}", 0, i, float(i), emg, None)
            assert alive <= 2

    write_user(tmp_path / "u.h5", toy_info("u"), recordings())


def test_a_user_file_offers_no_way_to_the_labels(tmp_path: Path) -> None:
    write_user(tmp_path / "u.h5", toy_info("u"), toy_recordings(1))
    with UserFile(tmp_path / "u.h5") as file:
        public = {name for name in dir(file) if not name.startswith("_")}
        assert public == {"info", "recordings", "read", "close", "convert_to"}
        for name in ("labels/r0_g0", "../labels/r0_g0", "/labels/r0_g0"):
            with pytest.raises(DataError, match="no recording"):
                file.read(name)


def bad_recordings() -> list[tuple[str, dict[str, object], str]]:
    emg = np.ones((20, 4), np.float32)
    nan = emg.copy()
    nan[3, 2] = np.nan
    return [
        ("NaN", {"emg": nan}, r"NaN or infinity \(first at sample 3, channel 2\)"),
        ("infinity", {"emg": np.full((2, 4), np.inf)}, "NaN or infinity"),
        ("channels", {"emg": np.ones((20, 3))}, r"shape \(20, 3\), expected \(samples, 4\)"),
        ("rank", {"emg": np.ones(20)}, "shape"),
        ("empty", {"emg": np.ones((0, 4))}, "is empty"),
        ("object", {"emg": np.full((20, 4), "a", dtype=object)}, "has the type object"),
        ("complex", {"emg": np.ones((20, 4), complex)}, "has the type complex"),
        ("bool", {"emg": np.ones((20, 4), bool)}, "has the type bool"),
        ("separator", {"name": "a/b"}, "not usable as a name"),
        ("dots", {"name": ".."}, "not usable as a name"),
        ("label too high", {"label": 3}, "label 3 is not an index"),
        ("label negative", {"label": -1}, "label -1 is not an index"),
        ("label length", {"label": np.zeros(19, int)}, "one for each sample"),
        ("label float", {"label": np.zeros(20)}, "one for each sample"),
        ("session", {"session": -1}, "session -1"),
        ("start", {"start_s": float("nan")}, "start nan"),
    ]


@pytest.mark.parametrize(("_case", "change", "message"), bad_recordings(), ids=[c[0] for c in bad_recordings()])
def test_the_writer_refuses_what_the_reader_would(
    tmp_path: Path, _case: str, change: dict[str, Any], message: str
) -> None:
    good = Recording("r", 0, 0, 0.0, np.ones((20, 4), np.float32), 0)
    with pytest.raises(DataError, match=message) as e:
        write_user(tmp_path / "u.h5", toy_info("u"), [good, replace(good, **({"name": "s"} | change))])
    assert "\n" not in str(e.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user": "../evil"}, "user '../evil' is not usable"),
        ({"user": "a\n"}, "not usable"),
        ({"dataset": ""}, "not usable"),
        ({"sampling_rate_hz": 0.0}, "sampling rate 0.0"),
        ({"sampling_rate_hz": float("nan")}, "sampling rate nan"),
        ({"channels": 0}, "channel count 0"),
        ({"gestures": ("a", "a")}, "gesture names must be different"),
        ({"gestures": ("a\0b",)}, "not printable"),
        ({"unit": ""}, "unit"),
        ({"attributes": {"age": float("inf")}}, "attribute 'age'"),
    ],
)
def test_the_writer_refuses_a_bad_user(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_user(tmp_path / "u.h5", toy_info(**({"user": "u"} | change)), toy_recordings(1))
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_twins_and_nobody_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "u.h5"
    write_user(path, toy_info("u"), toy_recordings(1))
    before = path.read_bytes()
    for recordings, message in (([], "no recordings"), (toy_recordings(1) * 2, "two recordings are named 'r0_g0'")):
        with pytest.raises(DataError, match=message):
            write_user(path, toy_info("u"), recordings)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_large_flat_recording_is_refused_by_the_writer_too(tmp_path: Path) -> None:
    flat = Recording("r", 0, 0, 0.0, np.zeros((300_000, 4), np.int16), None)
    with pytest.raises(DataError, match=r"u\.h5: .*compressed more than 100-fold"):
        write_user(tmp_path / "u.h5", toy_info("u"), [flat])


def test_one_label_for_hours_is_no_bomb(tmp_path: Path) -> None:
    emg = np.random.default_rng(0).integers(-100, 100, (700_000, 1), np.int16)
    long = Recording("r", 0, 0, 0.0, emg, np.zeros(700_000, int))
    write_user(tmp_path / "u.h5", toy_info("u", channels=1), [long])
    assert np.shape(read_labels(tmp_path / "u.h5")["r"]) == (700_000,)


@pytest.mark.parametrize("name", ["a", "Male10", "s00_0001", "a.b-c_d", "x" * 100])
def test_safe_names(name: str) -> None:
    assert check_name(name, "user") == name


@given(st.text(max_size=120))
def test_a_name_that_passes_stays_inside_its_folder(name: str) -> None:
    with contextlib.suppress(DataError):
        check_name(name, "user")
        assert (Path("/store") / f"{name}.h5").resolve().parent == Path("/store").resolve()
        assert name.isascii()
        assert name.isprintable()


class TestStore:
    def test_lists_users_sorted_and_opens_them(self, tmp_path: Path) -> None:
        for user in ("u10", "u2", "b"):
            write_user(tmp_path / f"{user}.h5", toy_info(user), toy_recordings(1))
        (tmp_path / ".hidden.h5").write_text("x")
        (tmp_path / "notes.txt").write_text("x")
        store = Store(tmp_path)
        assert store.users == ("b", "u10", "u2")
        assert store.path("b") == tmp_path / "b.h5"
        with store.open("u2") as file:
            assert file.info.user == "u2"

    def test_missing_empty_unknown(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="no store at"):
            Store(tmp_path / "nowhere")
        with pytest.raises(DataError, match="is empty"):
            Store(tmp_path)
        write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
        for user in ("b", "../a", ""):
            with pytest.raises(DataError, match=f"has no user '{user}'; it has a"):
                Store(tmp_path).open(user)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"sampling_rate_hz": 200.0}, "sampling_rate_hz of 'b' is 200.0, of 'a' 100.0"),
            ({"gestures": ("x", "y", "z")}, "gestures of 'b'"),
            ({"unit": "V"}, "unit of 'b'"),
            ({"user": "c"}, "the file says it is user 'c'"),
        ],
    )
    def test_mixed(self, tmp_path: Path, change: dict[str, Any], message: str) -> None:
        write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
        write_user(tmp_path / "b.h5", toy_info(**({"user": "b"} | change)), toy_recordings(2))
        with pytest.raises(DataError, match=message):
            Store(tmp_path)

    def test_mixed_channels(self, tmp_path: Path) -> None:
        write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
        three = [replace(r, emg=r.emg[:, :3]) for r in toy_recordings(2)]
        write_user(tmp_path / "b.h5", toy_info("b", channels=3), three)
        with pytest.raises(DataError, match="channels of 'b' is 3, of 'a' 4"):
            Store(tmp_path)

    def test_a_damaged_user_is_named(self, tmp_path: Path) -> None:
        write_user(tmp_path / "a.h5", toy_info("a"), toy_recordings(1))
        (tmp_path / "b.h5").write_bytes(os.urandom(5000))
        with pytest.raises(DataError, match=r"b\.h5: not an HDF5 file"):
            Store(tmp_path)
