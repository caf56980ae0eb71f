"""The last step upward: note the exact bytes in the audit log, then send them; replies wait for their moment."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from flwr.proto.fleet_pb2 import PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest
from google.protobuf.message import DecodeError

from emgup_client.egress.audit import AuditLog
from emgup_client.egress.policy import MAX_PADDINGS
from emgup_client.egress.replies import Outgoing, Request, answer
from emgup_client.egress.upstream import Answer
from emgup_model.report_wire import TOP
from emgup_model.secure_sum_wire import ROUNDS, Advertise, FromClient, Masked, Shares
from emgup_model.wire import Reply

log = logging.getLogger(__name__)

MAX_SESSION = 128
_RETRY_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
_UNREACHABLE = (502, 503, 504)
_PADDED = {"train", *ROUNDS}

Content = Reply | FromClient | None
"""What may be sent: a reply, a client's part of a round of a secure sum, or the fixed error."""


def in_words(reply: Content) -> str:
    """What a reply says."""
    if reply is None:
        return "the fixed error, which says nothing"
    if not isinstance(reply, Reply):
        return f"secure sum: {_part_in_words(reply)}"
    if reply.report is None:
        return f"status {reply.status.name.lower()}"
    return "report: " + ", ".join(f"{name} {level}/{TOP}" for name, level in reply.report.items())


def _part_in_words(part: FromClient) -> str:
    if isinstance(part, Advertise):
        return f"two fresh public keys, to sum {', '.join(part.scalars)}"
    if isinstance(part, Shares):
        return f"shares of two fresh secrets, sealed for {len(part.members)} others"
    if isinstance(part, Masked):
        return f"the report under masks, {len(part.values)} numbers that say nothing alone"
    return f"shares of the secrets of {len(part.own_of) + len(part.keys_of)} members, which open the sum only"


class Wire:
    """The only way to the SuperLink. Bytes are in the audit log before they are on the network.

    The same bytes again (a heartbeat every 30 s) are counted, and the counts noted now and then: "repeats".
    """

    def __init__(self, post: Callable[[str, bytes], Answer], audit: AuditLog, note_every_s: float = 3600.0) -> None:
        self._post, self._audit, self._every = post, audit, note_every_s
        self._lock = threading.Lock()
        self._said: set[tuple[str, bytes]] = set()
        self._repeats: Counter[str] = Counter()
        self._noted = time.monotonic()

    def send(self, name: str, body: bytes, words: str = "") -> Answer:
        """Note and send. Raises OSError when it cannot be noted; it is not sent then.

        Args:
            name: of the call.
            body: of the request.
            words: what the bytes say, for the people who read the log.
        """
        with self._lock:
            if (name, body) in self._said:
                self._repeats[name] += 1
            else:
                self._audit.note(name, True, words, body)
                self._said.add((name, body))
                if len(self._said) > 10_000:
                    self._said = {(name, body)}
            if time.monotonic() - self._noted > self._every:
                self._note_repeats()
        return self._post(f"/v1/fleet/{name}", body)

    def close(self) -> None:
        """Note what was said again since the last time."""
        with self._lock:
            self._note_repeats()

    def _note_repeats(self) -> None:
        if self._repeats:
            counts = ", ".join(f"{name} {n} times" for name, n in sorted(self._repeats.items()))
            self._audit.note("repeats", True, f"bytes noted above were sent again: {counts}")
        self._repeats.clear()
        self._noted = time.monotonic()


class Outbox:
    """Sends replies from a thread of its own, each at its moment.

    An answer to a request to personalize, or to a round of a secure sum, leaves ``pad_s``, twice, four times … that
    after the request came in: the run time of the app tells a few bits, not milliseconds.
    """

    def __init__(self, wire: Wire, pad_s: float) -> None:
        self._wire, self._pad = wire, pad_s
        self._queue: list[tuple[float, int, Request, Content, int]] = []
        self._number = itertools.count()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="outbox", daemon=True)
        self._thread.start()

    def put(self, request: Request, reply: Content, node_id: int) -> None:
        """Have a reply sent, or with None the fixed error."""
        due = self._due(request)
        if due is None:
            log.warning("a reply missed every moment that the policy leaves it, and is not sent")
            return
        with self._wake:
            heapq.heappush(self._queue, (due, next(self._number), request, reply, node_id))
            self._wake.notify()

    def close(self) -> None:
        """Stop; what has not been sent is not lost: the client answers again when asked again."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join(timeout=60)

    def _due(self, request: Request) -> float | None:
        now = time.monotonic()
        if self._pad == 0 or request.metadata.message_type not in _PADDED:
            return now
        moments = (request.arrived + self._pad * 2**k for k in range(MAX_PADDINGS))
        return next((m for m in moments if m >= now), None)

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._stopping and (not self._queue or self._queue[0][0] > time.monotonic()):
                    self._wake.wait(max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None)
                if self._stopping:
                    return
                _, _, request, reply, node_id = heapq.heappop(self._queue)
            try:
                self._deliver(answer(request, reply, node_id), request, in_words(reply))
            except Exception:
                log.exception("a reply could not be sent; the client answers again when asked again")

    def _deliver(self, outgoing: Outgoing, request: Request, words: str) -> None:
        end = request.metadata.created_at + request.metadata.ttl
        body = outgoing.push.SerializeToString(deterministic=True)
        response = self._insist("push-messages", body, end, words)
        if response.status != 200:
            log.warning("the server does not take a reply: HTTP %d", response.status)
            return
        try:
            session = PushMessagesResponse.FromString(response.body).session_id
        except DecodeError:
            session = ""
        for name, content in outgoing.objects.items():
            push = PushObjectRequest(
                node=outgoing.push.node,
                run_id=request.metadata.run_id,
                object_id=name,
                object_content=content,
                session_id=session if len(session) <= MAX_SESSION else "",
            )
            self._insist("push-object", push.SerializeToString(deterministic=True), end, words)

    def _insist(self, name: str, body: bytes, end: float, words: str) -> Answer:
        """Send, again where the server is not reached, until the request has expired."""
        for pause in itertools.chain(_RETRY_S, itertools.repeat(_RETRY_S[-1])):
            response = self._wire.send(name, body, words)
            if response.status not in _UNREACHABLE or time.time() + pause > end or self._stopping:
                return response
            with self._wake:
                self._wake.wait_for(lambda: self._stopping, timeout=pause)
        raise AssertionError
