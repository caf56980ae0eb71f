"""Files that somebody else made: every one is refused with one line, or read as what it was."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from emgup_model.data.hdf5_guard import MAX_CHUNK_BYTES
from emgup_model.data.labels import read_labels
from emgup_model.data.store import UserFile, write_user
from emgup_model.errors import DataError
from tests.toy import toy_info, toy_recordings

EMG = "recordings/r0_g0/emg"


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "u.h5"
    write_user(path, toy_info("u"), toy_recordings(1))
    return path


def replaced(file: h5py.File, path: str = EMG, **options: Any) -> None:
    """Put another dataset in the place of one, with the writer's options unless given."""
    kept = {"chunks": (100, 4), "shuffle": True, "compression": "gzip", "fletcher32": True}
    merged = kept | {"shape": (300, 4), "dtype": "f4"} | options
    del file[path]
    file.create_dataset(path, **{k: v for k, v in merged.items() if v is not None})


def soft_link(file: h5py.File) -> None:
    del file[EMG]
    file[EMG] = h5py.SoftLink("/recordings/r0_g1/emg")


def soft_link_to_labels(file: h5py.File) -> None:
    del file["recordings/r0_g0"]
    file["recordings/r0_g0"] = h5py.SoftLink("/labels")


def external_link(file: h5py.File) -> None:
    _other_file(file)
    del file[EMG]
    file[EMG] = h5py.ExternalLink("other.h5", "/emg")


def external_group(file: h5py.File) -> None:
    _other_file(file)
    del file["recordings"]
    file["recordings"] = h5py.ExternalLink("other.h5", "/recordings")


def soft_root(file: h5py.File) -> None:
    file.move("recordings", "labels/elsewhere")
    file["recordings"] = h5py.SoftLink("/labels/elsewhere")


def external_storage(file: h5py.File) -> None:
    secret = Path(file.filename).parent / "secret.bin"
    secret.write_bytes(bytes(4 * 300 * 4))
    del file[EMG]
    file.create_dataset(EMG, (300, 4), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file: h5py.File) -> None:
    _other_file(file)
    layout = h5py.VirtualLayout((300, 4), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "emg", (300, 4))
    del file[EMG]
    file.create_virtual_dataset(EMG, layout)


def _other_file(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).parent / "other.h5", "w") as other:
        other.create_dataset("emg", data=np.ones((300, 4), "f4"))
        other.create_group("recordings")


def terabytes(file: h5py.File) -> None:
    replaced(file, shape=(10**11, 4))


def terabytes_of_labels(file: h5py.File) -> None:
    replaced(file, "labels/r0_g0", shape=(10**11,), chunks=(1000,), dtype="i4")


def shared_chunks(file: h5py.File) -> None:
    for i in range(40):
        file[f"recordings/copy{i}"] = file["recordings/r0_g0"]


def bomb(file: h5py.File) -> None:
    replaced(file, data=np.zeros((400_000, 4), "f4"), shape=None, dtype=None, chunks=(4096, 4))


def vlen(file: h5py.File) -> None:
    replaced(file, dtype=h5py.vlen_dtype(np.float32), fletcher32=False)


def compound(file: h5py.File) -> None:
    replaced(file, dtype=np.dtype([("a", "f4"), ("b", "f4")]))


def drop_attribute(file: h5py.File) -> None:
    del file["recordings/r0_g0"].attrs["start_s"]


def attribute(name: str, value: object, where: str = "/") -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        file[where].attrs[name] = value

    return change


def dataset(**options: Any) -> Callable[[h5py.File], None]:
    return lambda file: replaced(file, **options)


def dataset_for_a_group(file: h5py.File) -> None:
    del file["labels"]
    file["labels"] = 1


def nan(file: h5py.File) -> None:
    file[EMG][7, 2] = np.nan


