"""An in-process stand-in for the simulation engine: the real ClientApp behind a grid, without Ray. For tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

Client = Callable[[Message, Context], Message | None]
"""Answers a message; None means that no answer ever comes."""


class LocalGrid(Grid):
    """Nodes 1001, 1002 … that all run ``client``; a message is handled when its reply is asked for, one per pull."""

    def __init__(self, client: Client, nodes: int, run_config: Mapping[str, Any]) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1  # Message() asks for it
        self._client = client
        self._contexts = {
            1001 + i: Context(1, 1001 + i, {"partition-id": i, "num-partitions": nodes}, RecordDict(), dict(run_config))
            for i in range(nodes)
        }
        self._names = (f"m{i}" for i in itertools.count())
        self._open: dict[str, Message] = {}
        self.sent: list[Message] = []

    def set_run(self, run: Run) -> None:
        """Nothing to set."""

    @property
    def run(self) -> Run:
        """Not needed."""
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        """Not needed."""
        raise NotImplementedError

    def get_node_ids(self) -> Iterable[int]:
        """All nodes."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Take messages; those to unknown nodes get no id."""
        names = []
        for message in messages:
            if message.metadata.dst_node_id in self._contexts:
                name = next(self._names)
                message.metadata.__dict__["_message_id"] = name
                self._open[name] = message
                self.sent.append(message)
                names.append(name)
        return names

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Let the client answer the oldest of these messages."""
        name = next((n for n in message_ids if n in self._open), None)
        if name is None:
            return []
        message = self._open.pop(name)
        try:
            reply = self._client(message, self._contexts[message.metadata.dst_node_id])
        except Exception as error:  # as the simulation engine does
            reply = Message(
                Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(error)}:<'{error}'>"), reply_to=message
            )
        return [] if reply is None else [reply]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Push, then pull until every message was handled."""
        names = list(self.push_messages(messages))
        return [reply for _ in names for reply in self.pull_messages(names)]
