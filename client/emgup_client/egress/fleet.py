"""What the gate lets through: Flower's Fleet API call by call, field by field. No HTTP in here.

Every request upward is written anew by the gate from what it knows itself (its own node, ids that the server gave it,
values that the policy allows); a request of the SuperNode that differs from that by one byte is refused. Every answer
downward is parsed, bounded, and written anew. What is not listed here does not exist.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    ActivateNodeResponse,
    DeactivateNodeRequest,
    DeactivateNodeResponse,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest, SendNodeHeartbeatResponse
from flwr.proto.node_pb2 import Node

from emgup_client.egress.audit import AuditLog
from emgup_client.egress.downward import Downward
from emgup_client.egress.link import Link
from emgup_client.egress.open_requests import OpenRequests
from emgup_client.egress.outbox import Outbox, Wire
from emgup_client.egress.record import EgressError
from emgup_client.egress.refusals import Refusals
from emgup_client.egress.ruling import Ruling
from emgup_client.egress.sum_rounds import SumRounds
from emgup_client.egress.sums import Sums
from emgup_client.egress.upstream import Answer
from emgup_client.egress.upward import Upward

log = logging.getLogger(__name__)

PREFIX = "/v1/fleet/"
MAX_BODY_BYTES = 1 << 16
"""Of anything that the SuperNode may say."""


class Fleet:
    """The calls of one SuperNode to its SuperLink.

    Args:
        wire: the way to the SuperLink; notes what goes there.
        outbox: sends replies at their time.
        ruling: what the policy makes of a reply.
        sums: the client's side of secure sums.
        audit: where refusals are noted.
        public_key: PEM of the SuperNode's key, the only node that may be spoken for.
        bundle_sha256: the only app bundle that is handed down.
    """

    def __init__(
        self,
        wire: Wire,
        outbox: Outbox,
        ruling: Ruling,
        sums: Sums,
        audit: AuditLog,
        public_key: bytes,
        bundle_sha256: str,
    ) -> None:
        self._link, self._open, self._public_key = Link(wire), OpenRequests(), public_key
        refusals = Refusals(audit)
        up = Upward(self._link, self._open, outbox, ruling, refusals)
        self._rounds = SumRounds(self._link, sums, outbox, refusals, up.decline)
        down = Downward(self._link, self._open, bundle_sha256, refusals, up.decline, self._rounds.take)
        self.refuse = refusals.note
        self._calls: dict[str, Callable[[bytes], Answer]] = {
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
            "send-node-heartbeat": self._heartbeat,
            "pull-messages": down.pull_messages,
            "get-run": down.get_run,
            "get-fab": down.get_fab,
            "pull-object": down.pull_object,
            "confirm-message-received": down.confirm,
            "push-messages": up.push_messages,
            "push-object": up.push_object,
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

    def close(self) -> None:
        """End what goes on beside the calls: rounds of secure sums."""
        self._rounds.close()

    def _activate(self, body: bytes) -> Answer:
        made = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        answer, response = self._link.relay("activate-node", body, made, ActivateNodeResponse)
        if response is not None:
            self._link.node = Node(node_id=response.node_id)
            self._open.clear()
        return answer

    def _deactivate(self, body: bytes) -> Answer:
        made = DeactivateNodeRequest(node_id=self._link.own().node_id)
        return self._link.relay("deactivate-node", body, made, DeactivateNodeResponse)[0]

    def _heartbeat(self, body: bytes) -> Answer:
        made = SendNodeHeartbeatRequest(node=self._link.own(), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        return self._link.relay("send-node-heartbeat", body, made, SendNodeHeartbeatResponse)[0]
