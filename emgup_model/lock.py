"""A file or folder held by one process at a time; the kernel frees it when the process ends, however."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

POLL_S = 0.2


@contextlib.contextmanager
def exclusive(path: Path, busy: Exception | None = None, wait_s: float = 0.0) -> Iterator[None]:
    """Hold ``path`` while the context lasts; a file that is missing is made, readable by its owner only.

    Args:
        path: file, or existing folder.
        busy: raised when another process still holds it after ``wait_s`` seconds; None = wait for as long as it takes.
        wait_s: patience, seconds.

    Raises:
        OSError: it cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY) if path.is_dir() else os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if busy is None:
            fcntl.flock(fd, fcntl.LOCK_EX)
        else:
            _lock(fd, busy, time.monotonic() + wait_s)
        yield
    finally:
        os.close(fd)


def _lock(fd: int, busy: Exception, end: float) -> None:
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                raise busy from None
            time.sleep(POLL_S)
