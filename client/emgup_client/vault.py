"""The private vault: personalized weights and everything about their making stay here, readable by the owner only.

``<home>/vault/<user>/<cell key>/`` holds ``weights.safetensors``, ``evaluation.json`` and, written last, the record
``reply.json``: a cell that has one is complete. It names the SHA-256 of the other two, and the adaptation that made the
weights. While an adaptation runs, ``checkpoint-<stage>.safetensors`` is where it can go on. Files are 0600, folders
0700; contents are encrypted where the owner asked for it (``vault_cipher``).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emgup_client.vault_cipher import Cipher, Plain, vault_cipher
from emgup_model.config import canonical_json
from emgup_model.errors import VaultError
from emgup_model.files import fsync_dir, write_atomic
from emgup_model.lock import exclusive
from emgup_model.wire import Reply, WireError

VAULT = "vault"
WEIGHTS, EVALUATION, RECORD = "weights.safetensors", "evaluation.json", "reply.json"
LOCK, ATTEMPTS = ".lock", ".attempts"
CHECKPOINT = "checkpoint-"
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
    folder = private_dir(private_dir(private_dir(home) / VAULT) / user) / key
    private_dir(folder)
    with exclusive(folder / LOCK):
        yield VaultCell(folder, vault_cipher(home / VAULT))


@dataclass(frozen=True)
class Contents:
    """What a complete cell holds, checked against its record."""

    record: dict[str, Any]
    weights: bytes
    evaluation: dict[str, Any]


class VaultCell:
    """One cell's folder. Made by :func:`locked_cell` for writing; reading needs no lock.

    A record appears after its files and is checked against them, so a cell that is being written or removed at the
    moment is only not complete.
    """

    def __init__(self, folder: Path, cipher: Cipher | None = None) -> None:
        self.folder = folder
        self._cipher = cipher or Plain()

    def read(self, name: str) -> bytes:
        """A file of the cell, decrypted. Raises OSError, VaultError."""
        return self._cipher.open((self.folder / name).read_bytes(), self._place(name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the cell: encrypted where the vault is, 0600, atomically and durably."""
        write_private(self.folder / name, self._cipher.seal(data, self._place(name)))

    def contents(self, adaptation: str | None = None) -> Contents | None:
        """What is there; None when the cell is not complete or its files are not those that were saved.

        Args:
            adaptation: None also when the weights were made by another adaptation than this.
        """
        try:
            record = json.loads(self.read(RECORD))
            if adaptation not in (None, record["adaptation"]):
                return None
            files = {name: self.read(name) for name in (WEIGHTS, EVALUATION)}
            if record["sha256"] != {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}:
                return None
            return Contents(record, files[WEIGHTS], json.loads(files[EVALUATION]))
        except (OSError, ValueError, KeyError, TypeError, VaultError):
            return None

    def reply(self) -> Reply | None:
        """The reply of a completed cell; None when there is none or its files are not those that were saved."""
        if (found := self.contents()) is None:
            return None
        try:
            return Reply.decode(found.record["reply"])
        except (KeyError, TypeError, AttributeError, WireError):
            return None

    def sibling(self, adaptation: str) -> Contents | None:
        """A completed cell of the same user that was adapted in the same way; None if there is none."""
        others = sorted(p for p in self.folder.parent.iterdir() if p != self.folder)
        found = (VaultCell(p, self._cipher).contents(adaptation) for p in others)
        return next((f for f in found if f is not None), None)

    def load(self, stage: str) -> bytes | None:
        """The checkpoint of a stage; None when there is none that opens."""
        with contextlib.suppress(OSError, VaultError):
            return self.read(_checkpoint(stage))
        return None

    def save(self, stage: str, data: bytes) -> None:
        """Keep a stage's checkpoint. The attempt has come further, so it does not count as one that led nowhere."""
        self.write(_checkpoint(stage), data)
        (self.folder / ATTEMPTS).write_text("0")

    def begin(self) -> int:
        """Note an attempt and remove what a killed one left, but for checkpoints; returns how many led nowhere."""
        for path in self.folder.iterdir():
            if path.name not in (LOCK, ATTEMPTS) and not path.name.startswith(CHECKPOINT):
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
            self.write(name, data)
        for path in self.folder.glob(f"{CHECKPOINT}*"):  # before the record: a complete cell has none
            path.unlink()
        sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        record = {"sha256": sha256, "adaptation": adaptation, "reply": reply.encode()}
        self.write(RECORD, canonical_json(record))
        self.end()

    def _attempts(self) -> int:
        try:
            return max(0, int((self.folder / ATTEMPTS).read_text()))
        except (OSError, ValueError):
            return 0

    def _place(self, name: str) -> str:
        return f"{self.folder.parent.name}/{self.folder.name}/{name}"


def _checkpoint(stage: str) -> str:
    return f"{CHECKPOINT}{stage}.safetensors"
