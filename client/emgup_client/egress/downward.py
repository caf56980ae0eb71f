"""Calls that bring something down from the server: requests, app bundle, releases. Checked, bounded, written anew."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.app.message.configrecord import ConfigRecord
from flwr.proto.fab_pb2 import GetFabRequest, GetFabResponse
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)
from flwr.proto.run_pb2 import GetRunRequest, GetRunResponse

from emgup_client.egress.incoming import check_pulled
from emgup_client.egress.link import Link, ok, parse, sha256
from emgup_client.egress.open_requests import OpenRequests
from emgup_client.egress.record import EgressError
from emgup_client.egress.refusals import Refusals
from emgup_client.egress.replies import Request
from emgup_client.egress.upstream import Answer
from emgup_model.secure_sum_wire import ROUNDS
from emgup_model.wire import Personalize, WireError, decode_request

log = logging.getLogger(__name__)

MAX_SETTINGS_BYTES = 1 << 20
_TRAIN = "train"


class Downward:
    """These calls of one SuperNode. Methods raise EgressError for a call that says more than it needs.

    Args:
        link: the way to the SuperLink.
        requests: where requests that are handed down are remembered.
        bundle_sha256: the only app bundle that is handed down.
        refusals: notes what is not.
        decline: tells the server that a request will not be answered.
        sum_round: takes a round of a secure sum, which the gate answers itself.
    """

    def __init__(
        self,
        link: Link,
        requests: OpenRequests,
        bundle_sha256: str,
        refusals: Refusals,
        decline: Callable[[Request], None],
        sum_round: Callable[[Request], None],
    ) -> None:
        self._link, self._open, self._bundle = link, requests, bundle_sha256
        self._refusals, self._decline, self._sum_round = refusals, decline, sum_round

    def pull_messages(self, body: bytes) -> Answer:
        """Ask for requests. Rounds of a secure sum stay here: the SuperNode is told that there is nothing."""
        made = PullMessagesRequest(node=self._link.own())
        answer, response = self._link.relay("pull-messages", body, made, PullMessagesResponse)
        if response is None or not response.messages_list:
            return answer
        try:
            request = check_pulled(response, self._link.own().node_id)
        except EgressError as e:
            self._refusals.note("request", str(e))
            return ok(PullMessagesResponse())
        if request.metadata.message_type in ROUNDS:
            self._sum_round(request)
            return ok(PullMessagesResponse())
        self._open.add(request)
        return answer

    def get_run(self, body: bytes) -> Answer:
        """What a run is; another bundle than the pinned one ends it here."""
        run_id = parse(GetRunRequest, body).run_id
        self._open.check_run(run_id)
        made = GetRunRequest(node=self._link.own(), run_id=run_id)
        answer, response = self._link.relay("get-run", body, made, GetRunResponse)
        if response is None:
            return answer
        if response.run.run_id != run_id or response.run.fab_hash != self._bundle:
            return self._refuse_run(run_id, "the run's app bundle is not the pinned one")
        if response.run.primary_task_type not in ("", "flwr-serverapp"):
            return self._refuse_run(run_id, "the run is of another kind")
        response.run.override_config.clear()  # nothing that the server sets reaches the client but its messages
        return ok(response)

    def get_fab(self, body: bytes) -> Answer:
        """The app bundle, if its bytes are the pinned ones."""
        asked = parse(GetFabRequest, body)
        self._open.check_run(asked.run_id)
        made = GetFabRequest(node=self._link.own(), hash_str=self._bundle, run_id=asked.run_id)
        answer, response = self._link.relay("get-fab", body, made, GetFabResponse)
        if response is None:
            return answer
        if response.fab.hash_str != self._bundle or sha256(response.fab.content) != self._bundle:
            return self._refuse_run(asked.run_id, "the app bundle is not the pinned one")
        return answer

    def pull_object(self, body: bytes) -> Answer:
        """A part of a request."""
        asked = parse(PullObjectRequest, body)
        entry = self._open.made_of(asked.run_id, asked.object_id)
        made = PullObjectRequest(node=self._link.own(), run_id=asked.run_id, object_id=asked.object_id)
        if (known := entry.fetched.get(asked.object_id)) is not None and body == made.SerializeToString(
            deterministic=True
        ):
            return Answer(200, known)
        answer, response = self._link.relay("pull-object", body, made, PullObjectResponse)
        if response is None or not response.object_content:
            return answer
        if sha256(response.object_content) != asked.object_id:
            raise EgressError("the server sent other bytes than it announced")
        entry.fetched[asked.object_id] = answer.body
        if entry.request.metadata.message_type == _TRAIN:
            entry.personalize = _personalize(response.object_content) or entry.personalize
        return answer

    def confirm(self, body: bytes) -> Answer:
        """A request is here whole."""
        asked = parse(ConfirmMessageReceivedRequest, body)
        self._open.made_of(asked.run_id, asked.message_object_id).fetched.clear()
        made = ConfirmMessageReceivedRequest(
            node=self._link.own(), run_id=asked.run_id, message_object_id=asked.message_object_id
        )
        return self._link.relay("confirm-message-received", body, made, ConfirmMessageReceivedResponse)[0]

    def _refuse_run(self, run_id: int, reason: str) -> Answer:
        of_run = self._open.end_run(run_id)
        answer = self._refusals.note("run", reason, status=403)  # the SuperNode passes over a run that is forbidden
        for entry in of_run:
            self._decline(entry.request)
        return answer


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
