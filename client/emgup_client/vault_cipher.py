"""Encryption at rest for the vault: AES-256-GCM, with a key from the operating system's keyring or from a file.

A sealed file is MAGIC, a random 96-bit nonce, and the ciphertext with its tag. The file's place in the vault is
authenticated with it, so a file that was moved to another user or cell does not open.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pydantic import Field, ValidationError

from emgup_model.config import Frozen, canonical_json
from emgup_model.errors import VaultError
from emgup_model.files import write_atomic

MAGIC = b"EMGUPV1\n"
SETTINGS = ".encryption.json"
KEYRING_SERVICE = "emgup-vault"
HANDED_KEY = "EMGUP_VAULT_KEY_FD"
"""Environment variable with an open file that holds the keyring's key, for a process that may not ask the keyring."""
_NONCE_BYTES = 12
_CHECK = b"this key opens the vault"


class Cipher(Protocol):
    """What happens to a file's bytes on their way to the disk and back."""

    def seal(self, data: bytes, place: str) -> bytes:
        """The bytes to write at ``place`` (path below the vault)."""

    def open(self, data: bytes, place: str) -> bytes:
        """The bytes that were sealed for ``place``. Raises VaultError."""


class Plain:
    """No encryption. A sealed file is not taken for a plain one."""

    def seal(self, data: bytes, place: str) -> bytes:
        """The same bytes."""
        return data

    def open(self, data: bytes, place: str) -> bytes:
        """The same bytes."""
        if data.startswith(MAGIC):
            raise VaultError(f"{place} is encrypted, but the vault's {SETTINGS} is missing; restore it")
        return data


class AesGcm:
    """AES-256-GCM. ``accept_plain``: while a vault is being encrypted, files that still wait are readable."""

    def __init__(self, key: bytes, accept_plain: bool = False) -> None:
        self._aead = AESGCM(key)
        self._accept_plain = accept_plain

    def seal(self, data: bytes, place: str) -> bytes:
        """Encrypt under a fresh nonce."""
        nonce = os.urandom(_NONCE_BYTES)
        return MAGIC + nonce + self._aead.encrypt(nonce, data, place.encode())

    def open(self, data: bytes, place: str) -> bytes:
        """Decrypt; altered, moved and foreign files are refused."""
        if not data.startswith(MAGIC):
            if self._accept_plain:
                return data
            raise VaultError(f"{place} is not encrypted, but the vault is; it was put there from outside")
        nonce, ciphertext = data[len(MAGIC) :][:_NONCE_BYTES], data[len(MAGIC) + _NONCE_BYTES :]
        try:
            return self._aead.decrypt(nonce, ciphertext, place.encode())
        except (InvalidTag, ValueError):
            raise VaultError(f"{place} was altered, moved, or encrypted with another key") from None


class KeyPlace(Frozen):
    """Where a vault's key is: the keyring's entry for ``name``, or the file of that path."""

    kind: Literal["keyring", "file"]
    name: str


class Encryption(Frozen):
    """The vault's settings file.

    Attributes:
        key: where the key is.
        check: a known text, sealed (hex): tells a wrong key at once.
        converting: files from before may still be plain.
    """

    key: KeyPlace
    check: str = Field(pattern="^([0-9a-f]{2})+$")
    converting: bool = False


def vault_cipher(vault: Path) -> Cipher:
    """How the files of the vault folder ``vault`` are read and written.

    Raises:
        VaultError: the vault is encrypted and its key is missing, readable by others, or another one.
    """
    settings = read_settings(vault)
    if settings is None:
        return Plain()
    cipher = AesGcm(read_key(settings.key), settings.converting)
    try:
        cipher.open(bytes.fromhex(settings.check), SETTINGS)
    except VaultError:
        raise VaultError(f"the key at {settings.key.kind} {settings.key.name} does not open {vault}") from None
    return cipher


def read_settings(vault: Path) -> Encryption | None:
    """The vault's encryption; None = not encrypted. Raises VaultError for a settings file that is damaged."""
    path = vault / SETTINGS
    try:
        return Encryption.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise VaultError(f"{path} is damaged; restore it from a copy") from None


def write_settings(vault: Path, place: KeyPlace, key: bytes, converting: bool) -> None:
    """Make ``vault`` an encrypted one."""
    settings = Encryption(key=place, check=AesGcm(key).seal(_CHECK, SETTINGS).hex(), converting=converting)
    write_atomic(vault / SETTINGS, canonical_json(settings), mode=0o600)


def make_key(place: KeyPlace) -> bytes:
    """Make a key and keep it at ``place``; one that is there already is used. Raises VaultError."""
    if place.kind == "keyring":
        if _from_keyring(place.name) is None:
            _keyring().set_password(KEYRING_SERVICE, place.name, secrets.token_hex(32))
    elif not Path(place.name).exists():
        write_atomic(place.name, secrets.token_hex(32) + "\n", mode=0o600)
    return read_key(place)


def read_key(place: KeyPlace) -> bytes:
    """The 32 bytes of a key. Raises VaultError: missing, readable by others, or no key."""
    text = _from_keyring(place.name) if place.kind == "keyring" else _from_file(Path(place.name))
    try:
        key = bytes.fromhex(text or "")
    except ValueError:
        key = b""
    if len(key) != 32:
        raise VaultError(f"no vault key at {place.kind} {place.name}; without it the vault cannot be opened")
    return key


@contextlib.contextmanager
def key_to_hand_over(vault: Path) -> Iterator[int | None]:
    """An open file in memory with the key of ``vault``, to be inherited and named in ``HANDED_KEY``.

    None where the vault's key is not in the keyring, or cannot be read: then the process that opens the vault says why.
    """
    try:
        settings = read_settings(vault)
        key = read_key(settings.key) if settings is not None and settings.key.kind == "keyring" else None
    except VaultError:
        key = None
    if key is None:
        yield None
        return
    fd = os.memfd_create("vault-key")
    try:
        os.write(fd, key.hex().encode())
        yield fd
    finally:
        os.close(fd)


def drop_key(place: KeyPlace) -> None:
    """Delete a key: what it sealed, on this disk and in every copy, is unreadable from now on."""
    if place.kind == "file":
        Path(place.name).unlink(missing_ok=True)
    elif _from_keyring(place.name) is not None:
        _keyring().delete_password(KEYRING_SERVICE, place.name)


def _from_file(path: Path) -> str | None:
    try:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise VaultError(f"others may read the vault key {path}; make it yours alone: chmod 600 {path}")
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None


def _from_keyring(name: str) -> str | None:
    if handed := os.environ.get(HANDED_KEY):
        return os.pread(int(handed), 2 * 32, 0).decode()
    keyring = _keyring()
    try:
        text: str | None = keyring.get_password(KEYRING_SERVICE, name)
        return text
    except keyring.errors.KeyringError as e:
        raise VaultError(f"the keyring of this system gives no key ({e}); unlock it, or use a key file") from None


def _keyring() -> Any:
    try:
        import keyring
        import keyring.errors
    except ImportError:
        raise VaultError("the system's keyring needs: pip install 'emgup[keyring]'; or use a key file") from None
    return keyring