def with_label(value: object, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file["labels/r0_g0"]
        file.create_dataset("labels/r0_g0", data=value, **options)

    return change


each = {"chunks": (100,), "fletcher32": True}

STRUCTURE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "soft link": (soft_link, "soft or external link"),
    "soft link to the labels": (soft_link_to_labels, "soft or external link"),
    "external link": (external_link, "soft or external link"),
    "external link higher up": (external_group, "soft or external link"),
    "soft link at the root": (soft_root, "soft or external link"),
    "external storage": (external_storage, "external file"),
    "virtual dataset": (virtual, "virtual dataset"),
    "1.6 TB declared": (terabytes, "declares 1600000000000 bytes"),
    "missing chunks": (dataset(), "0 of its 3 chunks"),
    "compression bomb": (bomb, "compressed more than 100-fold"),
    "large chunks": (dataset(shape=(9000, 4), chunks=(9000, 4)), "chunks of 144000 bytes"),
    "recordings that share bytes": (shared_chunks, "claim to store"),
    "text": (dataset(dtype=h5py.string_dtype(), fletcher32=False), "objects, strings or records"),
    "variable length": (vlen, "objects, strings or records"),
    "compound": (compound, "objects, strings or records"),
    "complex": (dataset(dtype="c8"), "objects, strings or records"),
    "half precision": (dataset(dtype="f2"), "the type float16"),
    "big endian": (dataset(dtype=">f4"), "the type >f4"),
    "rank 1": (dataset(shape=(300,), chunks=(100,)), "1 dimensions instead of 2"),
    "rank 3": (dataset(shape=(300, 4, 1), chunks=(100, 4, 1)), "3 dimensions instead of 2"),
    "no samples": (dataset(shape=(0, 4), chunks=(1, 4), maxshape=(None, 4)), "is empty"),
    "no dataspace": (lambda f: (f.__delitem__(EMG), f.__setitem__(EMG, h5py.Empty("f4")))[0], "no dimensions"),
    "channels": (dataset(data=np.ones((300, 3), "f4"), shape=None, chunks=(100, 3)), "3 channels, the file says 4"),
    "contiguous": (dataset(chunks=None, shuffle=None, compression=None, fletcher32=None), "not stored in chunks"),
    "no checksum": (dataset(fletcher32=None), "no Fletcher32 checksum"),
    "lzf": (dataset(compression="lzf"), "filter 32000"),
    "scale-offset": (dataset(scaleoffset=3, dtype="i4", fletcher32=None, shuffle=None), "filter 6"),
    "group for a dataset": (lambda f: (f.__delitem__(EMG), f.create_group(EMG))[0], "is not a dataset"),
    "dataset for a group": (
        lambda f: (f.__delitem__("labels"), f.create_dataset("labels", data=1))[0],
        "is not a group",
    ),
    "more beside the samples": (lambda f: f.create_group("recordings/r0_g0/more"), "has 2 members"),
    "more at the root": (lambda f: f.create_group("more"), "has 3 members"),
    "no recordings": (lambda f: f.__delitem__("recordings"), "must hold the group 'recordings'"),
    "empty recordings": (lambda f: (f.__delitem__("recordings"), f.create_group("recordings"))[0], "no recordings"),
    "unsafe recording name": (lambda f: f.move("recordings/r0_g0", "recordings/.."), "not usable as a name"),
    "another version": (attribute("version", 2), r"format version 2 is not supported \(this program reads 1\)"),
    "version as text": (attribute("version", "1"), "format version None"),
    "another format": (attribute("format", "other"), "not a recording file of this program"),
    "no format": (lambda f: f.attrs.__delitem__("format"), "not a recording file of this program"),
    "missing attribute": (drop_attribute, "has 2 attributes|lacks attribute 'start_s'"),
    "unknown attribute": (attribute("more", 1), "has 13 attributes instead of 12"),
    "unsafe user": (attribute("user", np.bytes_("../u")), "user '../u' is not usable"),
    "variable-length text": (attribute("unit", "x"), "neither a number nor fixed-length text"),
    "array attribute": (attribute("channels", np.ones(10_000)), "not one short value"),
    "attribute of an object": (attribute("ring", h5py.Empty("i4")), "not one short value"),
    "rate as text": (attribute("sampling_rate_hz", np.bytes_("200")), "text instead of a number"),
    "rate not finite": (attribute("sampling_rate_hz", np.nan), "sampling rate nan"),
    "gestures not JSON": (attribute("gestures", np.bytes_("[")), "not valid JSON"),
    "gestures nested": (attribute("gestures", np.bytes_("[" * 30_000)), "not valid JSON"),
    "gestures no list": (attribute("gestures", np.bytes_('{"a": 1}')), "not a JSON list"),
    "session fraction": (attribute("session", 0.5, "recordings/r0_g0"), "not a whole number"),
    "start not finite": (attribute("start_s", np.inf, "recordings/r0_g0"), "start inf"),
}


@pytest.mark.parametrize("case", STRUCTURE)
def test_a_hostile_structure_is_refused_when_opened(good: Path, case: str) -> None:
    change, message = STRUCTURE[case]
    with h5py.File(good, "a") as file:
        change(file)
    with pytest.raises(DataError, match=message) as e:
        UserFile(good) if case != "dataset for a group" else read_labels(good)
    assert "\n" not in str(e.value)
    assert str(e.value).startswith(str(good))


