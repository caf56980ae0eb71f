"""Flower messages on their way up: taken apart strictly, and made anew from what was understood.

A message travels as objects, each named by the SHA-256 of its bytes: the message (metadata, or an error), the record
dict, the record. Nothing that came from the app is passed on; the gate writes all three itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Error, MetricRecord, RecordDict
from flwr.app.message.message import Message, make_message, remove_content_from_message
from flwr.app.metadata import Metadata
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_body, get_object_tree

from emgup_client.egress.record import EgressError
from emgup_model.secure_sum_wire import FromClient
from emgup_model.wire import REPLY, Reply, WireError


@dataclass(frozen=True)
class Request:
    """A message from the server that was handed to the SuperNode.

    Attributes:
        metadata: as received.
        objects: ids of the objects that it is made of.
        arrived: when, seconds of a clock that never goes back.
    """

    metadata: Metadata
    objects: frozenset[str]
    arrived: float


@dataclass(frozen=True)
class Outgoing:
    """A message that the gate made: the request that announces it, and its objects by id, children first."""

    push: PushMessagesRequest
    objects: dict[str, bytes]


def understand(objects: Mapping[str, bytes], tree: ObjectTree, request: Request) -> Reply | None:
    """What an app answered: a reply of the schema, or None for a Flower error (whatever it says).

    Args:
        objects: contents by id, exactly those of ``tree``, each of the hash that its id says.
        tree: of the message.
        request: what is answered.

    Raises:
        EgressError: it is anything but the canonical form of such a reply.
    """
    top = objects[tree.object_id]
    try:
        proto = ProtoMessage.FromString(get_object_body(top, Message))
        metadata = _metadata_of(proto, request)
        if proto.HasField("error"):
            if _bytes_of(make_message(metadata, error=Error(proto.error.code, proto.error.reason))) != {top}:
                raise EgressError("the message is not in canonical form")
            return None
        record_id = tree.children[0].children[0].object_id
        reply = Reply.decode(dict(MetricRecord.inflate(objects[record_id])))
        same = make_message(metadata, content=RecordDict({REPLY: MetricRecord(dict(reply.encode()))}))
    except (WireError, EgressError) as e:
        raise EgressError(f"not a reply of the schema: {e}") from None
    except Exception as e:  # whatever hostile bytes do to a parser
        raise EgressError(f"not a reply of the schema: {type(e).__name__}") from None
    if _bytes_of(same) != set(objects.values()):
        raise EgressError("the reply is not in canonical form")
    return reply


def answer(request: Request, reply: Reply | FromClient | None, node_id: int, now: float | None = None) -> Outgoing:
    """The message that goes up: a reply, the gate's part of a secure sum, or with None the one fixed error.

    Times are whole seconds of the gate's own clock; the run time of the app is always reported as 0.
    """
    created = float(int(time.time() if now is None else now))
    asked = request.metadata
    metadata = _reply_metadata(asked, created, asked.created_at + asked.ttl - created)
    if reply is None:
        message = make_message(metadata, error=Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, ""))
    elif isinstance(reply, Reply):
        message = make_message(metadata, content=RecordDict({REPLY: MetricRecord(dict(reply.encode()))}))
    else:
        message = make_message(metadata, content=RecordDict({REPLY: ConfigRecord(reply.model_dump())}))
    tree = get_object_tree(message)
    metadata.__dict__["_message_id"] = tree.object_id
    push = PushMessagesRequest(
        node=Node(node_id=node_id),
        messages_list=[message_to_proto(remove_content_from_message(message))],
        message_object_trees=[tree],
        clientapp_runtime_list=[0.0],
    )
    return Outgoing(push, {name: item.deflate() for name, item in get_all_nested_objects(message).items()})


def _metadata_of(proto: ProtoMessage, request: Request) -> Metadata:
    """The only metadata that a reply to ``request`` can have, but for times and task ids, which are never passed on."""
    said = proto.metadata
    return _reply_metadata(
        request.metadata,
        said.created_at,
        said.ttl,
        src_task_id=said.src_task_id if said.HasField("src_task_id") else None,
        dst_task_id=said.dst_task_id if said.HasField("dst_task_id") else None,
    )


def _reply_metadata(asked: Metadata, created_at: float, ttl: float, **tasks: int | None) -> Metadata:
    return Metadata(
        run_id=asked.run_id,
        message_id="",
        src_node_id=asked.dst_node_id,
        dst_node_id=asked.src_node_id,
        reply_to_message_id=asked.message_id,
        group_id=asked.group_id,
        created_at=created_at,
        ttl=ttl,
        message_type=asked.message_type,
        **tasks,
    )


def _bytes_of(message: Message) -> set[bytes]:
    return {item.deflate() for item in get_all_nested_objects(message).values()}
