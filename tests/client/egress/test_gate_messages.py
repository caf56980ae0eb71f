"""What passes the gate and what does not, with messages made by hand: no payload leaves but what is allowed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_client.egress import refusals
from emgup_client.egress.audit import first_break, read_audit
from emgup_client.egress.fleet import MAX_BODY_BYTES, PREFIX
from emgup_client.egress.record import EgressError
from emgup_client.egress.replies import Request, answer, understand
from emgup_model.wire import Reply, Status
from tests.client.egress.stub import (
    NODE,
    PUBLIC_KEY,
    REPORT,
    RUN,
    HandMadeNode,
    StubSuperLink,
    make_policy,
    reasons,
    request,
)

CANARY = "CANARY-6f1d-alice"


def reply_to(message: Message, values: dict[str, Any], name: str = "reply") -> Message:
    return Message(RecordDict({name: MetricRecord(values)}), reply_to=message)


def ask(node: HandMadeNode, cell: str = "b", **changes: Any) -> Message:
    node.superlink.queue.append(request(cell, **changes))
    message = node.pull()
    assert message is not None
    return message


def test_a_report_passes_and_the_server_gets_the_gates_own_bytes(node: HandMadeNode) -> None:
    message = ask(node)
    assert node.push(reply_to(message, REPORT)) == [200, 200, 200, 200]
    node.answered()
    assert node.superlink.values == [REPORT]
    push = PushMessagesRequest.FromString(next(b for n, b in node.superlink.said if n == "push-messages"))
    assert list(push.clientapp_runtime_list) == [0.0]
    assert push.messages_list[0].metadata.created_at == int(push.messages_list[0].metadata.created_at)


def test_a_whole_session_is_in_the_audit_log_byte_for_byte(node: HandMadeNode) -> None:
    beat = SendNodeHeartbeatRequest(node=Node(node_id=NODE), heartbeat_interval=30)
    for _ in range(3):
        assert node.call("send-node-heartbeat", beat).status == 200
    node.push(reply_to(ask(node), REPORT))
    node.answered()
    node.call("deactivate-node", DeactivateNodeRequest(node_id=NODE))
    node.wire.close()
    lines = read_audit(node.home)
    assert first_break(lines) is None
    logged = [(line["kind"], base64.b64decode(line["bytes"])) for line in lines if "bytes" in line]
    assert logged == list(dict.fromkeys(node.superlink.said))
    repeats = next(line for line in lines if line["kind"] == "repeats")
    assert "send-node-heartbeat 2 times" in repeats["reason"]


def test_a_large_object_is_fetched_once_until_it_is_confirmed(node: HandMadeNode) -> None:
    message = request()
    node.superlink.queue.append(message)
    node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
    pull = PullObjectRequest(node=Node(node_id=NODE), run_id=RUN, object_id=message.object_id)
    answers = [node.call("pull-object", pull) for _ in range(3)]
    assert [a.status for a in answers] == [200] * 3
    assert len({a.body for a in answers}) == 1
    assert [n for n, _ in node.superlink.said].count("pull-object") == 1


def test_the_log_says_in_words_what_was_sent(node: HandMadeNode) -> None:
    node.push(reply_to(ask(node), REPORT))
    node.answered()
    node.push(reply_to(ask(node, "c"), {"status": 4}))
    node.answered()
    said = {line["reason"] for line in read_audit(node.home) if line["kind"] == "push-object"}
    assert said == {"report: predictions_changed 21/63, confidence 59/63", "status data_error"}


def test_a_status_passes_and_is_counted(node: HandMadeNode) -> None:
    node.push(reply_to(ask(node), {"status": int(Status.DATA_ERROR)}))
    node.answered()
    assert node.superlink.values == [{"status": int(Status.DATA_ERROR)}]


def _arrays(m: Message) -> Message:
    return Message(RecordDict({"reply": ArrayRecord([np.frombuffer(CANARY.encode(), np.uint8)])}), reply_to=m)


HOSTILE: dict[str, Callable[[Message], Message]] = {
    "arrays": _arrays,
    "config record": lambda m: Message(RecordDict({"reply": ConfigRecord({"status": CANARY})}), reply_to=m),
    "no record": lambda m: Message(RecordDict(), reply_to=m),
    "long key": lambda m: reply_to(m, {"status": 12, CANARY * 100: 1}),
    "list": lambda m: reply_to(m, {**REPORT, "confidence": [int(b) for b in CANARY.encode()]}),
    "NaN": lambda m: reply_to(m, {**REPORT, "confidence": float("nan")}),
    "infinity": lambda m: reply_to(m, {**REPORT, "confidence": float("inf")}),
    "real number": lambda m: reply_to(m, {**REPORT, "confidence": 0.5}),
    "large number": lambda m: reply_to(m, {**REPORT, "confidence": 1 << 60}),
    "finer than the policy": lambda m: reply_to(m, {**REPORT, "confidence": 58}),
    "scalar the policy lacks": lambda m: reply_to(m, {**REPORT, "decision": 63}),
    "one scalar too few": lambda m: reply_to(m, {"status": 12, "confidence": 59}),
    "order of the keys": lambda m: reply_to(m, {"status": 12, "confidence": 59, "predictions_changed": 21}),
    "report without status": lambda m: reply_to(m, {"predictions_changed": 21, "confidence": 59}),
    "unknown status": lambda m: reply_to(m, {"status": 99}),
    "values beside a status": lambda m: reply_to(m, {"status": 7, "confidence": 59}),
    "exact metrics": lambda m: reply_to(
        m,
        {
            "status": 0,
            "accuracy": 1,
            "macro_f1": 1,
            "source_accuracy": 1,
            "source_macro_f1": 1,
            "n_windows": 1,
            "adapt_ms": 1,
        },
    ),
    "name of the record": lambda m: reply_to(m, {"status": 7}, CANARY),
    "second record": lambda m: Message(
        RecordDict({"reply": MetricRecord({"status": 7}), CANARY: MetricRecord({"a": 1})}), reply_to=m
    ),
    "status of another kind of message": lambda m: reply_to(m, {"status": int(Status.NEEDS_RELEASE)}),
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_reply_becomes_one_fixed_error(node: HandMadeNode, attack: str) -> None:
    statuses = node.push(HOSTILE[attack](ask(node)))
    assert statuses[-1] == 400
    node.answered()
    assert node.superlink.payload == 0
    assert all(CANARY.encode() not in body for _, body in node.superlink.said)
    assert len(reasons(node)) == 1
    assert reasons(node)[0]
    assert CANARY not in (node.home / "audit.jsonl").read_text()
    assert node.ledger.reports == 0


def test_every_refusal_looks_the_same_to_the_server(node: HandMadeNode) -> None:
    for cell, attack in zip("bcd", ("arrays", "list", "NaN"), strict=True):
        node.push(HOSTILE[attack](ask(node, cell)))
        node.answered()
    pushes = [PushMessagesRequest.FromString(b) for n, b in node.superlink.said if n == "push-messages"]
    errors = {(p.messages_list[0].error.code, p.messages_list[0].error.reason) for p in pushes}
    assert errors == {(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "")}


def test_an_exceptions_text_stays_here(node: HandMadeNode) -> None:
    error = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"ValueError: /home/{CANARY}/emg.h5")
    assert node.push(Message(error, reply_to=ask(node)))[-1] == 200
    node.answered()
    assert node.superlink.payload == 0
    assert all(CANARY.encode() not in body for _, body in node.superlink.said)


def test_time_to_live_and_creation_time_of_a_reply_are_the_gates(node: HandMadeNode) -> None:
    reply = reply_to(ask(node), REPORT)
    reply.metadata.__dict__["_created_at"] = 1795599953.123456
    reply.metadata.ttl = 1234.567891
    node.push(reply)
    node.answered()
    pushed = next(PushMessagesRequest.FromString(b) for n, b in node.superlink.said if n == "push-messages")
    assert pushed.messages_list[0].metadata.ttl != 1234.567891
    assert pushed.messages_list[0].metadata.created_at != 1795599953.123456


@pytest.mark.parametrize(
    "field", ["_group_id", "_message_type", "_reply_to_message_id", "_src_node_id", "_dst_node_id", "_run_id"]
)
def test_metadata_cannot_carry_anything(node: HandMadeNode, field: str) -> None:
    reply = reply_to(ask(node), REPORT)
    reply.metadata.__dict__[field] = CANARY if isinstance(reply.metadata.__dict__[field], str) else 424242
    if field == "_message_type":
        reply.metadata.__dict__[field] = "train.canary"
    assert node.push(reply)[-1] == 400
    assert node.superlink.payload == 0
    assert all(b"anary" not in body and CANARY.encode() not in body for _, body in node.superlink.said)


@pytest.mark.parametrize("level", ["MetricRecord", "RecordDict", "Message"])
def test_bytes_beside_what_was_understood_are_refused(node: HandMadeNode, level: str) -> None:
    """Every object is named by its own hash, so a hostile app can announce what it likes: a field nobody knows."""
    extra = {"MetricRecord": b"\xfa\x7f\x06CANARY", "RecordDict": b"      ", "Message": b"\xfa\x7f\x06CANARY"}
    reply = reply_to(ask(node), REPORT)
    made, tree = rebuilt(reply, lambda kind, body: body + extra[kind] if kind == level else body)
    assert node.push(reply, {_name(c): c for c in made}, tree)[-1] == 400
    assert reasons(node) == ["the reply is not in canonical form"]
    assert node.superlink.payload == 0
    assert all(b"CANARY" not in body for _, body in node.superlink.said)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_reply_with_changed_bytes_passes_only_if_it_is_another_allowed_one(data: st.DataObject) -> None:
    """Also where the hostile app names every object by its new hash."""
    message = request()
    asked = Request(message.metadata, frozenset(), 0.0)
    level = data.draw(st.sampled_from(["MetricRecord", "RecordDict", "Message"]))

    def change(kind: str, body: bytes) -> bytes:
        if kind != level:
            return body
        at = data.draw(st.integers(0, len(body) - 1))
        end = data.draw(st.integers(at, min(len(body), at + 2)))
        return body[:at] + data.draw(st.binary(max_size=4)) + body[end:]

    made, tree = rebuilt(reply_to(message, REPORT), change)
    try:
        reply = understand({_name(c): c for c in made}, tree, asked)
    except EgressError:
        return
    if reply is not None:
        sent = answer(asked, reply, NODE)
        assert set(made[:2]) <= set(sent.objects.values())  # nothing was in it but what goes out
        assert Reply.decode(reply.encode()) == reply


def rebuilt(reply: Message, change: Callable[[str, bytes], bytes]) -> tuple[list[bytes], ObjectTree]:
    """(record, record dict, message; their tree) with changed bodies, proper headers, and names that fit."""
    contents = [v.deflate() for v in get_all_nested_objects(reply).values()]
    made: list[bytes] = []
    for content in contents:
        for old, new in zip(contents, made, strict=False):
            content = content.replace(_name(old).encode(), _name(new).encode())
        head, _, body = content.partition(b"\0")
        body = change(head.split(b" ")[0].decode(), body)
        made.append(head.rsplit(b" ", 1)[0] + b" %d\0" % len(body) + body)
    tree = ObjectTree(object_id=_name(made[0]))
    for content in made[1:]:
        tree = ObjectTree(object_id=_name(content), children=[tree])
    return made, tree


def _name(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_the_same_cell_gets_the_same_bytes_again_and_is_one_report(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(reports_per_day=1))
    node.activate()
    for _ in range(3):
        node.push(reply_to(ask(node), REPORT))
        node.answered()
    assert node.superlink.values == [REPORT] * 3
    assert len({c for c in node.superlink.content if c.startswith(b"MetricRecord ")}) == 1
    assert node.ledger.reports == 1
    node.push(reply_to(ask(node, "c"), REPORT))
    node.answered()
    assert len(node.superlink.values) == 3
    assert reasons(node) == ["the policy's number of reports for a day is used up"]
    node.close()


def test_when_all_is_used_up_there_is_silence(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(statuses_per_day=1))
    node.activate()
    node.push(reply_to(ask(node), {"status": 4}))
    node.answered()
    said = len([n for n, _ in node.superlink.said if n.startswith("push")])
    for cell in "cde":
        assert node.push(reply_to(ask(node, cell), {"status": 4}))[-1] == 400
    node.close()
    assert len([n for n, _ in node.superlink.said if n.startswith("push")]) == said


def test_one_request_is_answered_once(node: HandMadeNode) -> None:
    message = ask(node)
    node.push(reply_to(message, REPORT))
    node.answered()
    assert node.push(reply_to(message, {"status": 4})) == [400]
    assert reasons(node) == ["an answer to no open request"]


def test_a_report_answers_only_a_valid_request_to_personalize(node: HandMadeNode) -> None:
    assert node.push(reply_to(ask(node, cell="!"), REPORT))[-1] == 400
    assert "not valid" in reasons(node)[0]
    assert node.superlink.payload == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("register-node", RegisterNodeFleetRequest(public_key=PUBLIC_KEY)),
        ("unregister-node", DeactivateNodeRequest(node_id=NODE)),
        ("activate-node", ActivateNodeRequest(public_key=CANARY.encode(), heartbeat_interval=30)),
        ("activate-node", ActivateNodeRequest(public_key=PUBLIC_KEY, heartbeat_interval=30.000001)),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=Node(node_id=NODE), heartbeat_interval=31)),
        ("send-node-heartbeat", SendNodeHeartbeatRequest(node=Node(node_id=78), heartbeat_interval=30)),
        ("pull-messages", PullMessagesRequest(node=Node(node_id=NODE), message_ids=[CANARY])),
        ("get-run", GetRunRequest(node=Node(node_id=NODE), run_id=99)),
        ("push-object", PushObjectRequest(node=Node(node_id=NODE), object_content=CANARY.encode())),
        ("push-messages", PushMessagesRequest(node=Node(node_id=NODE))),
        ("../control/start-run", PullMessagesRequest()),
        ("push-logs", PullMessagesRequest()),
    ],
)
def test_calls_that_say_more_than_they_need_are_refused(node: HandMadeNode, name: str, message: Any) -> None:
    before = list(node.superlink.said)
    assert node.call(name, message).status == 400
    assert node.superlink.said == before
    assert len(reasons(node)) == 1


def test_an_unknown_field_of_a_call_is_refused(node: HandMadeNode) -> None:
    body = PullMessagesRequest(node=Node(node_id=NODE)).SerializeToString() + b"\xfa\x7f\x06CANARY"
    assert node.fleet.call(PREFIX + "pull-messages", body).status == 400
    assert all(b"CANARY" not in b for _, b in node.superlink.said)


def test_nothing_is_said_before_the_node_is_activated(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink())
    assert node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE))).status == 400
    assert node.superlink.said == []
    node.close()


def test_a_flood_of_refusals_does_not_fill_the_disk(node: HandMadeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_NOTED", 5)
    for _ in range(20):
        assert node.call("push-logs", PullMessagesRequest()).status == 400
    assert len(reasons(node)) == 5
    assert "from here on" in reasons(node)[-1]


def test_large_calls_are_refused(node: HandMadeNode) -> None:
    before = list(node.superlink.said)
    assert node.fleet.call(PREFIX + "push-object", bytes(MAX_BODY_BYTES + 1)).status == 400
    assert node.superlink.said == before


@given(name=st.sampled_from(["push-messages", "push-object", "pull-messages", "get-run"]), body=st.binary(max_size=300))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_never_pass(node: HandMadeNode, name: str, body: bytes) -> None:
    before = list(node.superlink.said)
    assert node.fleet.call(PREFIX + name, body).status == 400
    assert node.superlink.said == before


def test_no_reply_is_sent_while_the_log_cannot_be_written(node: HandMadeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    message = ask(node)
    before = list(node.superlink.said)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emgup_client.egress.appending.os.write", full)
    assert node.push(reply_to(message, REPORT))[-1] == 400
    beat = SendNodeHeartbeatRequest(node=Node(node_id=NODE), heartbeat_interval=30)
    assert node.call("send-node-heartbeat", beat).status == 400
    assert node.superlink.said == before
