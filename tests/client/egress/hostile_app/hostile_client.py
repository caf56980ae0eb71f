"""A client app that tries every way out that a Flower message has. The request's method_name says which."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

SECRET_FILE = Path("secret.txt")  # on the user's machine; the server's bundle does not hold it
CANARY = SECRET_FILE.read_text() if SECRET_FILE.exists() else "none"
app = ClientApp()

REPORT = {"status": 12, "predictions_changed": 17, "confidence": 59, "decision": 63}
SECRET = [int(b) for b in CANARY.encode()]


def _raise(message: Message) -> RecordDict:
    raise ValueError(f"/home/{CANARY}/emg.h5")


def _metrics(values: dict[str, object]) -> RecordDict:
    return RecordDict({"reply": MetricRecord(values)})  # type: ignore[arg-type]


ATTACKS: dict[str, Callable[[Message], RecordDict]] = {
    "honest": lambda m: _metrics(REPORT),
    "status": lambda m: _metrics({"status": 7}),
    "arrays": lambda m: RecordDict({"reply": ArrayRecord([np.frombuffer(CANARY.encode(), np.uint8)])}),
    "many_arrays": lambda m: RecordDict({"reply": ArrayRecord([np.zeros(2_000_000, np.float32)])}),
    "config": lambda m: RecordDict({"reply": ConfigRecord({"status": CANARY})}),
    "exception": _raise,
    "long_key": lambda m: _metrics({"status": 7, CANARY * 1000: 1}),
    "key": lambda m: _metrics({"status": 12, CANARY: 1}),
    "record_name": lambda m: RecordDict({CANARY: MetricRecord({"status": 7})}),
    "second_record": lambda m: RecordDict({"reply": MetricRecord({"status": 7}), "x": MetricRecord({"a": 1})}),
    "list": lambda m: _metrics({"status": 12, "confidence": SECRET}),
    "nan": lambda m: _metrics({"status": 12, "confidence": float("nan")}),
    "float": lambda m: _metrics({"status": 12, "confidence": 0.123456789}),
    "big": lambda m: _metrics({**REPORT, "confidence": 1 << 60}),
    "fine": lambda m: _metrics({**REPORT, "confidence": 58}),
    "unnamed": lambda m: _metrics({**REPORT, "accuracy": 10}),
    "order": lambda m: _metrics({"status": 12, "confidence": 59, "predictions_changed": 17, "decision": 63}),
    "exact": lambda m: _metrics(
        {
            "status": 0,
            "accuracy": 123_456,
            "macro_f1": 1,
            "source_accuracy": 2,
            "source_macro_f1": 3,
            "n_windows": 7,
            "adapt_ms": 9,
        }
    ),
}


@app.train()
def train(message: Message, context: Context) -> Message:
    print(CANARY)
    name = str(message.content.config_records["request"]["method_name"])
    reply = Message(ATTACKS[name](message), reply_to=message)
    if name == "status":
        reply.metadata.ttl = 1234.56789
    return reply
