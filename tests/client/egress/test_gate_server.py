"""A server that cheats or talks nonsense, behind the gate: nothing of it is handed down, nothing leaves."""

from __future__ import annotations

import pytest
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    PullMessagesResponse,
)
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.egress.stub import (
    HandMadeNode,
    reasons,
    request,
)


def test_another_bundle_is_never_handed_down(node: HandMadeNode) -> None:
    node.superlink.fab_hash = "f" * 64
    node.superlink.queue.append(request())
    assert node.pull() is None
    assert "bundle" in reasons(node)[0]
    assert [n for n, _ in node.superlink.said].count("get-fab") == 0


def test_a_bundle_changed_by_one_byte_is_never_handed_down(node: HandMadeNode) -> None:
    node.superlink.fab = node.superlink.fab[:-1] + b"!"
    node.superlink.queue.append(request())
    assert node.pull() is None
    assert "bundle" in reasons(node)[0]


@pytest.mark.parametrize("kind", ["query.weights", "evaluate", "train.other", "query"])
def test_a_message_of_an_unknown_kind_is_not_handed_down(node: HandMadeNode, kind: str) -> None:
    node.superlink.queue.append(request(kind=kind))
    assert node.pull() is None
    assert reasons(node) == ["the server asks for something the client does not know"]
    assert not any(n.startswith("push") for n, _ in node.superlink.said)


@pytest.mark.parametrize(
    ("field", "value"),
    [("_src_node_id", 5), ("_dst_node_id", 5), ("_ttl", float("nan")), ("_created_at", float("inf")), ("_ttl", 1e9)],
)
def test_a_message_with_strange_metadata_is_not_handed_down(node: HandMadeNode, field: str, value: float) -> None:
    message = request()
    message.metadata.__dict__[field] = value
    message.metadata.__dict__["_message_id"] = message.object_id
    node.superlink.queue.append(message)
    assert node.pull() is None
    assert len(reasons(node)) == 1


@pytest.mark.parametrize("name", ["pull-messages", "get-run", "get-fab", "pull-object"])
@given(body=st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_server_answers_the_gate_stays_up_and_shut(node: HandMadeNode, name: str, body: bytes) -> None:
    node.superlink.broken = {name: body}
    node.superlink.queue.append(request())
    node.pull()
    node.superlink.broken = {}
    node.superlink.queue.clear()
    assert node.superlink.payload == 0
    assert node.activate().status == 200


def test_objects_with_other_bytes_than_announced_are_refused(node: HandMadeNode) -> None:
    bad = PullObjectResponse(object_found=True, object_available=True, object_content=b"MetricRecord  0\0")
    node.superlink.broken = {"pull-object": bad.SerializeToString()}
    node.superlink.queue.append(request())
    assert node.pull() is None
    assert reasons(node) == ["the server sent other bytes than it announced"]


def test_many_messages_at_once_are_refused(node: HandMadeNode) -> None:
    message = request()
    many = PullMessagesResponse(
        messages_list=[message_to_proto(message)] * 2, message_object_trees=[get_object_tree(message)] * 2
    )
    node.superlink.broken = {"pull-messages": many.SerializeToString()}
    assert node.pull() is None
    assert "several" in reasons(node)[0]
