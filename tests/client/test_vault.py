from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from emgup_client.vault import ATTEMPTS, EVALUATION, RECORD, WEIGHTS, locked_cell, private_dir
from emgup_model.wire import Reply, Result, Status

RESULT = Result(accuracy=5, macro_f1=4, source_accuracy=3, source_macro_f1=2, n_windows=1, adapt_ms=0)
REPLY = Reply(status=Status.OK, result=RESULT)
KEY = "c" * 64
ADAPTATION = "e" * 64


def save(home: Path, key: str = KEY) -> Path:
    with locked_cell(home, "u1", key) as cell:
        cell.begin()
        cell.commit(b"weights", {"accuracy": 0.5}, REPLY, ADAPTATION)
        return cell.folder


def read(home: Path) -> Reply | None:
    with locked_cell(home, "u1", KEY) as cell:
        return cell.reply()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_are_0700_and_files_0600_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = save(tmp_path / "home")
    finally:
        os.umask(before)
    below = [tmp_path / "home", *(tmp_path / "home").rglob("*")]
    assert {mode(p) for p in below if p.is_dir()} == {0o700}
    assert {mode(p) for p in below if p.is_file()} == {0o600}
    assert {p.name for p in folder.iterdir()} == {WEIGHTS, EVALUATION, RECORD, ".lock"}


def test_a_home_that_was_open_is_closed(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    assert mode(private_dir(tmp_path / "home")) == 0o700


def test_a_completed_cell_answers_and_an_empty_one_does_not(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    save(tmp_path)
    assert read(tmp_path) == REPLY


@pytest.mark.parametrize("name", [WEIGHTS, EVALUATION, RECORD])
@pytest.mark.parametrize("damage", ["changed", "removed"])
def test_a_damaged_cell_does_not_answer(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path) / name
    path.write_bytes(b"{}") if damage == "changed" else path.unlink()
    assert read(tmp_path) is None


@pytest.mark.parametrize("record", ["null", "[]", '"x"', "{", '{"sha256": 1}'])
def test_a_nonsense_record_does_not_answer(tmp_path: Path, record: str) -> None:
    (save(tmp_path) / RECORD).write_text(record)
    assert read(tmp_path) is None


def test_a_forged_reply_does_not_answer(tmp_path: Path) -> None:
    path = save(tmp_path) / RECORD
    record = json.loads(path.read_text())
    record["reply"]["accuracy"] = 10**9
    path.write_text(json.dumps(record))
    assert read(tmp_path) is None


def sibling(home: Path, adaptation: str = ADAPTATION, key: str = "d" * 64) -> tuple[bytes, dict[str, object]] | None:
    with locked_cell(home, "u1", key) as cell:
        found = cell.sibling(adaptation)
        return found and (found.weights, found.evaluation)


def test_a_completed_cell_is_found_by_its_adaptation_and_by_nothing_else(tmp_path: Path) -> None:
    assert sibling(tmp_path) is None
    save(tmp_path)
    assert sibling(tmp_path) == (b"weights", {"accuracy": 0.5})
    assert sibling(tmp_path, "f" * 64) is None
    assert sibling(tmp_path, key=KEY) is None  # the cell itself is not its own sibling


@pytest.mark.parametrize("name", [WEIGHTS, EVALUATION, RECORD])
@pytest.mark.parametrize("damage", ["changed", "removed", "nonsense"])
def test_a_damaged_sibling_is_not_found(tmp_path: Path, name: str, damage: str) -> None:
    path = save(tmp_path) / name
    path.unlink() if damage == "removed" else path.write_bytes(b"{}" if damage == "changed" else b"\xff[")
    assert sibling(tmp_path) is None


def test_a_sibling_of_another_user_is_not_found(tmp_path: Path) -> None:
    save(tmp_path)
    with locked_cell(tmp_path, "u2", KEY) as cell:
        assert cell.sibling(ADAPTATION) is None


def test_the_record_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr("emgup_client.vault.write_private", lambda path, data: written.append(path.name))
    save(tmp_path)
    assert written[-1] == RECORD
    assert set(written[:-1]) == {WEIGHTS, EVALUATION}


def test_leftovers_of_a_killed_attempt_are_removed(tmp_path: Path) -> None:
    with locked_cell(tmp_path, "u1", KEY) as cell:
        cell.begin()
        (cell.folder / ".weights.safetensors.abc.tmp").write_bytes(b"half")
        (cell.folder / WEIGHTS).write_bytes(b"whole, but without a record")
    with locked_cell(tmp_path, "u1", KEY) as cell:
        assert cell.begin() == 1
        assert {p.name for p in cell.folder.iterdir()} == {".lock", ATTEMPTS}


def test_only_attempts_that_never_ended_count(tmp_path: Path) -> None:
    for expected in (0, 1, 2):
        with locked_cell(tmp_path, "u1", KEY) as cell:
            assert cell.begin() == expected
    with locked_cell(tmp_path, "u1", KEY) as cell:
        cell.begin()
        cell.end()
    with locked_cell(tmp_path, "u1", KEY) as cell:
        assert cell.begin() == 0


def _hold_and_die(home: Path) -> None:
    with locked_cell(home, "u1", KEY) as cell:
        cell.begin()
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold_and_die, args=(tmp_path,))
    process.start()
    process.join(10)
    assert process.exitcode == -signal.SIGKILL
    with locked_cell(tmp_path, "u1", KEY) as cell:
        assert cell.begin() == 1
