"""Fixtures of the model tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from emgup_model.data.store import Store, write_user
from tests.toy import toy_info, toy_recordings


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder: Path = tmp_path_factory.mktemp("toy_store")
    for i in range(4):
        write_user(folder / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i, gain=1 + 0.3 * i))
    return Store(folder)
