"""The private vault: personalized weights and everything about their making stay here, readable by the owner only.

``<home>/vault/<user>/<cell key>/`` holds ``weights.safetensors``, ``evaluation.json`` and, written last, the record
``reply.json``: a cell that has one is complete. It names the SHA-256 of the other two, and the adaptation that made the
weights. Files are 0600, folders 0700.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emgup_model.config import canonical_json
from emgup_model.files import fsync_dir, write_atomic
from emgup_model.wire import Reply, WireError

WEIGHTS, EVALUATION, RECORD = "weights.safetensors", "evaluation.json", "reply.json"
LOCK, ATTEMPTS = ".lock", ".attempts"
MAX_ATTEMPTS = 3
"""A cell that took its process with it this often is answered with CRASHED instead of another attempt."""


def private_dir(path: Path) -> Path:
    """Make ``path`` and its missing parents durable folders of mode 0700; an existing ``path`` is set to 0700."""
    if not path.is_dir():
        if not path.parent.is_dir():
            private_dir(path.parent)
        with contextlib.suppress(FileExistsError):  # another worker may be making it
            path.mkdir(mode=0o700)
        fsync_dir(path.parent)
    path.chmod(0o700)
    return path


def write_private(path: Path, data: bytes | str) -> None:
    """Write a file of mode 0600 atomically and durably."""
    write_atomic(path, data, mode=0o600)


@contextlib.contextmanager
def locked_cell(home: Path, user: str, key: str) -> Iterator[VaultCell]:
    """The vault folder of one user and cell, for this process alone while the context lasts.

    ``user`` and ``key`` have been validated as file names by the wire schema. The lock is the kernel's, so that of a
    killed process is free at once.
    """
    folder = private_dir(private_dir(private_dir(home) / "vault") / user) / key
    private_dir(folder)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield VaultCell(folder)
    finally:
        os.close(fd)


class VaultCell:
    """One cell's folder. Made by :func:`locked_cell`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes:
        """A file of the cell. Raises OSError."""
        return (self.folder / name).read_bytes()

    def reply(self) -> Reply | None:
        """The reply of a completed cell; None when there is none or its files are not those that were saved."""
        try:
            record = json.loads((self.folder / RECORD).read_bytes())
            if record["sha256"] != {name: _sha256(self.folder / name) for name in (WEIGHTS, EVALUATION)}:
                return None
            return Reply.decode(record["reply"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, WireError):
            return None

    def sibling(self, adaptation: str) -> tuple[bytes, dict[str, Any]] | None:
        """(weights, evaluation) of a completed cell of the same user that was adapted in the same way; None if none.

        Siblings are read without their lock: a record appears after its files and is checked against them, so one that
        is being written or removed at the moment is only not found.
        """
        others = sorted(p for p in self.folder.parent.iterdir() if p != self.folder)
        return next((found for p in others if (found := VaultCell(p)._adapted(adaptation)) is not None), None)

    def _adapted(self, adaptation: str) -> tuple[bytes, dict[str, Any]] | None:
        try:
            record = json.loads((self.folder / RECORD).read_bytes())
            if record["adaptation"] != adaptation:
                return None
            files = {name: (self.folder / name).read_bytes() for name in (WEIGHTS, EVALUATION)}
            if record["sha256"] != {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}:
                return None
            return files[WEIGHTS], json.loads(files[EVALUATION])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def begin(self) -> int:
        """Note an attempt and remove what a killed one left behind; returns how many attempts never ended."""
        for path in self.folder.iterdir():
            if path.name not in (LOCK, ATTEMPTS):
                path.unlink()
        unfinished = self._attempts()
        marker = self.folder / ATTEMPTS  # outlives the process, need not outlive the machine: no fsync
        marker.touch(mode=0o600)
        marker.write_text(str(unfinished + 1))
        return unfinished

    def end(self) -> None:
        """The attempt ended by itself, well or not: it does not count as a crash."""
        (self.folder / ATTEMPTS).unlink(missing_ok=True)

    def commit(self, weights: bytes, evaluation: Mapping[str, Any], reply: Reply, adaptation: str) -> None:
        """Save a personalized model; the record comes last, so a cell that has one is complete.

        Args:
            weights: safetensors.
            evaluation: everything about the making that stays here.
            reply: what the server is told.
            adaptation: key of the adaptation that made the weights, for :meth:`sibling`.
        """
        files = {WEIGHTS: weights, EVALUATION: canonical_json(dict(evaluation))}
        for name, data in files.items():
            write_private(self.folder / name, data)
        sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        record = {"sha256": sha256, "adaptation": adaptation, "reply": reply.encode()}
        write_private(self.folder / RECORD, canonical_json(record))
        self.end()

    def _attempts(self) -> int:
        try:
            return max(0, int((self.folder / ATTEMPTS).read_text()))
        except (OSError, ValueError):
            return 0


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
