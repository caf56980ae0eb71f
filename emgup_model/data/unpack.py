"""Unpacking a downloaded archive: plain files only, each in place only when whole, those that are there left alone."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from emgup_model.errors import DataError
from emgup_model.files import atomic_path

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Member:
    """A regular file in the archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(name: str) -> bool:
    """Whether the name says that it is an archive."""
    return name.endswith((".tar", ".tar.gz", ".tgz", ".zip"))


def unpack(archive: Path, folder: Path, progress: Progress | None = None) -> int:
    """Unpack ``archive`` into ``folder``, going on where an earlier call was killed.

    Args:
        archive: .tar, .tar.gz, .tgz or .zip
        folder: where its files go, under their own names
        progress: called as (bytes unpacked, bytes in all); for tar the size of the archive stands for all

    Returns:
        Number of files.

    Raises:
        DataError: damaged, or with a name that leaves the folder, a link or a device; or no space.
    """
    files = done = 0
    total = archive.stat().st_size
    try:
        for member, in_all in _members(archive, total):
            target = folder / _safe(archive, member.name)
            if not (target.is_file() and target.stat().st_size == member.size):
                _write(member, target)
            files, done = files + 1, done + member.size
            if progress:
                progress(min(done, in_all), in_all)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as e:
        raise DataError(f"{archive}: not a whole archive ({e}); delete it and download it again") from None
    except OSError as e:
        raise DataError(f"{folder}: cannot be written ({e.strerror or e}); make room and run again") from None
    return files


def _members(archive: Path, total: int) -> Iterator[tuple[_Member, int]]:
    """Regular files, with the bytes that all of them have."""
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as file:
            infos = [i for i in file.infolist() if not i.is_dir()]
            for info in infos:
                if (info.external_attr >> 16) & 0o170000 not in (0, 0o100000):
                    raise DataError(
                        f"{archive}: '{info.filename}' is a link or a device; only plain files are unpacked"
                    )
                yield (
                    _Member(info.filename, info.file_size, partial(file.open, info)),
                    sum(i.file_size for i in infos),
                )
        return
    with tarfile.open(archive, "r:*") as tar:
        for entry in tar:
            if entry.isdir() or entry.name == "pax_global_header":
                continue
            if not entry.isreg():
                raise DataError(f"{archive}: '{entry.name}' is a link or a device; only plain files are unpacked")
            yield _Member(entry.name, entry.size, partial(tar.extractfile, entry)), total


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise DataError(f"{archive}: '{name}' points outside the folder; this is not the dataset's archive")
    return path


def _write(member: _Member, target: Path) -> None:
    with atomic_path(target) as tmp, tmp.open("wb") as out:
        source = member.open()
        if source is None:
            raise tarfile.ReadError(f"'{member.name}' cannot be read")
        with source:
            shutil.copyfileobj(source, out, 1 << 20)
        if out.tell() != member.size:
            raise tarfile.ReadError(f"'{member.name}' is cut off")
