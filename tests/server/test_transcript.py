from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from flwr.app import Error, Message

from emgup_server.transcript import MAX_OBJECT_BYTES, MAX_TEXT, TranscriptGrid, read_transcript
from emgup_simulation.local import LocalGrid
from tests.server.hostile import BAD_CONTENTS, GOOD, answer, honest, metrics


def one_reply(path: Path, client: object) -> dict[str, object]:
    grid = TranscriptGrid(LocalGrid(client, 1, {}), path)  # type: ignore[arg-type]
    message = Message(metrics({"x": 1}), dst_node_id=1001, message_type="train")
    grid.pull_messages(list(grid.push_messages([message])))
    return read_transcript(path)[-1]


def test_every_object_is_kept_byte_for_byte(tmp_path: Path) -> None:
    line = one_reply(tmp_path / "t.jsonl", honest)
    assert len(line["objects"]) == 3  # type: ignore[arg-type]
    for name, item in line["objects"].items():  # type: ignore[attr-defined]
        data = bytes.fromhex(item["hex"])
        assert hashlib.sha256(data).hexdigest() == name
        assert len(data) == item["bytes"] < 400
        assert item["intact"]


@pytest.mark.parametrize("name", BAD_CONTENTS)
def test_hostile_messages_are_noted_in_bounded_size(tmp_path: Path, name: str) -> None:
    one_reply(tmp_path / "t.jsonl", lambda m, c: answer(m, BAD_CONTENTS[name]))
    assert (tmp_path / "t.jsonl").stat().st_size < 6 * MAX_OBJECT_BYTES


def test_errors_are_noted_with_the_beginning_of_their_text(tmp_path: Path) -> None:
    line = one_reply(tmp_path / "t.jsonl", lambda m, c: Message(Error(2, "x" * 10**6), reply_to=m))
    assert line["error"] == [2, "x" * MAX_TEXT]


def test_a_line_torn_by_a_kill_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    one_reply(path, honest)
    with path.open("a") as file:
        file.write('{"metadata": {"mess')
    one_reply(path, lambda m, c: answer(m, metrics(dict(GOOD))))
    assert len(read_transcript(path)) == 2
