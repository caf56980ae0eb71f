"""A ClientApp with a home of its own, spoken to without a network."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from emgup_model.config import canonical_json
from emgup_model.methods import load_method
from emgup_model.release import ReleaseFiles
from emgup_model.wire import DELIVER, OFFER, REPLY, REQUEST, Deliver, Offer, Personalize, Reply, Status, encode_request


@dataclasses.dataclass
class Client:
    """A client with a home of its own, and a way to talk to it."""

    home: Path
    app: ClientApp
    files: ReleaseFiles

    def send(self, kind: str, content: RecordDict) -> Message:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        message = Message(content, dst_node_id=7, message_type=kind)
        message.metadata.__dict__["_message_id"] = "m"
        return self.app(message, Context(1, 7, {}, RecordDict(), {}))

    def ask(self, kind: str, request: Offer | Deliver | Personalize) -> Reply:
        answer = self.send(kind, RecordDict({REQUEST: ConfigRecord(dict(encode_request(request)))}))
        assert not answer.has_error()
        assert set(answer.content) == {REPLY}
        return Reply.decode(answer.content.metric_records[REPLY])

    def offer(self) -> Status:
        return self.ask(f"query.{OFFER}", Offer(release_id=self.files.id)).status

    def deliver(self, files: ReleaseFiles | None = None) -> Status:
        f = files or self.files
        return self.ask(
            f"query.{DELIVER}", Deliver(manifest=f.manifest, signature=f.signature, weights=f.weights)
        ).status

    def personalize(self, **changes: object) -> Reply:
        fields: dict[str, object] = {
            "release_id": self.files.id,
            "method": canonical_json(load_method("adabn")).decode(),
            "method_name": "adabn",
            "protocol": "transductive",
            "scenario": "balanced",
            "seed": 0,
            "cell": "a" * 64,
            "user": "u1",
        }
        return self.ask("train", Personalize.model_validate(fields | changes))

    @property
    def cell(self) -> Path:
        return self.home / "vault" / "u1" / ("a" * 64)

    @property
    def log(self) -> str:
        return (self.home / "client.log").read_text()
