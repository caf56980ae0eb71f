"""Replies of the SuperNode: taken in whole, judged, and sent anew by the gate, or refused."""

from __future__ import annotations

from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest, PushObjectResponse

from emgup_client.egress.incoming import ids_of
from emgup_client.egress.link import Link, ok, parse, sha256
from emgup_client.egress.open_requests import OpenRequest, OpenRequests
from emgup_client.egress.outbox import Outbox
from emgup_client.egress.record import EgressError
from emgup_client.egress.refusals import Refusals
from emgup_client.egress.replies import Request, understand
from emgup_client.egress.ruling import Ruling
from emgup_client.egress.upstream import Answer


class Upward:
    """The calls that bring a reply. Methods raise EgressError for a call that is none."""

    def __init__(self, link: Link, requests: OpenRequests, outbox: Outbox, ruling: Ruling, refusals: Refusals) -> None:
        self._link, self._open, self._outbox = link, requests, outbox
        self._ruling, self._refusals = ruling, refusals

    def push_messages(self, body: bytes) -> Answer:
        """A reply is announced. Nothing goes up yet: the gate first wants to see all of it."""
        push = parse(PushMessagesRequest, body)
        if len(push.messages_list) != 1 or len(push.message_object_trees) != 1:
            raise EgressError("not one message")
        entry = self._open.answered_by(push.messages_list[0].metadata.reply_to_message_id)
        tree = push.message_object_trees[0]
        try:
            if push.messages_list[0].content.ByteSize():
                raise EgressError("content beside the objects")
            ids = ids_of(tree)
            if len(ids) not in (1, 3) or (len(ids) == 3 and len(tree.children) != 1):
                raise EgressError("not one record")
        except EgressError as e:
            return self._refuse(entry, str(e))
        self._open.announced(entry, tree)
        name = push.messages_list[0].metadata.message_id
        return ok(PushMessagesResponse(results={name: 0}, objects_to_push=ids, session_id="gate"))

    def push_object(self, body: bytes) -> Answer:
        """A part of a reply; with the last one it is judged."""
        pushed = parse(PushObjectRequest, body)
        entry = self._open.replied_with(pushed.object_id)
        if sha256(pushed.object_content) != pushed.object_id:
            return self._refuse(entry, "an object whose bytes are not those announced")
        if not self._open.complete_with(entry, pushed.object_id, pushed.object_content):
            return ok(PushObjectResponse(stored=True))
        return self._judge(entry)

    def decline(self, request: Request) -> None:
        """Tell the server that there will be no answer, while the policy allows that."""
        try:
            self._ruling.rule(None, request.metadata.message_type, None)
        except (EgressError, OSError) as e:
            self._refusals.note("reply", f"not even an error is sent: {e if isinstance(e, EgressError) else 'storage'}")
            return
        self._outbox.put(request, None, self._link.own().node_id)

    def _judge(self, entry: OpenRequest) -> Answer:
        assert entry.tree is not None
        try:
            reply = understand(entry.objects, entry.tree, entry.request)
            allowed = self._ruling.rule(reply, entry.request.metadata.message_type, entry.personalize)
        except EgressError as e:
            return self._refuse(entry, str(e))
        self._outbox.put(entry.request, allowed, self._link.own().node_id)
        return ok(PushObjectResponse(stored=True))

    def _refuse(self, entry: OpenRequest, reason: str) -> Answer:
        """Nothing of the reply leaves."""
        answer = self._refusals.note("reply", reason)
        self._open.close(entry)
        self.decline(entry.request)
        return answer
