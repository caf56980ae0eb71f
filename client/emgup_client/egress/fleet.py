"""What the gate lets through: Flower's Fleet API call by call, field by field. No HTTP in here.

Every request upward is written anew by the gate from what it knows itself (its own node, ids that the server gave it,
values that the policy allows); a request of the SuperNode that differs from that by one byte is refused. Every answer
downward is parsed, bounded, and written anew. What is not listed here does not exist.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from flwr.app.message.configrecord import ConfigRecord
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
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
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse
from google.protobuf.message import DecodeError, Message

from emgup_client.egress.audit import AuditLog
from emgup_client.egress.incoming import check_pulled, ids_of
from emgup_client.egress.outbox import Outbox, Wire
from emgup_client.egress.record import EgressError
from emgup_client.egress.replies import Request, understand
from emgup_client.egress.ruling import Ruling
from emgup_client.egress.upstream import Answer
from emgup_model.wire import Personalize, WireError, decode_request

log = logging.getLogger(__name__)

PREFIX = "/v1/fleet/"
MAX_BODY_BYTES = 1 << 16
"""Of anything that the SuperNode may say."""
MAX_OPEN = 64
"""Requests of the server that are remembered."""
MAX_NOTED = 1000
"""Refusals of one kind that a gate notes."""
MAX_SETTINGS_BYTES = 1 << 20
_TRAIN = "train"

M = TypeVar("M", bound=Message)


@dataclass
class _Open:
    """A request of the server that was handed down and is not answered yet.

    ``tree`` and ``objects``: the reply, as far as it was pushed. ``fetched``: answers to pull-object by object id, kept
    until the request is confirmed: a SuperNode whose patience ends during a large one asks for it again.
    """

    request: Request
    personalize: Personalize | None = None
    tree: ObjectTree | None = None
    objects: dict[str, bytes] = field(default_factory=dict)
    fetched: dict[str, bytes] = field(default_factory=dict)


class Fleet:
    """The calls of one SuperNode to its SuperLink.

    Args:
        wire: the way to the SuperLink; notes what goes there.
        outbox: sends replies at their time.
        ruling: what the policy makes of a reply.
        audit: where refusals are noted.
        public_key: PEM of the SuperNode's key, the only node that may be spoken for.
        bundle_sha256: the only app bundle that is handed down.
    """

    def __init__(
        self, wire: Wire, outbox: Outbox, ruling: Ruling, audit: AuditLog, public_key: bytes, bundle_sha256: str
    ) -> None:
        self._wire, self._outbox, self._ruling, self._audit = wire, outbox, ruling, audit
        self._public_key, self._bundle = public_key, bundle_sha256
        self._lock = threading.RLock()
        self._node: Node | None = None
        self._open: OrderedDict[str, _Open] = OrderedDict()
        self._runs: set[int] = set()
        self._refused: Counter[str] = Counter()
        self._calls: dict[str, Callable[[bytes], Answer]] = {
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
            "send-node-heartbeat": self._heartbeat,
            "pull-messages": self._pull_messages,
            "get-run": self._get_run,
            "get-fab": self._get_fab,
            "pull-object": self._pull_object,
            "confirm-message-received": self._confirm,
            "push-messages": self._push_messages,
            "push-object": self._push_object,
        }

    def call(self, path: str, body: bytes) -> Answer:
        """Answer one call of the SuperNode. Never raises: whatever goes wrong, nothing is sent and 400 is answered."""
        name = path.removeprefix(PREFIX)
        try:
            if not path.startswith(PREFIX) or name not in self._calls:
                raise EgressError("a call that is not known")
            if len(body) > MAX_BODY_BYTES:
                raise EgressError("more bytes than any call needs")
            return self._calls[name](body)
        except EgressError as e:
            return self.refuse(name if name in self._calls else "unknown-call", str(e))
        except Exception as e:
            log.exception("the gate failed on %s", name[:40])
            return self.refuse(name if name in self._calls else "unknown-call", f"the gate failed: {type(e).__name__}")

    def refuse(self, kind: str, reason: str, status: int = 400) -> Answer:
        """Note a refusal, unless there were so many of its kind that the log would only fill the disk."""
        self._refused[kind] += 1
        try:
            if self._refused[kind] <= MAX_NOTED:
                last = ": from here on such refusals are not noted" if self._refused[kind] == MAX_NOTED else ""
                self._audit.note(kind, False, reason + last)
        except OSError:
            log.exception("a refusal could not be noted")
        log.warning("refused %s: %s", kind, reason)
        return Answer(status)

    # --- this node -----------------------------------------------------------------------------------------------

    def _activate(self, body: bytes) -> Answer:
        made = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        answer, response = self._pass("activate-node", body, made, ActivateNodeResponse)
        if response is not None:
            with self._lock:
                self._node = Node(node_id=response.node_id)
                self._open.clear()
                self._runs.clear()
        return answer

    def _deactivate(self, body: bytes) -> Answer:
        made = DeactivateNodeRequest(node_id=self._own().node_id)
        return self._pass("deactivate-node", body, made, DeactivateNodeResponse)[0]

    def _heartbeat(self, body: bytes) -> Answer:
        made = SendNodeHeartbeatRequest(node=self._own(), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        return self._pass("send-node-heartbeat", body, made, SendNodeHeartbeatResponse)[0]

    # --- down ----------------------------------------------------------------------------------------------------

    def _pull_messages(self, body: bytes) -> Answer:
        made = PullMessagesRequest(node=self._own())
        answer, response = self._pass("pull-messages", body, made, PullMessagesResponse)
        if response is None or not response.messages_list:
            return answer
        try:
            request = check_pulled(response, self._own().node_id)
        except EgressError as e:
            self.refuse("request", str(e))
            return _ok(PullMessagesResponse())
        with self._lock:
            self._open[request.metadata.message_id] = _Open(request)
            self._runs.add(request.metadata.run_id)
            while len(self._open) > MAX_OPEN:
                self._open.popitem(last=False)
        return answer

    def _get_run(self, body: bytes) -> Answer:
        run_id = _parse(GetRunRequest, body).run_id
        self._known_run(run_id)
        made = GetRunRequest(node=self._own(), run_id=run_id)
        answer, response = self._pass("get-run", body, made, GetRunResponse)
        if response is None:
            return answer
        if response.run.run_id != run_id or response.run.fab_hash != self._bundle:
            return self._refuse_run(run_id, "the run's app bundle is not the pinned one")
        if response.run.primary_task_type not in ("", "flwr-serverapp"):
            return self._refuse_run(run_id, "the run is of another kind")
        response.run.override_config.clear()  # nothing that the server sets reaches the client but its messages
        return _ok(response)

    def _get_fab(self, body: bytes) -> Answer:
        asked = _parse(GetFabRequest, body)
        self._known_run(asked.run_id)
        made = GetFabRequest(node=self._own(), hash_str=self._bundle, run_id=asked.run_id)
        answer, response = self._pass("get-fab", body, made, GetFabResponse)
        if response is None:
            return answer
        if response.fab.hash_str != self._bundle or _sha256(response.fab.content) != self._bundle:
            return self._refuse_run(asked.run_id, "the app bundle is not the pinned one")
        return answer

    def _pull_object(self, body: bytes) -> Answer:
        asked = _parse(PullObjectRequest, body)
        entry = self._asked_for(asked.run_id, asked.object_id)
        made = PullObjectRequest(node=self._own(), run_id=asked.run_id, object_id=asked.object_id)
        if (known := entry.fetched.get(asked.object_id)) is not None and body == made.SerializeToString(
            deterministic=True
        ):
            return Answer(200, known)
        answer, response = self._pass("pull-object", body, made, PullObjectResponse)
        if response is None or not response.object_content:
            return answer
        if _sha256(response.object_content) != asked.object_id:
            raise EgressError("the server sent other bytes than it announced")
        entry.fetched[asked.object_id] = answer.body
        if entry.request.metadata.message_type == _TRAIN:
            entry.personalize = _personalize(response.object_content) or entry.personalize
        return answer

    def _confirm(self, body: bytes) -> Answer:
        asked = _parse(ConfirmMessageReceivedRequest, body)
        self._asked_for(asked.run_id, asked.message_object_id).fetched.clear()
        made = ConfirmMessageReceivedRequest(
            node=self._own(), run_id=asked.run_id, message_object_id=asked.message_object_id
        )
        return self._pass("confirm-message-received", body, made, ConfirmMessageReceivedResponse)[0]

    # --- up ------------------------------------------------------------------------------------------------------

    def _push_messages(self, body: bytes) -> Answer:
        """A reply is announced. Nothing goes up yet: the gate first wants to see all of it."""
        push = _parse(PushMessagesRequest, body)
        if len(push.messages_list) != 1 or len(push.message_object_trees) != 1:
            raise EgressError("not one message")
        entry = self._open_request(push.messages_list[0].metadata.reply_to_message_id)
        tree = push.message_object_trees[0]
        try:
            if push.messages_list[0].content.ByteSize():
                raise EgressError("content beside the objects")
            ids = ids_of(tree)
            if len(ids) not in (1, 3) or (len(ids) == 3 and len(tree.children) != 1):
                raise EgressError("not one record")
        except EgressError as e:
            return self._refuse_reply(entry, str(e))
        with self._lock:
            entry.tree, entry.objects = tree, {}
        name = push.messages_list[0].metadata.message_id
        return _ok(PushMessagesResponse(results={name: 0}, objects_to_push=ids, session_id="gate"))

    def _push_object(self, body: bytes) -> Answer:
        pushed = _parse(PushObjectRequest, body)
        with self._lock:
            found = [e for e in self._open.values() if e.tree is not None and pushed.object_id in ids_of(e.tree)]
            if not found:
                raise EgressError("an object of no announced reply")
            entry = found[0]
            if _sha256(pushed.object_content) != pushed.object_id:
                return self._refuse_reply(entry, "an object whose bytes are not those announced")
            entry.objects[pushed.object_id] = pushed.object_content
            assert entry.tree is not None
            if set(entry.objects) < set(ids_of(entry.tree)):
                return _ok(PushObjectResponse(stored=True))
            self._open.pop(entry.request.metadata.message_id)
        return self._judge(entry)

    def _judge(self, entry: _Open) -> Answer:
        assert entry.tree is not None
        try:
            reply = understand(entry.objects, entry.tree, entry.request)
            allowed = self._ruling.rule(reply, entry.request.metadata.message_type, entry.personalize)
        except EgressError as e:
            return self._refuse_reply(entry, str(e))
        self._outbox.put(entry.request, allowed, self._own().node_id)
        return _ok(PushObjectResponse(stored=True))

    def _refuse_reply(self, entry: _Open, reason: str) -> Answer:
        """Nothing of the reply leaves. The server is told that there will be none, while the policy allows that."""
        with self._lock:
            self._open.pop(entry.request.metadata.message_id, None)
        answer = self.refuse("reply", reason)
        self._decline(entry.request)
        return answer

    def _refuse_run(self, run_id: int, reason: str) -> Answer:
        with self._lock:
            of_run = [e for e in self._open.values() if e.request.metadata.run_id == run_id]
            for entry in of_run:
                self._open.pop(entry.request.metadata.message_id)
            self._runs.discard(run_id)
        answer = self.refuse("run", reason, status=403)  # the SuperNode passes over a run that is forbidden
        for entry in of_run:
            self._decline(entry.request)
        return answer

    def _decline(self, request: Request) -> None:
        try:
            self._ruling.rule(None, request.metadata.message_type, None)
        except (EgressError, OSError) as e:
            self.refuse("reply", f"not even an error is sent: {e if isinstance(e, EgressError) else 'storage'}")
            return
        self._outbox.put(request, None, self._own().node_id)

    # --- common --------------------------------------------------------------------------------------------------

    def _own(self) -> Node:
        if self._node is None:
            raise EgressError("the node is not activated")
        return self._node

    def _known_run(self, run_id: int) -> None:
        if run_id not in self._runs:
            raise EgressError("a run that the server did not name")

    def _open_request(self, message_id: str) -> _Open:
        with self._lock:
            entry = self._open.get(message_id)
        if entry is None:
            raise EgressError("an answer to no open request")
        return entry

    def _asked_for(self, run_id: int, object_id: str) -> _Open:
        with self._lock:
            for entry in self._open.values():
                if entry.request.metadata.run_id == run_id and object_id in entry.request.objects:
                    return entry
        raise EgressError("an object that the server did not announce")

    def _pass(self, name: str, body: bytes, made: Message, kind: type[M]) -> tuple[Answer, M | None]:
        """Send ``made`` if the SuperNode said exactly that, and read the answer: (what to answer, its content)."""
        content = made.SerializeToString(deterministic=True)
        if content != body:
            raise EgressError("a field that is not what this call needs")
        answer = self._wire.send(name, content)
        if answer.status != 200:
            return Answer(answer.status if answer.status in (401, 403, 502, 503, 504) else 400), None
        response = _parse(kind, answer.body)
        return _ok(response), response


def _ok(message: Message) -> Answer:
    return Answer(200, message.SerializeToString(deterministic=True))


def _parse(kind: type[M], body: bytes) -> M:
    try:
        message = kind.FromString(body)
    except (DecodeError, RecursionError):
        raise EgressError("bytes that are no message of this call") from None
    message.DiscardUnknownFields()
    return message


def _personalize(content: bytes) -> Personalize | None:
    """The request that an object holds; None where it is no such thing (the client then refuses it)."""
    if len(content) > MAX_SETTINGS_BYTES or not content.startswith(b"ConfigRecord "):
        return None
    try:
        return decode_request(Personalize, dict(ConfigRecord.inflate(content)))
    except WireError:
        return None
    except Exception as e:  # whatever hostile bytes do to a parser
        log.warning("a request could not be read: %s", type(e).__name__)
        return None


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
