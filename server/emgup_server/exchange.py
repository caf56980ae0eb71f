"""Ask many clients, hear each answer as it comes: few messages in flight, polled, attributed, judged."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeVar

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from emgup_model.errors import RunError
from emgup_model.wire import REPLY, REQUEST, Deliver, Offer, Personalize, Reply, WireError, encode_request

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How patient the server is.

    Attributes:
        window: messages in flight; enough that no worker waits for the next poll.
        poll_s: pause between polls, seconds.
        reply_timeout_s: a message is given up when it was sent, and any client last answered, longer ago than this.
        retry_s: pause before a message that its worker lost is sent again, seconds; doubles each time.
        max_retry_s: the longest such pause.
        losses: with nothing in flight and this many messages lost since the last answer, every worker counts as dead.
        node_wait_s: how long to wait for nodes, seconds.
        settle_s: how long their number must have stayed the same, seconds.
    """

    window: int = 32
    poll_s: float = 0.1
    reply_timeout_s: float = 600.0
    retry_s: float = 0.5
    max_retry_s: float = 2.0
    losses: int = 8
    node_wait_s: float = 120.0
    settle_s: float = 1.0


@dataclass(frozen=True)
class Ask(Generic[T]):
    """One question to one node; ``about`` is the asker's own note, ``lost`` how often a worker died over it."""

    node: int
    kind: str
    request: Offer | Deliver | Personalize
    about: T
    lost: int = 0


class Problem(StrEnum):
    """Why there is no valid reply."""

    TIMEOUT = "timeout"
    CLIENT_ERROR = "client_error"
    REJECTED = "rejected"
    LOST = "lost"


@dataclass(frozen=True)
class Failure:
    """No valid reply; ``detail`` is text of our own, never a client's."""

    problem: Problem
    detail: str = ""

    @property
    def transient(self) -> bool:
        """Whether another attempt may well succeed."""
        return self.problem in (Problem.TIMEOUT, Problem.LOST)

    def __str__(self) -> str:
        return f"{self.problem} ({self.detail})" if self.detail else str(self.problem)


class WorkersLostError(RunError):
    """Every worker is dead: the runtime has to be started again."""


_CLIENTS_OWN = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
    ErrorCode.MOD_FAILED_PRECONDITION,
    ErrorCode.INVALID_FAB,
    ErrorCode.MESSAGE_UNAVAILABLE,  # a reply that was announced and never sent whole: waiting for it stalls the others
}


def exchange(grid: Grid, asks: Iterable[Ask[T]], limits: Limits) -> Iterator[tuple[Ask[T], Reply | Failure]]:
    """Send every ask and yield it with its outcome, in the order of arrival; each ask is yielded once.

    A message whose worker died is sent again, after all others. Replies to unknown or answered messages are ignored.

    Raises:
        WorkersLostError: no worker is left; the asks that none was sent for were not yielded.
    """
    queue = _Queue(asks, limits)
    sent: dict[str, tuple[float, Ask[T]]] = {}
    heard, losses = time.monotonic(), 0
    while sent or queue.open:
        while len(sent) < limits.window and (ask := queue.next()) is not None:
            if (name := _push(grid, ask)) is None:
                losses += 1
                queue.again(ask)
                break
            sent[name] = (time.monotonic(), ask)
        replies = list(grid.pull_messages(list(sent))) if sent else []
        for message in replies:
            entry = sent.pop(message.metadata.reply_to_message_id, None)
            if entry is None:
                log.warning("a reply to no open message was ignored")
                continue
            outcome = judge(message, entry[1].node)
            if isinstance(outcome, Failure) and outcome.problem is Problem.LOST:
                losses += 1
                queue.again(entry[1])
                continue
            heard, losses = time.monotonic(), 0
            yield entry[1], outcome
        now = time.monotonic()
        for name in [n for n, (at, _) in sent.items() if now - max(at, heard) > limits.reply_timeout_s]:
            losses += 1
            yield sent.pop(name)[1], Failure(Problem.TIMEOUT)
        if queue.open and not sent and losses >= limits.losses:
            for ask in queue.lost:
                yield ask, Failure(Problem.LOST)
            raise WorkersLostError(f"every worker is dead: {losses} messages in a row were lost")
        if not replies:
            time.sleep(limits.poll_s)


class _Queue(Generic[T]):
    """What is to be sent: first the asks as given, made one by one, then those that a worker lost, after a pause."""

    def __init__(self, asks: Iterable[Ask[T]], limits: Limits) -> None:
        self._fresh = iter(asks)
        self._head = next(self._fresh, None)
        self._lost: deque[tuple[float, Ask[T]]] = deque()
        self._limits = limits

    @property
    def open(self) -> bool:
        """Whether anything is left to send, now or later."""
        return self._head is not None or bool(self._lost)

    @property
    def lost(self) -> list[Ask[T]]:
        """What was sent and lost."""
        return [ask for _, ask in self._lost]

    def next(self) -> Ask[T] | None:
        """What to send now, if anything."""
        if self._head is not None:
            ask, self._head = self._head, next(self._fresh, None)
            return ask
        if self._lost and self._lost[0][0] <= time.monotonic():
            return self._lost.popleft()[1]
        return None

    def again(self, ask: Ask[T]) -> None:
        """Send ``ask`` once more, after a pause that doubles each time."""
        pause = min(self._limits.retry_s * 2**ask.lost, self._limits.max_retry_s)
        self._lost.append((time.monotonic() + pause, replace(ask, lost=ask.lost + 1)))


def judge(message: Message, node: int) -> Reply | Failure:
    """What a received message is worth. Nothing that a client can send raises here."""
    try:
        if message.has_error():
            if message.error.code in _CLIENTS_OWN:
                return Failure(Problem.CLIENT_ERROR, f"code {message.error.code}")
            return Failure(Problem.LOST, f"code {message.error.code}")
        if message.metadata.src_node_id != node:
            return Failure(Problem.REJECTED, "from another node")
        record = message.content.get(REPLY)
        if set(message.content) != {REPLY} or not isinstance(record, MetricRecord):
            return Failure(Problem.REJECTED, "not one metric record")
        return Reply.decode(record)
    except WireError as error:
        return Failure(Problem.REJECTED, str(error))
    except Exception as error:
        return Failure(Problem.REJECTED, type(error).__name__)


def wait_for_nodes(grid: Grid, minimum: int, limits: Limits) -> list[int]:
    """Ids of the connected nodes, sorted, once there are ``minimum`` and their number has not changed for a while.

    The simulation engine starts the ServerApp before it registers its nodes.

    Raises:
        RunError: too few in time.
    """
    end = time.monotonic() + limits.node_wait_s
    seen: list[int] = []
    since = time.monotonic()
    while time.monotonic() < end:
        nodes = sorted(grid.get_node_ids())
        if nodes != seen:
            seen, since = nodes, time.monotonic()
        if len(seen) >= minimum and time.monotonic() - since >= limits.settle_s:
            return seen
        time.sleep(limits.poll_s)
    raise RunError(f"{len(seen)} of {minimum} nodes came online within {limits.node_wait_s:g} s")


def _push(grid: Grid, ask: Ask[T]) -> str | None:
    """Id of the message sent; None when the node could not take it."""
    content = RecordDict({REQUEST: ConfigRecord(dict(encode_request(ask.request)))})
    names = list(grid.push_messages([Message(content, dst_node_id=ask.node, message_type=ask.kind)]))
    return names[0] if names and names[0] else None
