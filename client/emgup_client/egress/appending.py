"""Append-only files of JSON lines that outlive kills: every line is durable before its writer goes on."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from emgup_client.vault import private_dir
from emgup_model.config import canonical_json
from emgup_model.errors import DataError
from emgup_model.files import fsync_dir


class AppendOnly:
    """A file of JSON lines held by one process. A last line torn by a kill was never acted upon: it is cut off.

    Raises:
        DataError: another process holds the file, or a line in it is no JSON object.
    """

    def __init__(self, path: Path) -> None:
        private_dir(path.parent)
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.fchmod(self._fd, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise DataError(f"{path} is held by another process; one gate runs at a time") from None
        fsync_dir(path.parent)
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        self.torn_bytes = len(data) - whole
        if self.torn_bytes:
            os.ftruncate(self._fd, whole)
            os.fsync(self._fd)
        try:
            self.lines = parse_lines(data[:whole], path)
        except DataError:
            self.close()
            raise
        self._size = whole

    def append(self, line: dict[str, Any]) -> None:
        """Write one line and fsync it. On any error nothing of it stays. Raises OSError."""
        data = canonical_json(line) + b"\n"
        try:
            if os.write(self._fd, data) != len(data):
                raise OSError("the disk is full")
            os.fsync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        self.lines.append(line)

    def close(self) -> None:
        """Let another process have the file."""
        os.close(self._fd)


def parse_lines(data: bytes, path: Path) -> list[dict[str, Any]]:
    """All whole lines. Raises DataError naming the first that is no JSON object."""
    out = []
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            item = json.loads(line)
        except (ValueError, RecursionError):
            item = None
        if not isinstance(item, dict):
            raise DataError(f"{path} line {number} is damaged; nothing may leave until it is put right")
        out.append(item)
    return out
