"""Downloads from a real server on 127.0.0.1: resumed, checked, refused; and what archives may hold."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import signal
import socket
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emgup_model.data import download as module
from emgup_model.data.descriptor import Download
from emgup_model.data.download import RECORD, Downloaded, download
from emgup_model.data.unpack import unpack
from emgup_model.errors import DataError
from emgup_model.files import sole_writer
from tests.model.data.web import Web, serving

CONTENT = np.random.default_rng(0).bytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(module, "WAIT_S", 0.01)
    with serving(CONTENT) as web:
        yield web


def get(web: Web, folder: Path, sha256: str | None = None, **source: object) -> Downloaded:
    return download(Download(**{"url": web.url, "file": "file.bin"} | source), folder, sha256)  # type: ignore[arg-type]


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


def test_a_file_arrives_whole_and_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    source = Download(url=web.url, file="file.bin", bytes=len(CONTENT), checksum=f"sha256:{SHA256}")
    first = download(source, tmp_path, progress=lambda *step: steps.append(step))
    assert (first.path.read_bytes(), first.sha256, first.fetched, first.known) == (CONTENT, SHA256, True, True)
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert names(tmp_path) == {"file.bin", RECORD}
    again = download(source, tmp_path)
    assert (again.fetched, len(web.ranges)) == (False, 1)


def test_an_md5_checksum_is_compared_too(web: Web, tmp_path: Path) -> None:
    assert get(web, tmp_path, checksum=f"md5:{hashlib.md5(CONTENT).hexdigest()}").sha256 == SHA256
    with pytest.raises(DataError, match="expected md5:0000"):
        get(web, tmp_path / "b", checksum=f"md5:{'0' * 32}")


def test_a_dropped_connection_is_resumed(web: Web, tmp_path: Path) -> None:
    web.cut = [100_000, 1, 150_000]
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges == ["", "bytes=100000-", "bytes=100001-", "bytes=250001-"]


def test_a_server_that_cannot_resume_begins_again(web: Web, tmp_path: Path) -> None:
    web.resumes, web.cut = False, [100_000, 300_000]
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges == ["", "bytes=100000-", "bytes=300000-"]


def test_an_early_end_is_noticed_though_the_server_tells_no_length(web: Web, tmp_path: Path) -> None:
    web.announced, web.cut = 0, [100_000]
    assert get(web, tmp_path, bytes=len(CONTENT)).sha256 == SHA256
    assert web.ranges == ["", "bytes=100000-"]
    web.resumes, web.cut = False, [100_000] * 20
    with pytest.raises(DataError, match="the connection ended after 100,000 of 400,000 bytes; 100,000 bytes are kept"):
        get(web, tmp_path / "b", bytes=len(CONTENT))


def test_a_file_that_changed_in_between_is_not_glued_together(web: Web, tmp_path: Path) -> None:
    web.cut = [100_000] + [0] * 6
    with pytest.raises(DataError, match="100,000 bytes are kept, run again to go on"):
        get(web, tmp_path)
    other = bytes(reversed(CONTENT))
    web.content, web.tag, web.cut = other, '"2"', []
    assert get(web, tmp_path).path.read_bytes() == other
    assert web.ranges[-1] == "bytes=100000-"


def test_without_a_tag_nothing_is_glued_together(web: Web, tmp_path: Path) -> None:
    web.tag, web.cut = "", [100_000]
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges == ["", ""]


def test_all_of_it_was_there_already(web: Web, tmp_path: Path) -> None:
    (tmp_path / ".file.bin.part").write_bytes(CONTENT)
    (tmp_path / ".file.bin.part.version").write_text(web.tag)
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges == [f"bytes={len(CONTENT)}-"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b/.file.bin.part").write_bytes(CONTENT + b"more")
    (tmp_path / "b/.file.bin.part.version").write_text(web.tag)
    assert get(web, tmp_path / "b").sha256 == SHA256


def test_a_wrong_checksum_leaves_nothing(web: Web, tmp_path: Path) -> None:
    for wrong in ({"checksum": f"sha256:{'0' * 64}"}, {"sha256": "0" * 64}):
        with pytest.raises(DataError, match=rf"the checksum is {SHA256}, expected sha256:0000.*try again") as e:
            get(web, tmp_path, **wrong)  # type: ignore[arg-type]
        assert "\n" not in str(e.value)
        assert names(tmp_path) == set()
    assert get(web, tmp_path, SHA256.upper(), checksum=f"sha256:{'0' * 64}").known


def test_an_unpublished_checksum_is_remembered_and_compared(web: Web, tmp_path: Path) -> None:
    assert not get(web, tmp_path).known
    assert json.loads((tmp_path / RECORD).read_text())["file.bin"]["sha256"] == SHA256
    again = get(web, tmp_path)
    assert (again.known, again.fetched) == (True, False)
    (tmp_path / "file.bin").write_bytes(b"damaged on disk")
    assert (get(web, tmp_path).sha256, len(web.ranges)) == (SHA256, 2)
    (tmp_path / "file.bin").unlink()
    web.content = b"another archive under the same name"
    with pytest.raises(DataError, match=f"expected sha256:{SHA256}"):
        get(web, tmp_path)
    (tmp_path / RECORD).write_text("not json")
    assert not get(web, tmp_path).known


def test_no_connection_and_refusals_are_one_line(web: Web, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/file"
        with pytest.raises(DataError, match=r"no connection \(.*\); check the network"):
            get(web, tmp_path, url=url)
    with pytest.raises(DataError, match=r"^http://\[::x/file: "):
        get(web, tmp_path, url="http://[::x/file")
    web.status = 404
    with pytest.raises(DataError, match=r"the server answers 404 Not Found; see the dataset's page"):
        get(web, tmp_path)
    web.status = 503
    with pytest.raises(DataError, match="the server answers 503"):
        get(web, tmp_path)
    web.status = 200
    with pytest.raises(DataError, match=r"the server has 400,000 bytes, file\.bin should have 12"):
        get(web, tmp_path, bytes=12)
    with sole_writer(tmp_path, "download"), pytest.raises(DataError, match="another download is writing"):
        get(web, tmp_path)
    assert names(tmp_path) == set()


def test_no_room_is_said_before_anything_is_written(web: Web, tmp_path: Path) -> None:
    web.announced = 10**15
    with pytest.raises(DataError, match=r"file\.bin needs 1,000,000,000,000,000 more bytes, [0-9,]+ are free"):
        get(web, tmp_path)
    web.announced = None
    source = Download(url=web.url, file="a.tar", bytes=len(CONTENT))
    with pytest.raises(DataError, match=r"a\.tar with what is unpacked from it needs 1,000,000,400,000 more bytes"):
        download(source, tmp_path, unpacked_bytes=10**12)
    assert names(tmp_path) == set()


SCRIPT = """
import sys
from emgup_model.data.descriptor import Download
from emgup_model.data.download import download
from emgup_model.errors import DataError
try:
    download(Download(url=sys.argv[1], file="file.bin"), sys.argv[2])
