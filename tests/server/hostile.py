"""Clients that misbehave, one way each, around an honest one that answers at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from emgup_model.wire import REPLY, REQUEST, Personalize, Reply, Result, Status, decode_request

RESULT = Result(
    accuracy=750_000, macro_f1=700_000, source_accuracy=600_000, source_macro_f1=500_000, n_windows=40, adapt_ms=15
)
GOOD = Reply(status=Status.OK, result=RESULT).encode()
Client = Callable[[Message, Context], Message | None]


def answer(message: Message, content: RecordDict) -> Message:
    return Message(content, reply_to=message)


def metrics(values: dict[str, object]) -> RecordDict:
    return RecordDict({REPLY: MetricRecord(values)})  # type: ignore[arg-type]


def honest(message: Message, context: Context) -> Message:
    """Has every release, and personalizes everybody to the same numbers."""
    if message.metadata.message_type != "train":
        return answer(message, metrics({"status": int(Status.HAVE_RELEASE)}))
    return answer(message, metrics(dict(GOOD)))


def asked_user(message: Message) -> str | None:
    if message.metadata.message_type != "train":
        return None
    return decode_request(Personalize, message.content.config_records[REQUEST]).user


def against(user: str, bad: Client) -> Client:
    """Honest, but ``bad`` for one user."""
    return lambda message, context: (bad if asked_user(message) == user else honest)(message, context)


def _forged(message: Message, context: Context) -> Message:
    reply = honest(message, context)
    reply.metadata.__dict__["_src_node_id"] = 999_999
    return reply


def _crash(message: Message, context: Context) -> Message:
    raise ValueError("/home/alice/secret.h5")


def contents() -> Iterator[tuple[str, RecordDict]]:
    """Replies that no honest client sends."""
    yield "weights", RecordDict({"weights": ArrayRecord({"w": Array(np.zeros(100_000))})})
    yield "weights beside", RecordDict({REPLY: MetricRecord(dict(GOOD)), "w": ArrayRecord({"w": Array(np.zeros(9))})})
    yield "text", RecordDict({REPLY: ConfigRecord({"user": "alice"})})
    yield "nothing", RecordDict({})
    yield "wrong name", RecordDict({"metrics": MetricRecord(dict(GOOD))})
    for name, value in {
        "nan": float("nan"),
        "infinity": float("inf"),
        "float": 0.5,
        "list": [1] * 100_000,
        "too large": 10**15,
        "negative": -1,
    }.items():
        yield name, metrics({**GOOD, "accuracy": value})
    yield "missing value", metrics({k: v for k, v in GOOD.items() if k != "macro_f1"})
    yield "extra value", metrics({**GOOD, "loss": 1})
    yield "long key", metrics({"k" * 1_000_000: 1, "status": 1})
    yield "many values", metrics({f"k{i}": i for i in range(10_000)})
    yield "unknown status", metrics({"status": 77})
    yield "result without success", metrics({**GOOD, "status": int(Status.INTERNAL)})


def bad_clients() -> dict[str, Client]:
    """Name → client that answers a train message badly."""
    clients: dict[str, Client] = {
        name: (lambda message, context, content=content: answer(message, content))  # type: ignore[misc]
        for name, content in contents()
    }
    clients["silence"] = lambda message, context: None
    clients["exception"] = _crash
    clients["error"] = lambda message, context: Message(Error(2, "x" * 100_000), reply_to=message)
    clients["forged node"] = _forged
    return clients


def dying_worker(deaths: int) -> Client:
    """The message is lost with its worker this often, then all is well."""
    count = itertools.count()

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "train" and next(count) < deaths:
            return Message(Error(0, "<class 'ray.exceptions.ActorDiedError'>"), reply_to=message)
        return honest(message, context)

    return client


BAD_CONTENTS = dict(contents())
