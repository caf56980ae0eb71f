"""Requests of the server that were handed down to the SuperNode and are not answered yet."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from flwr.proto.message_pb2 import ObjectTree

from emgup_client.egress.incoming import ids_of
from emgup_client.egress.record import EgressError
from emgup_client.egress.replies import Request
from emgup_model.wire import Personalize

MAX_OPEN = 64
"""Requests that are remembered."""


@dataclass
class OpenRequest:
    """One of them.

    ``tree`` and ``objects``: the reply, as far as it was pushed. ``fetched``: answers to pull-object by object id, kept
    until the request is confirmed: a SuperNode whose patience ends during a large one asks for it again.
    """

    request: Request
    personalize: Personalize | None = None
    tree: ObjectTree | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    fetched: dict[str, bytes] = field(default_factory=dict)


class OpenRequests:
    """All of them. Methods that look one up raise EgressError where there is none."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._open: OrderedDict[str, OpenRequest] = OrderedDict()
        self._runs: set[int] = set()

    def add(self, request: Request) -> None:
        """Remember a request, and forget the oldest where there are too many."""
        with self._lock:
            self._open[request.metadata.message_id] = OpenRequest(request)
            self._runs.add(request.metadata.run_id)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)

    def clear(self) -> None:
        """Forget all."""
        with self._lock:
            self._open.clear()
            self._runs.clear()

    def close(self, entry: OpenRequest) -> bool:
        """It is answered, or will not be; whether it was open until now."""
        with self._lock:
            return self._open.pop(entry.request.metadata.message_id, None) is not None

    def end_run(self, run_id: int) -> list[OpenRequest]:
        """Forget a run; its requests that were open."""
        with self._lock:
            of_run = [e for e in self._open.values() if e.request.metadata.run_id == run_id]
            for entry in of_run:
                self.close(entry)
            self._runs.discard(run_id)
        return of_run

    def check_run(self, run_id: int) -> None:
        """Raise EgressError for a run that no request named."""
        if run_id not in self._runs:
            raise EgressError("a run that the server did not name")

    def answered_by(self, message_id: str) -> OpenRequest:
        """The request that a reply names."""
        with self._lock:
            entry = self._open.get(message_id)
        if entry is None:
            raise EgressError("an answer to no open request")
        return entry

    def made_of(self, run_id: int, object_id: str) -> OpenRequest:
        """The request that an object belongs to."""
        with self._lock:
            for entry in self._open.values():
                if entry.request.metadata.run_id == run_id and object_id in entry.request.objects:
                    return entry
        raise EgressError("an object that the server did not announce")

    def announced(self, entry: OpenRequest, tree: ObjectTree) -> None:
        """A reply to the request will be made of these objects."""
        with self._lock:
            entry.tree, entry.objects = tree, {}

    def replied_with(self, object_id: str) -> OpenRequest:
        """The request whose announced reply an object belongs to."""
        with self._lock:
            for entry in self._open.values():
                if entry.tree is not None and object_id in ids_of(entry.tree):
                    return entry
        raise EgressError("an object of no announced reply")

    def complete_with(self, entry: OpenRequest, object_id: str, content: bytes) -> bool:
        """Keep an object of a reply; whether the reply is whole now, and the request closed by that."""
        with self._lock:
            entry.objects[object_id] = content
            whole = entry.tree is not None and set(entry.objects) >= set(ids_of(entry.tree))
            return whole and self.close(entry)
