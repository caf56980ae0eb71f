"""From a release folder and a recording to live decisions, with the commands alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from emgup_client.personalize_here import personalize_here
from emgup_client.personalized import TRUSTED
from emgup_model.data.store import write_user
from emgup_model.errors import ReleaseError
from emgup_model.keys import read_trusted, write_trusted
from emgup_simulation.cli import app
from tests.client.homes import Home, make_home
from tests.toy import toy_info, toy_recordings


@pytest.fixture
def made(tmp_path: Path) -> tuple[Home, Path, Path]:
    """A home to copy from, a release folder, and a list of keys."""
    home = make_home(tmp_path)
    home.files.write(tmp_path / "release")
    return home, tmp_path / "release", shutil.copy(home.folder / TRUSTED, tmp_path / "keys.txt")


def test_personalize_then_predict(made: tuple[Home, Path, Path], tmp_path: Path) -> None:
    home, release, keys = made
    mine = str(tmp_path / "mine")
    command = ["client", "personalize", str(home.recording()), "--release", str(release), "--home", mine]
    for options in (["--trusted", str(keys), "--method", "adabn"], ["--method", "adabn"]):
        result = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
        assert "accuracy" in result.output
    assert len(list((tmp_path / "mine" / "vault" / "u0").iterdir())) == 1  # the second was answered from the vault
    decided = CliRunner().invoke(app, ["client", "predict", str(home.recording()), "--home", mine])
    assert json.loads(decided.output.splitlines()[-1])["decisions"] == 174


def test_labels_that_cannot_be_scored_are_told_and_the_model_is_kept(
    made: tuple[Home, Path, Path], tmp_path: Path
) -> None:
    _, release, keys = made
    recording = tmp_path / "one.h5"
    write_user(recording, toy_info("one"), [r for r in toy_recordings(1) if r.label == 0])
    mine = tmp_path / "mine"
    command = ["client", "personalize", str(recording), "--release", str(release), "--home", str(mine)]
    result = CliRunner().invoke(app, [*command, "--trusted", str(keys), "--method", "adabn"], catch_exceptions=False)
    assert "no accuracy: the labels of the test windows show fewer than two gestures" in result.output
    assert len(list((mine / "vault" / "one").iterdir())) == 1


def test_an_untrusted_release_leaves_nothing(made: tuple[Home, Path, Path], tmp_path: Path) -> None:
    home, release, _ = made
    other = tmp_path / "other.txt"
    write_trusted(other, [b"k" * 32])
    with pytest.raises(ReleaseError, match="not signed by a trusted key"):
        personalize_here(tmp_path / "mine", home.recording(), release, other, "adabn", 0, "cpu")
    assert not (tmp_path / "mine").exists()


def test_keys_are_added_to_those_that_are_trusted(made: tuple[Home, Path, Path], tmp_path: Path) -> None:
    home, release, keys = made
    path = tmp_path / "mine" / TRUSTED
    write_trusted(path, [b"k" * 32])
    for _ in range(2):
        personalize_here(tmp_path / "mine", home.recording(), release, keys, "source_only", 0, "cpu")
    assert read_trusted(path) == (b"k" * 32, *read_trusted(keys))
