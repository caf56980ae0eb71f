"""Rounds of a secure sum: the gate fetches them and answers them itself; no app is woken, nothing of one passes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from flwr.app.message.configrecord import ConfigRecord
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
)

from emgup_client.egress.link import Link, sha256
from emgup_client.egress.outbox import Outbox
from emgup_client.egress.record import EgressError
from emgup_client.egress.refusals import Refusals
from emgup_client.egress.replies import Request
from emgup_client.egress.sums import Sums

log = logging.getLogger(__name__)

MAX_ROUND_BYTES = 1 << 17
"""Of one round: a cohort of 100 with two keys each takes 45 KB."""
FETCHES = 30
"""How often an object that is not there yet is asked for, once a second."""


class SumRounds:
    """Answers rounds in a thread of its own, one after the other: keys for a large cohort take seconds."""

    def __init__(
        self, link: Link, sums: Sums, outbox: Outbox, refusals: Refusals, decline: Callable[[Request], None]
    ) -> None:
        self._link, self._sums, self._outbox = link, sums, outbox
        self._refusals, self._decline = refusals, decline
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="sums")
        self._stopping = threading.Event()

    def take(self, request: Request) -> None:
        """Have a round answered, or refused with its reason in the log."""
        self._worker.submit(self._answer, request)

    def close(self) -> None:
        """End; what is not answered is lost, and with it the sums that go on."""
        self._stopping.set()
        self._worker.shutdown(cancel_futures=True)

    def _answer(self, request: Request) -> None:
        try:
            answer = self._sums.answer(request.metadata.message_type, self._fetch(request))
            self._outbox.put(request, answer, self._link.own().node_id)
        except Exception as e:
            if not isinstance(e, EgressError):
                log.exception("the gate failed on a round of a secure sum")
            reason = str(e) if isinstance(e, EgressError) else f"the gate failed: {type(e).__name__}"
            self._refusals.note("sum", reason)
            self._decline(request)

    def _fetch(self, request: Request) -> dict[str, Any]:
        """What the round's one record holds."""
        contents = [self._object(request, name) for name in sorted(request.objects)]
        asked = request.metadata
        made = ConfirmMessageReceivedRequest(
            node=self._link.own(), run_id=asked.run_id, message_object_id=asked.message_id
        )
        self._link.call("confirm-message-received", made, ConfirmMessageReceivedResponse)
        records = [c for c in contents if c.startswith(b"ConfigRecord ")]
        if len(contents) != 3 or len(records) != 1:
            raise EgressError("a round is one record")
        try:
            return dict(ConfigRecord.inflate(records[0]))
        except Exception as e:  # whatever hostile bytes do to a parser
            raise EgressError(f"a round that cannot be read: {type(e).__name__}") from None

    def _object(self, request: Request, name: str) -> bytes:
        made = PullObjectRequest(node=self._link.own(), run_id=request.metadata.run_id, object_id=name)
        for _ in range(FETCHES):
            _, response = self._link.call("pull-object", made, PullObjectResponse)
            if response is not None and response.object_content:
                break
            if self._stopping.wait(1.0):
                raise EgressError("the gate ends")
        else:
            raise EgressError("the server does not send what it announced")
        if len(response.object_content) > MAX_ROUND_BYTES:
            raise EgressError("a round of more bytes than any needs")
        if sha256(response.object_content) != name:
            raise EgressError("the server sent other bytes than it announced")
        return response.object_content
