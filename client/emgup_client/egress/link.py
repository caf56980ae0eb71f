"""The Fleet calls that the gate itself makes for its one node: what goes up is made here, answers are parsed."""

from __future__ import annotations

import hashlib
from typing import TypeVar

from flwr.proto.node_pb2 import Node
from google.protobuf.message import DecodeError, Message

from emgup_client.egress.outbox import Wire
from emgup_client.egress.record import EgressError
from emgup_client.egress.upstream import Answer

_HANDED_ON = (401, 403, 502, 503, 504)
"""HTTP statuses that the SuperNode is told; any other refusal of the server becomes 400."""

M = TypeVar("M", bound=Message)


class Link:
    """The way to the SuperLink for one node.

    Attributes:
        node: as the SuperLink named it; None before it is activated.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self.node: Node | None = None

    def own(self) -> Node:
        """The node. Raises EgressError before it is activated."""
        if self.node is None:
            raise EgressError("the node is not activated")
        return self.node

    def relay(self, name: str, body: bytes, made: Message, kind: type[M]) -> tuple[Answer, M | None]:
        """Send ``made`` if the SuperNode said exactly that, and read the answer: (what to answer, its content)."""
        if made.SerializeToString(deterministic=True) != body:
            raise EgressError("a field that is not what this call needs")
        return self.call(name, made, kind)

    def call(self, name: str, made: Message, kind: type[M]) -> tuple[Answer, M | None]:
        """Send ``made`` and read the answer: (what a SuperNode would be answered, its content)."""
        answer = self._wire.send(name, made.SerializeToString(deterministic=True))
        if answer.status != 200:
            return Answer(answer.status if answer.status in _HANDED_ON else 400), None
        response = parse(kind, answer.body)
        return ok(response), response


def ok(message: Message) -> Answer:
    """An answer to the SuperNode."""
    return Answer(200, message.SerializeToString(deterministic=True))


def parse(kind: type[M], body: bytes) -> M:
    """A message without fields that nobody knows. Raises EgressError for bytes that are none."""
    try:
        message = kind.FromString(body)
    except (DecodeError, RecursionError):
        raise EgressError("bytes that are no message of this call") from None
    message.DiscardUnknownFields()
    return message


def sha256(data: bytes) -> str:
    """The name of an object."""
    return hashlib.sha256(data).hexdigest()
