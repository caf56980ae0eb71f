"""Ed25519 keys: the server signs releases with one, clients hold the public keys they trust."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from emgup_model.errors import ReleaseError
from emgup_model.files import write_atomic


def create_signing_key(path: Path) -> bytes:
    """Make a signing key at ``path`` (PEM, mode 0600) unless one is there; return its raw 32-byte public key."""
    if not path.exists():
        pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomic(path, pem, mode=0o600)
    return public_key(read_signing_key(path))


def read_signing_key(path: Path) -> Ed25519PrivateKey:
    """Load a signing key. Raises ReleaseError when the file is missing or holds no Ed25519 key."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError):
        raise ReleaseError(f"{path} holds no readable signing key; delete it to make a new one") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ReleaseError(f"{path} holds a key of another kind; releases are signed with Ed25519")
    return key


def public_key(key: Ed25519PrivateKey) -> bytes:
    """Raw 32-byte public key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def write_trusted(path: Path, keys: Sequence[bytes]) -> None:
    """Save the public keys a client trusts, one hexadecimal line each."""
    write_atomic(path, "".join(f"{k.hex()}\n" for k in keys), mode=0o600)


def read_trusted(path: Path) -> tuple[bytes, ...]:
    """Public keys a client trusts. Raises ReleaseError when there is none or a line is not a key."""
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise ReleaseError(f"no readable list of trusted release keys at {path}") from None
    try:
        keys = tuple(bytes.fromhex(line) for line in lines)
    except ValueError:
        raise ReleaseError(f"{path}: a trusted key is 64 hexadecimal digits on a line of its own") from None
    if not keys or any(len(k) != 32 for k in keys):
        raise ReleaseError(f"{path}: a trusted key is 64 hexadecimal digits on a line of its own")
    return keys
