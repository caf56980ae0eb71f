"""Messages on their way down: only requests that the client knows, in bounds, are handed to the SuperNode."""

from __future__ import annotations

import math
import re
import time

from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import ObjectTree

from emgup_client.egress.record import EgressError
from emgup_client.egress.replies import Request
from emgup_model.secure_sum_wire import ROUNDS
from emgup_model.wire import DELIVER, OFFER

KINDS = {"train", f"query.{OFFER}", f"query.{DELIVER}", *ROUNDS}
MAX_OBJECTS = 8
MAX_GROUP = 64
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def check_pulled(response: PullMessagesResponse, node_id: int) -> Request:
    """The request that was pulled. Raises EgressError for one that is not handed down."""
    if len(response.messages_list) != 1 or len(response.message_object_trees) != 1:
        raise EgressError("the server sent several messages at once")
    message, tree = response.messages_list[0], response.message_object_trees[0]
    m = message.metadata
    if m.message_type not in KINDS:
        raise EgressError("the server asks for something the client does not know")
    if message.HasField("error") or message.content.ByteSize():
        raise EgressError("the server's message is not made of objects")
    if m.dst_node_id != node_id or m.src_node_id != SUPERLINK_NODE_ID or m.reply_to_message_id or not m.run_id:
        raise EgressError("the server's message is not addressed to this node")
    if not (math.isfinite(m.created_at) and math.isfinite(m.ttl) and 0 < m.ttl < 1e7 and 0 < m.created_at < 1e11):
        raise EgressError("the server's message has impossible times")
    if len(m.group_id) > MAX_GROUP or tree.object_id != m.message_id:
        raise EgressError("the server's message is malformed")
    return Request(metadata_from_proto(m), frozenset(ids_of(tree)), time.monotonic())


def ids_of(tree: ObjectTree) -> list[str]:
    """Ids of all objects of a small tree, each once. Raises EgressError where there are many, or other than SHA-256."""
    ids: dict[str, None] = {}
    level = [tree]
    while level:
        if len(ids) + len(level) > MAX_OBJECTS:
            raise EgressError("more objects than any message needs")
        ids.update(dict.fromkeys(node.object_id for node in level))
        level = [child for node in level for child in node.children]
    if not all(_SHA256.match(i) for i in ids):
        raise EgressError("an object without a proper name")
    return list(ids)
