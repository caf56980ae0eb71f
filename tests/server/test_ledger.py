from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch

from emgup_model.provenance import code_hash, origin
from emgup_model.wire import Reply, Result, Status
from emgup_server.ledger import Cell, Ledger

RESULT = Result(
    accuracy=750_000, macro_f1=700_000, source_accuracy=600_000, source_macro_f1=500_000, n_windows=40, adapt_ms=1500
)
GOOD = Reply(status=Status.OK, result=RESULT)


def test_a_result_becomes_a_row(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path)
    ledger.record(cells[0], GOOD)
    row = ledger.rows(cells[:1])[0]
    assert (row.user, row.method, row.status, row.accuracy, row.n_windows) == ("u0", "source_only", "ok", 0.75, 40)
    assert row.adapt_seconds == 1.5
    assert [p.name for p in tmp_path.iterdir()] == [f"{cells[0].key}.json"]


def test_missing_are_cells_without_a_complete_entry(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.missing(cells) == cells
    ledger.record(cells[0], GOOD)
    ledger.record(cells[1], Reply(status=Status.DATA_ERROR))
    ledger.record(cells[2], Reply(status=Status.NOT_APPLICABLE))
    ledger.record_failure(cells[3], "timeout", lost=True)
    assert ledger.missing(cells) == [cells[1], *cells[3:]]
    assert ledger.unanswered(cells) == cells[3:]
    assert [r.status for r in ledger.rows(cells[:5])] == ["ok", "data_error", "not_applicable", "timeout", "missing"]


def test_a_complete_entry_stays_and_a_failed_one_is_replaced(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path)
    ledger.record_failure(cells[0], "timeout", lost=True)
    ledger.record(cells[0], GOOD)
    before = (tmp_path / f"{cells[0].key}.json").read_bytes()
    better = Reply(status=Status.OK, result=RESULT.model_copy(update={"accuracy": 1_000_000}))
    for late in (better, Reply(status=Status.INTERNAL)):
        assert ledger.record(cells[0], late).row.accuracy == 0.75
    ledger.record_failure(cells[0], "rejected")
    assert (tmp_path / f"{cells[0].key}.json").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"key": 1}', b"\xff\xfe"])
def test_an_unreadable_entry_counts_as_missing_and_is_made_again(
    tmp_path: Path, cells: list[Cell], content: bytes
) -> None:
    ledger = Ledger(tmp_path)
    (tmp_path / f"{cells[0].key}.json").write_bytes(content)
    assert ledger.missing(cells[:1]) == cells[:1]
    assert ledger.record(cells[0], GOOD).complete
    assert not ledger.missing(cells[:1])


def test_an_entry_says_with_what_and_when_it_was_made(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path)
    before = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    entry = ledger.record(cells[0], GOOD)
    assert before <= entry.date <= datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    assert entry.origin == origin()
    assert (entry.origin.code, entry.origin.torch) == (code_hash(), torch.__version__)
    assert Ledger(tmp_path).entries(cells) == [entry]
    saved = json.loads((tmp_path / f"{cells[0].key}.json").read_text())
    saved.pop("origin")  # of a version that did not note it
    (tmp_path / f"{cells[0].key}.json").write_text(json.dumps(saved))
    assert ledger.missing(cells[:1]) == cells[:1]