LABELS: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "1.6 TB declared": (terabytes_of_labels, r"labels have the shape \(100000000000,\)"),
    "contiguous scalar": (with_label(1), "not stored in the compact layout"),
    "contiguous array": (with_label(np.zeros(300, "i4")), "not stored in chunks"),
    "text": (with_label("fist"), "objects, strings or records"),
    "float": (with_label(np.zeros(300), **each), "the type float64"),
    "too short": (with_label(np.zeros(299, "i4"), **each), r"300 samples, its labels have the shape \(299,\)"),
    "out of range": (with_label(np.full(300, 3, "i4"), **each), "label 3 is not an index of its 3 gesture names"),
    "rank 2": (
        with_label(np.zeros((300, 4), "i4"), chunks=(100, 4), fletcher32=True),
        r"labels have the shape \(300, 4\)",
    ),
    "link": (lambda f: f["labels"].__setitem__("x", h5py.SoftLink("/labels/r0_g0")), "soft or external link"),
    "of no recording": (lambda f: f.move("labels/r0_g0", "labels/r9"), "labels for 'r9', but no such recording"),
}


@pytest.mark.parametrize("case", LABELS)
def test_hostile_labels_are_refused_and_do_not_hinder_reading_the_samples(good: Path, case: str) -> None:
    change, message = LABELS[case]
    with h5py.File(good, "a") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        read_labels(good)
    with UserFile(good) as user:
        assert len(user.recordings) == 6


def test_a_file_without_labels_is_complete(good: Path) -> None:
    with h5py.File(good, "a") as file:
        del file["labels"]
    with UserFile(good) as user:
        assert user.read("r0_g0").shape == (300, 4)
    assert read_labels(good) == {}


def test_nan_is_refused_when_read(good: Path) -> None:
    with h5py.File(good, "a") as file:
        nan(file)
    with UserFile(good) as user:
        assert user.read("r0_g1").shape == (300, 4)
        with pytest.raises(DataError, match=r"'r0_g0' holds NaN or infinity \(first at sample 7, channel 2\)"):
            user.read("r0_g0")


def test_no_file_no_hdf5_a_folder(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("time,emg\n" * 100)
    (tmp_path / "empty.h5").touch()
    (tmp_path / "folder.h5").mkdir()
    for name, message in (
        ("text.h5", "not an HDF5 file"),
        ("empty.h5", "not an HDF5 file"),
        ("folder.h5", "no such file"),
        ("none.h5", "no such file"),
    ):
        with pytest.raises(DataError, match=message):
            UserFile(tmp_path / name)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(good: Path, share: float) -> None:
    data = good.read_bytes()
    good.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DataError, match=r"truncated|not an HDF5 file"):
        UserFile(good)


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path: Path) -> None:
    """Every 32nd byte in turn: either the file is refused, or samples, facts and labels are all as they were."""

    path = tmp_path / "u.h5"
    write_user(path, toy_info("u"), toy_recordings(1, seconds=0.5, repetitions=1))

    def content() -> object:
        with UserFile(path) as user:
            samples = [user.read(r.name).tobytes() for r in user.recordings]
            return user.info, user.recordings, samples, read_labels(path)

    data, before = path.read_bytes(), content()
    positions = range(0, len(data), 32)
    refused = 0
    for position in positions:
        flipped = bytearray(data)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        try:
            assert content() == before, f"byte {position} changed the content unseen"
        except DataError:
            refused += 1
    assert refused > 0.6 * len(positions)


def test_a_flipped_bit_in_the_samples_is_a_data_error(good: Path) -> None:
    with h5py.File(good) as file:
        chunk = file[EMG].id.get_chunk_info(0)
    data = bytearray(good.read_bytes())
    data[chunk.byte_offset + chunk.size // 2] ^= 1
    good.write_bytes(data)
    with UserFile(good) as user, pytest.raises(DataError, match="damaged"):
        user.read("r0_g0")


def fletcher32(data: bytes) -> bytes:
    """HDF5's checksum, so that a hostile chunk passes it."""
    words = np.frombuffer(data + b"\0" * (len(data) % 2), ">u2").astype(object)
    first, second = sum(words), sum((len(words) - i) * w for i, w in enumerate(words))
    low, high = (n % 65535 or (65535 if n else 0) for n in (first, second))
    return int(high << 16 | low).to_bytes(4, "little")


def test_a_chunk_that_inflates_takes_bounded_memory(good: Path, tmp_path: Path) -> None:
    """The largest chunk that passes the size check inflates to 60 MB instead of 64 KiB."""
    packed = zlib.compress(bytes(60_000_000), 9)
    assert len(packed) <= MAX_CHUNK_BYTES
    with h5py.File(good, "a") as file:
        replaced(file, shape=(4096, 4), chunks=(4096, 4))
        file[EMG].id.write_direct_chunk((0, 0), packed + fletcher32(packed))
    script = (
        "import resource, sys; from emgup_model.data.store import UserFile; from emgup_model.errors import DataError\n"
        "def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "before = peak()\n"
        "try:\n    UserFile(sys.argv[1]).read('r0_g0')\nexcept DataError as e:\n    pass\n"
        "print(peak() - before)"
    )
    out = subprocess.run([sys.executable, "-c", script, str(good)], capture_output=True, text=True, check=True)
    assert int(out.stdout) < 300
    shutil.rmtree(tmp_path)
