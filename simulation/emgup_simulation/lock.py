"""One run folder, one writer at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from emgup_model.errors import RunError


@contextlib.contextmanager
def exclusive(path: Path, wait_s: float) -> Iterator[None]:
    """Hold a lock that the kernel frees when its process ends. Raises RunError when another holds it for too long."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + wait_s
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise RunError(
                        f"another run is using {path.parent}; wait for it, or choose another --out"
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(fd)
