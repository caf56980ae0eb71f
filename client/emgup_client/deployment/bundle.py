"""The bundle that a server sends is compared, never installed: code that runs here comes from here."""

from __future__ import annotations

import hashlib

from emgup_model.errors import EmgupError


class BundleRefusedError(EmgupError):
    """The server's app bundle is not the pinned one."""


def check_bundle(content: bytes, pinned: str) -> None:
    """Raise BundleRefusedError unless the bundle's bytes are the pinned ones, whatever hash the server names."""
    if hashlib.sha256(content).hexdigest() != pinned:
        raise BundleRefusedError("the server's app bundle is not the pinned one")