except DataError as e:
    sys.exit(str(e))
"""


def command(web: Web, folder: Path) -> list[str]:
    return [sys.executable, "-c", SCRIPT, web.url, str(folder)]


def test_no_room_in_the_middle_keeps_what_is_there(web: Web, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    done = subprocess.run(command(web, tmp_path), preexec_fn=limit, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "cannot be written" in line
    assert "make room and run again, it goes on where it stopped" in line
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges[-1] == "bytes=200000-"


def test_a_killed_download_goes_on(web: Web, tmp_path: Path) -> None:
    web.slow_s = 0.3
    process = subprocess.Popen(command(web, tmp_path))
    part = tmp_path / ".file.bin.part"
    end = time.monotonic() + 30
    try:
        while not (part.exists() and part.stat().st_size) and time.monotonic() < end and process.poll() is None:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    kept = part.stat().st_size
    assert 0 < kept < len(CONTENT)
    (tmp_path / "tmpabcdefgh").hardlink_to(part)  # what pooch leaves if it is killed a little later
    web.slow_s = 0
    assert get(web, tmp_path).sha256 == SHA256
    assert web.ranges[-1] == f"bytes={kept}-"
    assert names(tmp_path) == {"file.bin", RECORD}


def make_tar(path: Path, members: dict[str, bytes], kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = (len(content), kind) if kind == tarfile.REGTYPE else (0, kind)
            tar.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


MEMBERS = {"set/a.csv": b"1,2\n" * 500, "set/deep/b.csv": b"", "c.txt": b"c"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_archives_unpack_and_go_on(tmp_path: Path, name: str) -> None:
    archive = (make_zip if name.endswith("zip") else make_tar)(tmp_path / name, MEMBERS)
    out = tmp_path / "out"
    assert unpack(archive, out) == 3
    assert {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()} == MEMBERS
    (out / "set/a.csv").write_bytes(b"half")
    before = (out / "c.txt").stat().st_mtime_ns
    seen: list[tuple[int, int]] = []
    assert unpack(archive, out, lambda *step: seen.append(step)) == 3
    assert (out / "set/a.csv").read_bytes() == MEMBERS["set/a.csv"]
    assert (out / "c.txt").stat().st_mtime_ns == before
    assert len(seen) == 3
    assert seen[-1][0] <= seen[-1][1]


def test_archives_that_reach_outside_are_refused(tmp_path: Path) -> None:
    bad = [
        make_tar(tmp_path / "dots.tar", {"../evil": b"x"}),
        make_tar(tmp_path / "root.tar", {"/tmp/evil": b"x"}),
        make_zip(tmp_path / "dots.zip", {"a/../../evil": b"x"}),
        make_zip(tmp_path / "back.zip", {"..\\evil": b"x"}),
    ]
    for archive in bad:
        with pytest.raises(DataError, match="points outside the folder"):
            unpack(archive, tmp_path / "out")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
        with pytest.raises(DataError, match="is a link or a device"):
            unpack(make_tar(tmp_path / "link.tar", {"link": b""}, kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    for archive in (make_tar(tmp_path / "a.tar", MEMBERS), make_zip(tmp_path / "a.zip", MEMBERS)):
        archive.write_bytes(archive.read_bytes()[: 700 if archive.suffix == ".tar" else 100])
        with pytest.raises(DataError, match=r"not a whole archive .*download it again"):
            unpack(archive, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.csv"))
