"""The transcript: everything the server receives, byte for byte, one JSON line per message.

A line holds the message's metadata, its error if it is one, and the content of every object it is made of (hex). An
object is named by the SHA-256 of its bytes, so a reader can check that nothing was added or left out.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.run import Run

MAX_OBJECT_BYTES = 1 << 16
"""Of a larger object, which no honest client sends, size and hash are kept."""
MAX_TEXT = 1 << 12


class TranscriptGrid(Grid):
    """A grid that notes every received message in ``path`` before anybody looks at it."""

    def __init__(self, grid: Grid, path: Path) -> None:
        self._grid = grid
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)

    def set_run(self, run: Run) -> None:  # noqa: D102
        self._grid.set_run(run)

    @property
    def run(self) -> Run:  # noqa: D102
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:  # noqa: D102
        return self._grid.create_message(*args, **kwargs)

    def get_node_ids(self) -> Iterable[int]:  # noqa: D102
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:  # noqa: D102
        return self._grid.get_nodes()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:  # noqa: D102
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Receive, note, hand on."""
        return self._note(self._grid.pull_messages(message_ids))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Receive, note, hand on."""
        return self._note(self._grid.send_and_receive(messages, timeout=timeout))

    def _note(self, replies: Iterable[Message]) -> list[Message]:
        replies = list(replies)
        if replies:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(_safely(m)) + "\n" for m in replies)
                file.flush()
                os.fsync(file.fileno())
        return replies


def _safely(message: Message) -> dict[str, Any]:
    """A message that cannot be described must not stop the others."""
    try:
        return describe(message)
    except Exception as error:
        return {"received": time.time(), "undescribed": type(error).__name__}


def describe(message: Message) -> dict[str, Any]:
    """A received message as plain data."""
    objects = {}
    for name, item in get_all_nested_objects(message).items():
        data = item.deflate()
        found: dict[str, Any] = {"bytes": len(data), "intact": hashlib.sha256(data).hexdigest() == name}
        if len(data) <= MAX_OBJECT_BYTES:
            found["hex"] = data.hex()
        objects[name] = found
    metadata = {k.lstrip("_"): v for k, v in vars(message.metadata).items()}
    return {
        "received": time.time(),
        "metadata": {k: v[:MAX_TEXT] if isinstance(v, str) else v for k, v in metadata.items()},
        "error": [message.error.code, (message.error.reason or "")[:MAX_TEXT]] if message.has_error() else None,
        "objects": objects,
    }


def read_transcript(path: Path) -> list[dict[str, Any]]:
    """All noted messages; a line torn by a kill is left out."""
    out = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:
            continue
    return out


def _end_torn_line(path: Path) -> None:
    """A killed run may have left half a line: end it, so that the next one starts on its own."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")
