"""Public datasets from the web: checked, resumed where the server allows it, and in place only when complete.

pooch compares the checksum and puts the file in its place; this module gives it a downloader that goes on where an
earlier one stopped, and remembers the checksum of files for which nobody has published one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pooch

from emgup_model.data.descriptor import Download
from emgup_model.errors import DataError
from emgup_model.files import sole_writer, write_atomic

# Beside the files: what was downloaded, and its checksum.
RECORD = ".download.json"
TIMEOUT_S = 60.0
# A long download may lose its connection often: give up only after this many attempts in a row that brought nothing.
FRUITLESS = 5
WAIT_S = 2.0

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Downloaded:
    """A file that is in place. ``fetched``: it was not there before; ``known``: its checksum was compared with one."""

    path: Path
    bytes: int
    sha256: str
    fetched: bool
    known: bool


class _TryAgainError(Exception):
    """The connection or the server failed in a way that may pass."""


def download(
    source: Download,
    folder: str | Path,
    sha256: str | None = None,
    progress: Progress | None = None,
    unpacked_bytes: int = 0,
) -> Downloaded:
    """Bring ``source`` into ``folder``; a file that is there and has the right checksum is left alone.

    An interrupted or killed download goes on where it stopped if the server allows it and its file has not changed.

    Args:
        source: what to download
        folder: made when it does not exist
        sha256: expected checksum (hex), instead of the descriptor's or the remembered one
        progress: called as (bytes so far, bytes in all; 0 when the server does not tell)
        unpacked_bytes: room that must be free besides, for what will be made of the file

    Raises:
        DataError: no connection, a refusal, another size or checksum than expected, no space, or another download
            into the same folder.
    """
    folder = Path(folder)
    with sole_writer(folder, "download"):
        record = _read_record(folder)
        before = record.get(source.file, {}).get("sha256")
        known = f"sha256:{sha256.lower()}" if sha256 else source.checksum or (f"sha256:{before}" if before else None)
        path, part = folder / source.file, folder / f".{source.file}.part"
        _sweep(folder, part)
        was = _stat(path)
        try:
            pooch.get_logger().setLevel("WARNING")
            pooch.retrieve(
                source.url, known, source.file, folder, downloader=_Resuming(source, part, progress, unpacked_bytes)
            )
        except ValueError as e:
            _forget(part)
            raise DataError(_mismatch(source, known, str(e))) from None
        except OSError as e:
            raise DataError(_unwritable(folder, e)) from None
        _forget(part)
        # Reading 431 GiB once more would take a while, so only when pooch has not.
        found = known[7:] if known and known.startswith("sha256:") else pooch.file_hash(str(path))
        record[source.file] = {"url": source.url, "sha256": found, "bytes": path.stat().st_size}
        write_atomic(folder / RECORD, json.dumps(record, indent=1, sort_keys=True) + "\n")
    return Downloaded(path, path.stat().st_size, found, _stat(path) != was, known is not None)


class _Resuming:
    """What pooch calls to get a file: into ``part`` first, which outlives this process."""

    def __init__(self, source: Download, part: Path, progress: Progress | None, unpacked_bytes: int) -> None:
        self._source, self._part, self._progress, self._unpacked_bytes = source, part, progress, unpacked_bytes

    def __call__(self, url: str, output_file: str, _: Any) -> None:
        self._fetch(url)
        target = Path(output_file)
        target.unlink()
        # The file is pooch's until its checksum has been compared; a kill meanwhile must not cost the download.
        try:
            os.link(self._part, target)
        except OSError:  # a file system without hard links
            self._part.replace(target)

    def _fetch(self, url: str) -> None:
        fruitless, moved = 0, False
        with httpx.Client(follow_redirects=True, timeout=TIMEOUT_S, headers={"Accept-Encoding": "identity"}) as client:
            while True:
                before = _size(self._part)
                try:
                    self._attempt(client, url)
                    return
                except (httpx.TransportError, _TryAgainError) as e:
                    gained = _size(self._part) > before
                    moved |= gained
                    fruitless = 0 if gained else fruitless + 1
                    if not moved or fruitless > FRUITLESS:
                        have = _size(self._part)
                        kept = f"; {have:,} bytes are kept, run again to go on" if have else ""
                        raise DataError(f"{url}: {_reason(e)}{kept}") from None
                except (httpx.HTTPError, httpx.InvalidURL) as e:
                    raise DataError(f"{url}: {_reason(e)}") from None
                time.sleep(min(WAIT_S * (fruitless + 1), 60.0))

    def _attempt(self, client: httpx.Client, url: str) -> None:
        """One request, from where ``part`` ends if it is known which version of the server's file it is of."""
        have, version = _size(self._part), _version_of(self._part)
        wanted = {"Range": f"bytes={have}-", "If-Range": version} if have and version else {}
        with client.stream("GET", url, headers=wanted) as answer:
            if answer.status_code == 416 and answer.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it was there
            goes_on = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            begin_again = wanted and not goes_on and answer.status_code in (206, 416)  # not the piece asked for
            if not begin_again and not goes_on and answer.status_code != 200:
                _refused(answer)
            if begin_again:
                _forget(self._part)
            else:
                self._receive(answer, have if goes_on else 0)
        if begin_again:
            self._attempt(client, url)

    def _receive(self, answer: httpx.Response, have: int) -> None:
        """Append the answer to the ``have`` bytes that are kept, or begin ``part`` anew."""
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else 0
        self._check_room(total, have)
        if not have:
            _note_version(self._part, answer)
        with self._part.open("ab" if have else "wb") as file:
            for block in answer.iter_raw():
                file.write(block)
                have += len(block)
                if self._progress:
                    self._progress(have, total)
        expected = self._source.bytes  # a server that does not tell the length can end early without an error
        if expected is not None and have != expected:
            raise _TryAgainError(f"the connection ended after {have:,} of {expected:,} bytes")

    def _check_room(self, total: int, have: int) -> None:
        expected, file = self._source.bytes, self._source.file
        if expected is not None and total not in (0, expected):
            raise DataError(f"{self._source.url}: the server has {total:,} bytes, {file} should have {expected:,}")
        free, needed = shutil.disk_usage(self._part.parent).free, max(0, total - have) + self._unpacked_bytes
        if needed > free:
            besides = " with what is unpacked from it" if self._unpacked_bytes else ""
            raise DataError(f"{self._part.parent}: {file}{besides} needs {needed:,} more bytes, {free:,} are free")


