"""The code-free app bundle of a deployed federation: the server submits it, clients pin the SHA-256 of its build."""

from __future__ import annotations

from pathlib import Path


def bundle_files() -> dict[str, bytes]:
    """The bundle's files by name: one, its description."""
    name = "pyproject.toml"
    return {name: (Path(__file__).parent / name).read_bytes()}
