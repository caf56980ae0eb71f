"""Fixtures every test may use."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from tests.packages import package as package

REPOSITORY = Path(__file__).resolve().parents[1]

signal.signal(
    signal.SIGINT, signal.default_int_handler
)  # ignored, and so in all processes, where a shell's & started us
torch.set_num_threads(1)
settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real data sets; the test is skipped where it is absent."""
    given = os.environ.get("EMGUP_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "datasets"
    if not folder.is_dir():
        pytest.skip(f"no real EMG at {folder}; set EMGUP_DATA to the folder that holds myo_armband")
    return folder
