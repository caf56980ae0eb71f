"""Turning a vault into an encrypted one, file by file; a kill on the way leaves a vault that works and can go on."""

from __future__ import annotations

from pathlib import Path

from emgup_client.saved import cells_of, users_of
from emgup_client.vault import ATTEMPTS, LOCK, VAULT, private_dir, write_private
from emgup_client.vault_cipher import MAGIC, AesGcm, KeyPlace, make_key, read_key, read_settings, write_settings
from emgup_model.errors import VaultError
from emgup_model.lock import exclusive


def encrypt_vault(home: Path, place: KeyPlace) -> int:
    """Encrypt everything in ``home``'s vault and all that will be written there; returns how many files changed.

    Args:
        home: the client's private folder.
        place: where the key is kept; it is made if there is none.

    Raises:
        VaultError: the vault is encrypted with another key, the key would lie inside the vault, or cannot be kept.
    """
    vault = private_dir(private_dir(home) / VAULT)
    if place.kind == "file" and Path(place.name).resolve().is_relative_to(vault.resolve()):
        raise VaultError("a key inside the vault protects nothing; keep it elsewhere")
    settings = read_settings(vault)
    if settings is not None and settings.key != place:
        raise VaultError(f"the vault is encrypted already, with the key at {settings.key.kind} {settings.key.name}")
    key = make_key(place) if settings is None else read_key(place)
    if settings is None or settings.converting:
        write_settings(vault, place, key, converting=True)  # first: what is sealed from now on can be opened
    cipher = AesGcm(key)
    changed = sum(_seal_cell(folder, cipher) for user in users_of(home) for folder in cells_of(home, user))
    write_settings(vault, place, key, converting=False)
    return changed


def _seal_cell(folder: Path, cipher: AesGcm) -> int:
    """Seal a cell's plain files, alone with it; returns how many."""
    changed = 0
    with exclusive(folder / LOCK):
        for path in sorted(folder.iterdir()):
            data = path.read_bytes()
            if path.name in (LOCK, ATTEMPTS) or data.startswith(MAGIC):
                continue
            write_private(path, cipher.seal(data, f"{folder.parent.name}/{folder.name}/{path.name}"))
            changed += 1
    return changed
