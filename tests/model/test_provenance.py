"""Hashes of the code that determines results, on copies of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from emgup_model import provenance
from emgup_model.provenance import code_hash, origin, result_identity, training_hash, training_identity
from tests.packages import change, read_again

TRAINING = (
    "pretrain.py",
    "source_users.py",
    "augmentation.py",
    "compute.py",
    "signal_statistics.py",
    "backbones/cnn.py",
    "backbones/norm.py",
    "data/windows.py",
    "data/store_reader.py",
    "data/labels.py",
    "methods/base.py",
)
ELSEWHERE = ("methods/ssp.py", "methods/__init__.py", "personalize.py", "evaluation/streaming.py", "data/download.py")


def hashes() -> tuple[str, str]:
    return code_hash(), training_hash()


def test_a_copy_at_another_place_and_time_has_the_same_hashes(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = hashes()
    with monkeypatch.context() as m:
        m.setattr(provenance, "PACKAGE", Path(provenance.__file__).parent)
        read_again()
        assert hashes() == there
    for file in package.rglob("*.py"):
        os.utime(file, (1, 1))
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    read_again()
    assert hashes() == there


@pytest.mark.parametrize("name", TRAINING + ELSEWHERE)
def test_code_that_can_change_a_number_changes_the_hashes(package: Path, name: str) -> None:
    results, training = hashes()
    change(package / name, "", "\nchanged = 1\n")
    assert code_hash() != results
    assert (training_hash() != training) == (name in TRAINING)


def test_wording_changes_nothing(package: Path) -> None:
    before = hashes()
    change(package / "pretrain.py", '"""Source training: ', '"""Training at the source: ')  # of the module
    change(package / "pretrain.py", '"""Accuracy of ', '"""Mean accuracy of ')  # of a function
    change(package / "pretrain.py", '"""AdamW with ', '"""An optimiser, with ')  # of a class
    change(package / "pretrain.py", '"""Windows (B, C, W) to logits', '"""Maps windows to logits')  # below a constant
    change(package / "pretrain.py", "        done += 1\n", "\n        # one more\n        done += 1\n")
    assert hashes() == before
    change(package / "pretrain.py", "        done += 1\n", "        done += 2\n")
    assert hashes() != before


def test_a_renamed_or_added_module_changes_the_hash(package: Path) -> None:
    before = code_hash()
    (package / "methods" / "other.py").write_text("x = 1\n")
    read_again()
    added = code_hash()
    (package / "methods" / "other.py").rename(package / "methods" / "another.py")
    read_again()
    assert len({before, added, code_hash()}) == 3


@pytest.mark.parametrize(
    "line", ["from . import later", "from .later import x", "import emgup_model.later", "from emgup_model import later"]
)
def test_training_follows_every_kind_of_import(package: Path, line: str) -> None:
    (package / "later.py").write_text("x = 1\n")
    change(package / "compute.py", "", f"\ndef late():\n    {line}\n")
    before = training_hash()
    change(package / "later.py", "x = 1", "x = 2")
    assert training_hash() != before


def test_libraries_are_part_of_both_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    before = result_identity(), training_identity()
    for library in ("torch", "numpy", "scipy"):
        with monkeypatch.context() as m:
            m.setattr(f"emgup_model.provenance.{library}.__version__", "0.0.1")
            assert result_identity() != before[0]
            assert training_identity() != before[1]


def test_another_python_may_have_other_trees(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    before = hashes()
    monkeypatch.setattr(provenance.sys, "version_info", type("Version", (), {"major": 3, "minor": 99}))
    read_again()
    assert hashes()[0] != before[0]
    assert hashes()[1] != before[1]


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_origin_names_the_commit_and_says_what_it_does_not_hold(package: Path) -> None:
    (package / "README").write_text("tracked")
    assert origin().commit is None
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    (package.parent / "notes.txt").write_text("untracked, and no code")
    read_again()
    assert (origin().commit, origin().uncommitted) == (git(package.parent, "rev-parse", "--short=12", "HEAD"), False)
    assert origin().code == code_hash()

    (package / "new.py").write_text("x = 1\n")
    read_again()
    assert origin().uncommitted
    (package / "new.py").unlink()
    change(package / "README", "tracked", "changed")
    assert origin().uncommitted
