"""What a vault holds, read only: its users, their saved models, and adaptations that are under way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emgup_client.vault import CHECKPOINT, RECORD, VAULT, Contents, VaultCell
from emgup_client.vault_cipher import vault_cipher


@dataclass(frozen=True)
class SavedModel:
    """One complete cell: whose it is, its key, when it was saved (seconds since the epoch), and its contents."""

    user: str
    key: str
    saved: float
    contents: Contents

    @property
    def release_id(self) -> str:
        """The release that was adapted."""
        return str(self.contents.evaluation.get("release_id", ""))


def users_of(home: Path) -> list[str]:
    """Users with a folder in the vault, in order of name."""
    vault = home / VAULT
    return sorted(p.name for p in vault.iterdir() if p.is_dir()) if vault.is_dir() else []


def cells_of(home: Path, user: str) -> list[Path]:
    """Folders of a user's cells, complete or not."""
    folder = home / VAULT / user
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def saved_models(home: Path, user: str) -> list[SavedModel]:
    """A user's complete cells, the one saved last at the end.

    Raises:
        VaultError: the vault is encrypted and cannot be opened.
    """
    cipher = vault_cipher(home / VAULT)
    found = []
    for folder in cells_of(home, user):
        contents = VaultCell(folder, cipher).contents()
        if contents is not None:
            found.append(SavedModel(user, folder.name, (folder / RECORD).stat().st_mtime, contents))
    return sorted(found, key=lambda s: (s.saved, s.key))


def under_way(home: Path, user: str) -> dict[str, list[str]]:
    """Cells whose adaptation has checkpoints, with the names of the stages that have one."""
    out = {}
    for folder in cells_of(home, user):
        stages = sorted(p.stem.removeprefix(CHECKPOINT) for p in folder.glob(f"{CHECKPOINT}*"))
        if stages:
            out[folder.name] = stages
    return out
