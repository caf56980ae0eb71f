"""A copy of `emgup_model` whose code may be changed: hashes are taken of it, the running code stays."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from emgup_model import provenance

CACHED = (provenance.code_hash, provenance.training_hash, provenance.origin)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the package, of which hashes are taken until the test ends."""
    copy = tmp_path / "checkout" / provenance.PACKAGE.name
    shutil.copytree(provenance.PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(provenance, "PACKAGE", copy)
    read_again()
    yield copy
    read_again()


def read_again() -> None:
    """Forget the hashes, as a new process would not know them."""
    for cached in CACHED:
        cached.cache_clear()


def change(file: Path, old: str, new: str) -> None:
    """Replace ``old``, which must be there once, or add ``new`` at the end; then forget the hashes."""
    text = file.read_text(encoding="utf-8")
    assert not old or text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new) if old else text + new, encoding="utf-8")
    read_again()
