from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_client.web.sent import read_sent
from emgup_model.config import digest
from tests.client.web.audit import audit_lines, write_audit

MESSAGES = (("register", b"\x00\xff key"), ("train reply", b"12345"), ("train reply", None), ("heartbeat", b""))


def test_no_log_means_that_nothing_has_left(tmp_path: Path) -> None:
    table = read_sent(tmp_path).table()
    assert (table["rows"], table["bytes"], table["sent"], table["refused"], table["problem"]) == ([], 0, 0, 0, None)


def test_every_byte_is_there(tmp_path: Path) -> None:
    write_audit(tmp_path, audit_lines(*MESSAGES))
    sent = read_sent(tmp_path)
    assert [sent.content(i) for i in range(5)] == [*(data for _, data in MESSAGES), None]
    table = sent.table()
    assert [row["bytes"] for row in table["rows"]] == [6, 5, None, 0]
    assert (table["bytes"], table["sent"], table["refused"], table["problem"]) == (11, 3, 1, None)
    assert table["last_hash"] == table["rows"][-1]["hash"]


def changed(lines: list[dict[str, Any]]) -> int:
    lines[1]["reason"] = "another"
    return 1


def rewritten(lines: list[dict[str, Any]]) -> int:
    bare = {k: v for k, v in lines[1].items() if k != "hash"} | {"reason": "another"}
    lines[1] = bare | {"hash": digest(bare)}
    return 2  # the line itself is whole, the next one does not follow


def removed(lines: list[dict[str, Any]]) -> int:
    del lines[1]
    return 1


def repeated(lines: list[dict[str, Any]]) -> int:
    lines.insert(1, lines[0])
    return 1


def swapped(lines: list[dict[str, Any]]) -> int:
    lines[0], lines[1] = lines[1], lines[0]
    return 0


def bytes_gone(lines: list[dict[str, Any]]) -> int:
    del lines[0]["bytes"]
    return 0


@pytest.mark.parametrize("damage", [changed, rewritten, removed, repeated, swapped, bytes_gone])
def test_a_log_that_was_tampered_with_is_told(tmp_path: Path, damage: Any) -> None:
    lines = audit_lines(*MESSAGES)
    intact = damage(lines)
    write_audit(tmp_path, lines)
    sent = read_sent(tmp_path)
    assert len(sent.lines) == intact
    assert sent.problem is not None
    assert f"line {intact + 1} " in sent.problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200))
def test_any_file_is_read_without_failing(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "audit.jsonl").write_bytes(data)
    sent = read_sent(tmp_path)
    assert sent.lines == ()
    assert (sent.problem is not None) == (b"\n" in data)


def test_a_line_that_is_being_written_does_not_count_yet(tmp_path: Path) -> None:
    write_audit(tmp_path, audit_lines(*MESSAGES))
    with (tmp_path / "audit.jsonl").open("a") as log:
        log.write('{"seq": 4, "half of')
    sent = read_sent(tmp_path)
    assert (len(sent.lines), sent.problem) == (4, None)
