"""Writing files so that a kill or a full disk leaves the old file or the new one, never a mixture."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from emgup_model.errors import DataError
from emgup_model.lock import exclusive


def fsync_dir(path: Path) -> None:
    """Make a rename in ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def atomic_path(target: str | Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``target``; on success fsync it and rename it over ``target``.

    On any exception the temporary file is removed and ``target`` is untouched.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
    os.close(fd)
    tmp = Path(name)
    try:
        yield tmp
        tmp.chmod(mode)
        with tmp.open("rb") as f:
            os.fsync(f.fileno())
        tmp.replace(target)
        fsync_dir(target.parent)
    finally:
        tmp.unlink(missing_ok=True)


def write_atomic(target: str | Path, data: bytes | str, mode: int = 0o644) -> None:
    """Write ``data`` to ``target`` atomically and durably."""
    with atomic_path(target, mode) as tmp:
        tmp.write_bytes(data.encode() if isinstance(data, str) else data)


@contextlib.contextmanager
def sole_writer(folder: Path, what: str) -> Iterator[None]:
    """Make ``folder`` and hold it against others of its kind; the kernel frees it when the process ends, however.

    Raises:
        DataError: another ``what`` (download, import) is writing it, or it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise DataError(f"{folder}: cannot be written ({e.strerror})") from None
    busy = DataError(f"another {what} is writing {folder}; wait for it, or give --out another folder")
    with exclusive(folder, busy):
        yield
