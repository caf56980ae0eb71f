"""The four rounds of a secure sum over Flower, each with a deadline: who is late is left out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from emgup_model.errors import RunError
from emgup_model.secure_sum_wire import (
    ADVERTISE,
    MASK,
    SHARE,
    UNMASK,
    Advertise,
    FromClient,
    FromServer,
    Invite,
    Masked,
    Shares,
    Unmask,
    decode,
)
from emgup_model.wire import REPLY, REQUEST, WireError
from emgup_server.secure_sum import SumServer

CLOCKS_S = 600.0
"""How far a client's clock may be from the server's; a round is not delivered long after its end."""
_ERRORS = {
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "it declined",
    ErrorCode.MESSAGE_UNAVAILABLE: "its answer never came whole",
    ErrorCode.NODE_UNAVAILABLE: "it went offline",
}

M = TypeVar("M", bound=FromClient)


@dataclass(frozen=True)
class Summed:
    """What came of a sum: sums of levels by scalar, over ``members``; or why there is none. ``remarks``: by node.

    ``floor``: with fewer of those who took part there would have been none.
    """

    levels: dict[str, int] = field(default_factory=dict)
    members: tuple[int, ...] = ()
    floor: int = 0
    why: str = ""
    remarks: dict[int, str] = field(default_factory=dict)


def sum_cohort(
    grid: Grid, nodes: Sequence[int], release_id: str, cell: str, round_s: float, poll_s: float = 0.5
) -> Summed:
    """Make one sum. Nothing that a client does raises here.

    Args:
        grid: connection to the clients.
        nodes: who is invited.
        release_id, cell: what their reports are on.
        round_s: seconds that a round waits for answers.
        poll_s: pause between polls.
    """
    asking = _Asking(grid, list(nodes), round_s, poll_s)
    session = os.urandom(32).hex()
    remarks: dict[int, str] = {}
    try:
        invite = Invite(session=session, release_id=release_id, cell=cell)
        server = SumServer(session, asking.all(ADVERTISE, dict.fromkeys(range(len(nodes)), invite), Advertise), remarks)
        inboxes = server.inboxes(asking.all(SHARE, server.cohorts(), Shares))
        survivors = server.survivors(asking.all(MASK, inboxes, Masked))
        unmasked = asking.all(UNMASK, dict.fromkeys(server.members, survivors), Unmask)
        total, members = server.total(unmasked), tuple(nodes[n] for n in server.members)
        return Summed(total, members, server.needed, remarks=asking.said(remarks))
    except RunError as e:
        return Summed(why=str(e), remarks=asking.said(remarks))


class _Asking:
    """Asks the members of one sum, whom the protocol knows by number."""

    def __init__(self, grid: Grid, nodes: list[int], round_s: float, poll_s: float) -> None:
        self._grid, self._nodes, self._round, self._poll = grid, nodes, round_s, poll_s
        self._silent: dict[int, str] = {}

    def all(self, kind: str, requests: Mapping[int, FromServer], answer: type[M]) -> dict[int, M]:
        """Ask one round of some members; the valid answers that came in time."""
        end = time.monotonic() + self._round
        sent = {name: n for n, request in requests.items() if (name := self._push(kind, n, request)) is not None}
        missing, answers = dict.fromkeys(requests, "no answer in time"), dict[int, M]()
        while sent and time.monotonic() < end:
            replies = list(self._grid.pull_messages(list(sent)))
            for message in replies:
                if (n := sent.pop(message.metadata.reply_to_message_id, None)) is None:
                    continue
                try:
                    answers[n] = self._judge(message, n, answer)
                    del missing[n]
                except WireError as e:
                    missing[n] = str(e)
            if not replies:
                time.sleep(self._poll)
        self._silent |= {n: f"{kind.removeprefix('query.')}: {why}" for n, why in missing.items()}
        return answers

    def said(self, remarks: Mapping[int, str]) -> dict[int, str]:
        """What was wrong with whom, by node."""
        return {self._nodes[n]: text for n, text in sorted({**self._silent, **remarks}.items())}

    def _push(self, kind: str, n: int, request: FromServer) -> str | None:
        content = RecordDict({REQUEST: ConfigRecord(request.model_dump())})
        message = Message(content, dst_node_id=self._nodes[n], message_type=kind, ttl=self._round + CLOCKS_S)
        names = list(self._grid.push_messages([message]))
        return names[0] if names and names[0] else None

    def _judge(self, message: Message, n: int, answer: type[M]) -> M:
        """Raise WireError for anything but an answer to this round."""
        try:
            if message.has_error():
                raise WireError(_ERRORS.get(message.error.code, f"error code {message.error.code}"))
            if message.metadata.src_node_id != self._nodes[n]:
                raise WireError("from another node")
            record = message.content.get(REPLY)
            if set(message.content) != {REPLY} or not isinstance(record, ConfigRecord):
                raise WireError("not one record")
            return decode(answer, dict(record))
        except WireError:
            raise
        except Exception as e:
            raise WireError(type(e).__name__) from None
