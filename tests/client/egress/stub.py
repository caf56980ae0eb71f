"""A SuperLink of a few lines that notes every byte it is sent, and a SuperNode's calls made by hand."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.message import Message, make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fab_pb2 import Fab, GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    ObjectTree,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse, Run
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from emgup_client.egress.audit import AuditLog, read_audit
from emgup_client.egress.fleet import PREFIX, Fleet
from emgup_client.egress.outbox import Outbox, Wire
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.ruling import Ruling
from emgup_client.egress.sums import Sums
from emgup_client.egress.upstream import Answer
from emgup_client.egress.use_ledger import UseLedger

NODE, RUN, BUNDLE = 77, 1234, b"the pinned bundle"
PINNED = hashlib.sha256(BUNDLE).hexdigest()
PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----"
POLICY: dict[str, Any] = {
    "scalars": {"predictions_changed": {"bits": 4}, "confidence": {"bits": 4}},
    "noise": {"kind": "none"},
    "limits": {
        "reports_per_day": 2,
        "reports_for_life": 3,
        "statuses_per_day": 5,
        "statuses_for_life": 8,
        "pad_s": 0,
    },
}
REPORT = {"status": 12, "predictions_changed": 21, "confidence": 59}


def make_policy(**limits: Any) -> EgressPolicy:
    return EgressPolicy.model_validate({**POLICY, "limits": {**POLICY["limits"], **limits}})


def request(cell: str = "b", kind: str = "train", **changes: Any) -> Message:
    values = {
        "release_id": "a" * 64,
        "method": "{}",
        "method_name": "adabn",
        "protocol": "transductive",
        "scenario": "balanced",
        "seed": 3,
        "cell": cell * 64,
        **changes,
    }
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, kind)
    message = make_message(metadata, RecordDict({"request": ConfigRecord(values)}))
    metadata.__dict__["_message_id"] = message.object_id
    return message


@dataclass
class StubSuperLink:
    """Answers like the real one; ``said`` is every (path, body) it was ever sent."""

    queue: list[Message] = field(default_factory=list)
    said: list[tuple[str, bytes]] = field(default_factory=list)
    fab: bytes = BUNDLE
    fab_hash: str = PINNED
    broken: dict[str, bytes] = field(default_factory=dict)
    refuse: dict[str, int] = field(default_factory=dict)
    arrived: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    def post(self, path: str, body: bytes) -> Answer:
        name = path.removeprefix(PREFIX)
        self.said.append((name, body))
        if name in self.refuse:
            return Answer(self.refuse[name], b"{}")
        if name in self.broken:
            return Answer(200, self.broken[name])
        answer = Answer(200, self._answer(name, body).SerializeToString())
        if name == "push-object" and PushObjectRequest.FromString(body).object_content.startswith(b"Message "):
            self.arrived.set()
        return answer

    def _answer(self, name: str, body: bytes) -> Any:
        match name:
            case "activate-node":
                return ActivateNodeResponse(node_id=NODE)
            case "deactivate-node":
                return DeactivateNodeResponse()
            case "send-node-heartbeat":
                return SendNodeHeartbeatResponse(success=True)
            case "pull-messages":
                return self._pull()
            case "get-run":
                run_id = GetRunRequest.FromString(body).run_id
                return GetRunResponse(run=Run(run_id=run_id, fab_hash=self.fab_hash))
            case "get-fab":
                return GetFabResponse(fab=Fab(hash_str=self.fab_hash, content=self.fab))
            case "pull-object":
                content = self._objects[PullObjectRequest.FromString(body).object_id]
                return PullObjectResponse(object_found=True, object_available=True, object_content=content)
            case "confirm-message-received":
                if ConfirmMessageReceivedRequest.FromString(body).message_object_id not in self._objects:
                    raise ValueError("a message was confirmed that was never pulled")
                return ConfirmMessageReceivedResponse()
            case "push-messages":
                tree = PushMessagesRequest.FromString(body).message_object_trees[0]
                return PushMessagesResponse(objects_to_push=[tree.object_id], session_id="s1")
            case _:
                return PushObjectResponse(stored=True)

    def _pull(self) -> PullMessagesResponse:
        if not self.queue:
            return PullMessagesResponse()
        message = self.queue.pop(0)
        tree = get_object_tree(message)
        self._objects |= {k: v.deflate() for k, v in get_all_nested_objects(message).items()}
        proto = message_to_proto(remove_content_from_message(message))
        return PullMessagesResponse(messages_list=[proto], message_object_trees=[tree])

    @property
    def content(self) -> list[bytes]:
        """Every object that came up."""
        return [PushObjectRequest.FromString(b).object_content for n, b in self.said if n == "push-object"]

    @property
    def values(self) -> list[dict[str, Any]]:
        """The metric records that came up."""
        return [dict(MetricRecord.inflate(c)) for c in self.content if c.startswith(b"MetricRecord ")]

    @property
    def payload(self) -> int:
        """Bytes of records that came up: all that is not the one fixed error."""
        return sum(len(c) for c in self.content if not c.startswith(b"Message "))


class HandMadeNode:
    """A SuperNode's calls, as Flower makes them, through a gate to a stub."""

    public_key = PUBLIC_KEY

    def __init__(self, home: Path, superlink: StubSuperLink, policy: EgressPolicy | None = None) -> None:
        policy = policy or make_policy()
        self.superlink, self.home = superlink, home
        self.audit = AuditLog(home)
        self.ledger = UseLedger(home, policy)
        self.wire = Wire(superlink.post, self.audit)
        self.outbox = Outbox(self.wire, policy.limits.pad_s)
        ruling, sums = Ruling(policy, self.ledger, self.audit), Sums(policy, self.ledger)
        self.fleet = Fleet(self.wire, self.outbox, ruling, sums, self.audit, PUBLIC_KEY, PINNED)

    def close(self) -> None:
        self.fleet.close()
        self.outbox.close()
        self.wire.close()
        self.audit.close()
        self.ledger.close()

    def call(self, name: str, message: Any) -> Answer:
        return self.fleet.call(PREFIX + name, message.SerializeToString(deterministic=True))

    def activate(self) -> Answer:
        return self.call("activate-node", ActivateNodeRequest(public_key=self.public_key, heartbeat_interval=30))

    def pull(self) -> Message | None:
        """One whole request, fetched like a SuperNode does; None where the gate hands none down."""
        answer = self.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
        response = PullMessagesResponse.FromString(answer.body)
        if not response.messages_list:
            return None
        node = Node(node_id=NODE)
        metadata = response.messages_list[0].metadata
        asked = [
            self.call("get-run", GetRunRequest(node=node, run_id=metadata.run_id)),
            self.call("get-fab", GetFabRequest(node=node, run_id=metadata.run_id, hash_str=PINNED)),
        ]
        if any(a.status != 200 for a in asked):
            return None
        for item in _ids(response.message_object_trees[0]):
            a = self.call("pull-object", PullObjectRequest(node=node, run_id=metadata.run_id, object_id=item))
            if a.status != 200:
                return None
        self.call(
            "confirm-message-received",
            ConfirmMessageReceivedRequest(node=node, run_id=metadata.run_id, message_object_id=metadata.message_id),
        )
        return message_from_proto(response.messages_list[0])

    def push(
        self, reply: Message, objects: Mapping[str, bytes] | None = None, tree: ObjectTree | None = None
    ) -> list[int]:
        """Push a reply like a SuperNode does, or other objects in its place: HTTP statuses."""
        tree = tree or get_object_tree(reply)
        metadata = reply.metadata
        metadata.__dict__["_message_id"] = tree.object_id
        push = PushMessagesRequest(
            node=Node(node_id=NODE),
            messages_list=[message_to_proto(remove_content_from_message(reply))],
            message_object_trees=[tree],
            clientapp_runtime_list=[1.25],
        )
        answer = self.call("push-messages", push)
        statuses = [answer.status]
        contents = objects or {k: v.deflate() for k, v in get_all_nested_objects(reply).items()}
        for name in PushMessagesResponse.FromString(answer.body).objects_to_push if answer.status == 200 else ():
            pushed = PushObjectRequest(
                node=Node(node_id=NODE),
                run_id=RUN,
                object_id=name,
                object_content=contents[name],
                session_id="gate",
            )
            statuses.append(self.call("push-object", pushed).status)
            if statuses[-1] != 200:
                break
        return statuses

    def answered(self) -> None:
        """Wait until the gate has sent a whole message."""
        assert self.superlink.arrived.wait(10)
        self.superlink.arrived.clear()


def _ids(tree: Any) -> list[str]:
    return [i for child in tree.children for i in _ids(child)] + [tree.object_id]


def reasons(node: HandMadeNode) -> list[str]:
    """Why the gate refused what it refused, from its log."""
    return [line["reason"] for line in read_audit(node.home) if not line["allowed"]]
