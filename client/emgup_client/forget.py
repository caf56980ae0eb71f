"""Forgetting: personalized weights, checkpoints and everything about their making are deleted from the vault.

The use ledger and the audit log stay: they hold what has left the machine and what of the privacy budget is spent, no
signal and no weights. Deleted files can survive on a disk or in a backup; those of an encrypted vault are unreadable
once its key is gone.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from emgup_client.saved import cells_of, users_of
from emgup_client.vault import LOCK, VAULT, VaultCell
from emgup_client.vault_cipher import SETTINGS, drop_key, read_settings, vault_cipher
from emgup_model.errors import DataError, VaultError
from emgup_model.files import fsync_dir
from emgup_model.lock import exclusive


@dataclass(frozen=True)
class Forgotten:
    """How many vault entries and releases were deleted, and whether the vault's key was."""

    cells: int
    releases: int
    key: bool


def forget(home: Path, user: str | None, release: str | None, *, releases: bool, key: bool) -> Forgotten:
    """Delete from ``home``.

    Args:
        home: the client's private folder.
        user: whose entries; None = everybody's.
        release: beginning of a release's id: only what was made from it, and what is unfinished; None = all.
        releases: also the cached source releases.
        key: also the vault's key; only where nothing encrypted is left.

    Raises:
        DataError: there is no such user, or nothing of such a release.
        VaultError: an adaptation is running; or the key still opens something.
    """
    users = users_of(home)
    if user is not None and user not in users:
        raise DataError(f"{home / VAULT} holds nothing of user '{user}'")
    cells = [f for u in ([user] if user else users) for f in cells_of(home, u) if _made_from(home, f, release)]
    cached = _cached(home, release) if releases else []
    if release is not None and not cells and not cached:
        raise DataError(f"nothing in {home} was made from a release {release}…")
    for folder in cells:
        _delete_cell(folder)
    for name in users if user is None else [user]:
        _drop_if_empty(home / VAULT / name)
    for folder in cached:
        _delete(folder)
    return Forgotten(len(cells), len(cached), key and _forget_key(home))


def _made_from(home: Path, folder: Path, release: str | None) -> bool:
    """Whether a cell goes with a release. One that is not complete does not say, and can be made again: it goes."""
    if release is None:
        return True
    contents = VaultCell(folder, vault_cipher(home / VAULT)).contents()
    return contents is None or str(contents.evaluation.get("release_id", "")).startswith(release)


def _cached(home: Path, release: str | None) -> list[Path]:
    folder = home / "releases"
    return sorted(p for p in folder.iterdir() if p.name.startswith(release or "")) if folder.is_dir() else []


def _delete_cell(folder: Path) -> None:
    busy = VaultError(f"{folder} is being written by a running adaptation; stop the client first")
    with exclusive(folder / LOCK, busy):
        _delete(folder)


def _delete(folder: Path) -> None:
    shutil.rmtree(folder)
    fsync_dir(folder.parent)


def _drop_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        fsync_dir(folder.parent)


def _forget_key(home: Path) -> bool:
    settings = read_settings(home / VAULT)
    if settings is None:
        return False
    if users_of(home):
        raise VaultError("the vault still holds something that its key opens; forget everybody first")
    drop_key(settings.key)
    (home / VAULT / SETTINGS).unlink()
    fsync_dir(home / VAULT)
    return True
