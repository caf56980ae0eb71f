from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgup_model.wire import (
    PARTS,
    Deliver,
    Offer,
    Personalize,
    Reply,
    Result,
    Status,
    WireError,
    decode_request,
    encode_request,
    from_parts,
    to_parts,
)

RESULT = Result(accuracy=900_000, macro_f1=1, source_accuracy=0, source_macro_f1=PARTS, n_windows=7, adapt_ms=12)
GOOD = Reply(status=Status.OK, result=RESULT).encode()
REQUEST = {
    "release_id": "a" * 64,
    "method": "{}",
    "method_name": "adabn",
    "protocol": "transductive",
    "scenario": "balanced",
    "seed": 3,
    "cell": "b" * 64,
    "user": "u1",
}

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
parts = st.integers(0, PARTS)
results = st.builds(
    Result,
    accuracy=parts,
    macro_f1=parts,
    source_accuracy=parts,
    source_macro_f1=parts,
    n_windows=st.integers(1, 1 << 30),
    adapt_ms=st.integers(0, 10**9),
)


@given(results)
def test_a_result_survives_the_wire(result: Result) -> None:
    reply = Reply(status=Status.OK, result=result)
    assert Reply.decode(reply.encode()) == reply
    assert all(type(v) is int for v in reply.encode().values())


@pytest.mark.parametrize("status", [s for s in Status if s not in (Status.OK, Status.REPORTED)])
def test_every_other_status_is_one_integer(status: Status) -> None:
    assert Reply.decode(Reply(status=status).encode()) == Reply(status=status)
    assert Reply(status=status).encode() == {"status": int(status)}


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_accuracy_survives_to_1e_6(kn: tuple[int, int]) -> None:
    accuracy = kn[0] / kn[1]
    assert abs(from_parts(to_parts(accuracy)) - accuracy) <= 1e-6


@pytest.mark.parametrize("value", [-0.001, 1.001, float("nan"), float("inf")])
def test_a_metric_outside_its_range_is_not_sent(value: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        to_parts(value)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"status": 0},
        {"status": 99},
        {"status": -1},
        {"status": 10**400},
        {"status": True},
        {"status": 1.0},
        {"status": [1]},
        {"status": 1, "accuracy": 5},
        {**GOOD, "weights": 1},
        {**GOOD, "accuracy": PARTS + 1},
        {**GOOD, "accuracy": -1},
        {**GOOD, "accuracy": 0.5},
        {**GOOD, "accuracy": float("nan")},
        {**GOOD, "accuracy": True},
        {**GOOD, "accuracy": [1, 2]},
        {**GOOD, "accuracy": "1"},
        {**GOOD, "n_windows": 0},
        {**GOOD, "adapt_ms": 10**10},
        {k: v for k, v in GOOD.items() if k != "macro_f1"},
        {k: v for k, v in GOOD.items() if k != "status"},
        {("x" * 10**6): 1, "status": 1},
        {**{k: v for k, v in GOOD.items() if k != "macro_f1"}, 7: 7},
    ],
)
def test_a_malformed_reply_is_refused_without_repeating_it(values: Mapping[Any, Any]) -> None:
    with pytest.raises(WireError) as caught:
        Reply.decode(values)
    assert len(str(caught.value)) < 80


@given(st.dictionaries(st.sampled_from([*GOOD, "other"]) | st.text(), anything, max_size=10))
def test_decoding_anything_gives_a_reply_that_encode_could_have_made_or_refuses(values: dict[Any, Any]) -> None:
    try:
        reply = Reply.decode(values)
    except WireError:
        return
    assert reply.encode() == values


def test_a_reply_without_its_result_cannot_be_sent() -> None:
    with pytest.raises(WireError):
        Reply(status=Status.OK).encode()
    with pytest.raises(WireError):
        Reply(status=Status.INTERNAL, result=RESULT).encode()


@pytest.mark.parametrize(
    "request_",
    [
        Offer(release_id="0" * 64),
        Deliver(manifest=b"m", signature=b"s" * 64, weights=b"w"),
        Personalize(**REQUEST),
        Personalize(**{k: v for k, v in REQUEST.items() if k != "user"}),
        Personalize(**{**REQUEST, "protocol": "streaming", "streaming": "{}"}),
    ],
)
def test_requests_survive_the_wire(request_: Offer | Deliver | Personalize) -> None:
    assert decode_request(type(request_), encode_request(request_)) == request_


@pytest.mark.parametrize(
    "change",
    [
        {"user": "../u1"},
        {"user": ""},
        {"user": "a/b"},
        {"user": "u1\n"},
        {"user": "x" * 101},
        {"cell": "B" * 64},
        {"cell": "b" * 63},
        {"cell": "../" + "b" * 61},
        {"release_id": 5},
        {"seed": -1},
        {"seed": True},
        {"seed": 1 << 63},
        {"protocol": "oracle"},
        {"scenario": "oracle"},
        {"scenario": 1},
        {"streaming": 20.0},
        {"streaming": "x" * 2000},
        {"method": "x" * 20_000},
        {"extra": 1},
    ],
)
def test_a_malformed_request_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode_request(Personalize, {**REQUEST, **change})
