"""One gate in a secure sum, with messages made by hand: the server and the other members are the test's."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node

from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.secure_sum import SumClient
from emgup_model.secure_sum_wire import (
    ROUNDS,
    Advertise,
    Cohort,
    FromServer,
    Inbox,
    Invite,
    Masked,
    Shares,
    Survivors,
    Unmask,
    decode,
)
from emgup_server.secure_sum import SumServer
from tests.client.egress.stub import NODE, POLICY, REPORT, RUN, HandMadeNode, request

RELEASE, CELL = "a" * 64, "b" * 64
LEVELS = {"predictions_changed": 21, "confidence": 59}
SUM = {"floor": 3, "per_day": 3, "for_life": 4}
WIDE = {"reports_per_day": 9, "reports_for_life": 9, "statuses_per_day": 50, "statuses_for_life": 50}


def make_policy(limits: dict[str, Any] | None = None, **rules: Any) -> EgressPolicy:
    plain = {**POLICY, "limits": {**POLICY["limits"], **WIDE, **(limits or {})}}
    return EgressPolicy.model_validate({**plain, "sum": {**SUM, **rules}})


def reports(node: HandMadeNode, values: dict[str, int] | None = None, for_sum: bool = True) -> list[int]:
    """The app is asked for a report, for a sum or not, and gives one."""
    node.superlink.queue.append(request(**({"for_sum": True} if for_sum else {})))
    message = node.pull()
    assert message is not None
    statuses = node.push(Message(RecordDict({"reply": MetricRecord(values or REPORT)}), reply_to=message))
    if node.superlink.arrived.wait(2):
        node.superlink.arrived.clear()
    return statuses


def tell(node: HandMadeNode, kind: str, content: RecordDict) -> int:
    """A round comes down; how many bytes of records went up for it."""
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, kind)
    message = make_message(metadata, content)
    metadata.__dict__["_message_id"] = message.object_id
    before = node.superlink.payload
    node.superlink.queue.append(message)
    answer = node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
    assert not PullMessagesResponse.FromString(answer.body).messages_list  # the app is not woken
    node.answered()
    return node.superlink.payload - before


def ask(node: HandMadeNode, asked: FromServer) -> Any:
    """The gate's answer to one round; None where it sent the fixed error."""
    kind = next(k for k, r in ROUNDS.items() if isinstance(asked, r.asked))
    if not tell(node, kind, RecordDict({"request": ConfigRecord(asked.model_dump())})):
        return None
    record = next(c for c in reversed(node.superlink.content) if c.startswith(b"ConfigRecord "))
    return decode(ROUNDS[kind].answered, dict(ConfigRecord.inflate(record)))


def uses(node: HandMadeNode) -> list[str]:
    return [json.loads(line)["kind"] for line in (node.home / "uses.jsonl").read_text().splitlines()]


class Others:
    """Members of a cohort beside the gate, which is number 0, and their server."""

    def __init__(self, node: HandMadeNode, count: int = 3, session: str | None = None) -> None:
        self.node, self.session = node, session or os.urandom(32).hex()
        self.clients = [SumClient(self.session, {k: v - i for k, v in LEVELS.items()}, 3) for i in range(1, count + 1)]
        self.invite = Invite(session=self.session, release_id=RELEASE, cell=CELL)

    def advertise(self) -> Cohort:
        own = ask(self.node, self.invite)
        assert isinstance(own, Advertise)
        others = {i: c.advertise() for i, c in enumerate(self.clients, 1)}
        self.server = SumServer(self.session, {0: own, **others}, {})
        return self.server.cohorts()[0]

    def share(self) -> Inbox:
        cohort = self.advertise()
        own = ask(self.node, cohort)
        assert isinstance(own, Shares)
        others = {i: c.share(self.server.cohorts()[i]) for i, c in enumerate(self.clients, 1)}
        self.inboxes = self.server.inboxes({0: own, **others})
        return self.inboxes[0]

    def mask(self) -> Survivors:
        inbox = self.share()
        self.masked = ask(self.node, inbox)
        assert isinstance(self.masked, Masked)
        others = {i: c.masked(self.inboxes[i]) for i, c in enumerate(self.clients, 1)}
        return self.server.survivors({0: self.masked, **others})

    def total(self) -> dict[str, int]:
        survivors = self.mask()
        own = ask(self.node, survivors)
        assert isinstance(own, Unmask)
        others = {i: c.unmask(survivors) for i, c in enumerate(self.clients, 1)}
        return self.server.total({0: own, **others})