def _refused(answer: httpx.Response) -> NoReturn:
    said = f"the server answers {answer.status_code} {answer.reason_phrase}"
    if answer.status_code == 429 or answer.status_code >= 500:
        raise _TryAgainError(said)
    hint = "see the dataset's page for where it is now, and give its address as an override: downloads.PART.url=..."
    raise DataError(f"{answer.url}: {said}; {hint}")


def _reason(error: Exception) -> str:
    if isinstance(error, httpx.TimeoutException):
        return f"no answer within {TIMEOUT_S:.0f} s"
    if isinstance(error, httpx.ConnectError):
        return f"no connection ({error}); check the network"
    return " ".join(str(error).split()) or type(error).__name__


def _version_of(part: Path) -> str:
    try:
        return _version_file(part).read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _note_version(part: Path, answer: httpx.Response) -> None:
    """Keep what tells this version of the server's file from another: only a strong tag or a date will do."""
    tag = answer.headers.get("ETag", "")
    part.unlink(missing_ok=True)
    version = tag if tag.startswith('"') else answer.headers.get("Last-Modified", "")
    write_atomic(_version_file(part), version.encode("ascii", "ignore"))


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _stat(path: Path) -> tuple[int, int] | None:
    return (path.stat().st_ino, path.stat().st_mtime_ns) if path.exists() else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _sweep(folder: Path, part: Path) -> None:
    """Remove pooch's own temporary file, if it was killed: empty, or ``part`` under another name."""
    for path in folder.glob("tmp????????"):
        if not path.stat().st_size or (part.exists() and path.samefile(part)):
            path.unlink()


def _read_record(folder: Path) -> dict[str, dict[str, Any]]:
    with contextlib.suppress(OSError, ValueError):
        data = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        if isinstance(data, dict) and all(isinstance(v, dict) for v in data.values()):
            return data
    return {}


def _mismatch(source: Download, known: str | None, said: str) -> str:
    got = re.search(r"got ([0-9a-f]+)", said)
    return (
        f"{source.url}: the checksum is {got[1] if got else 'another'}, expected {known}; the download is damaged or "
        "the server's file has changed, and it was removed: try again, or give --sha256 if it is what you want"
    )


def _unwritable(folder: Path, error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    hint = "; make room and run again, it goes on where it stopped" if full else ""
    return f"{folder}: cannot be written ({error.strerror or error}){hint}"
