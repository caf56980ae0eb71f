"""Secure sums through one gate, with a server and an app that cheat: refused with fixed words, no payload leaves."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PullMessagesRequest
from flwr.proto.node_pb2 import Node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_client.egress.audit import read_audit
from emgup_client.egress.record import EgressError
from emgup_client.egress.sums import Sums
from emgup_model.secure_sum_wire import (
    ADVERTISE,
    MASK,
    ROUNDS,
    SHARE,
    UNMASK,
    FromServer,
    Inbox,
    Invite,
    Survivors,
)
from emgup_model.wire import Status
from tests.client.egress.gate_sums import (
    CELL,
    LEVELS,
    RELEASE,
    Others,
    ask,
    make_policy,
    reports,
    tell,
    uses,
)
from tests.client.egress.stub import NODE, RUN, HandMadeNode, StubSuperLink, reasons


def test_below_the_floor_nothing_is_shared(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(floor=5))
    node.activate()
    reports(node)
    cohort = Others(node, 3).advertise()
    assert ask(node, cohort) is None
    assert ask(node, cohort) is None
    assert reasons(node) == ["a cohort of 4, below the floor of 5", "a round of no open secure sum"]
    node.close()


def test_round_three_is_answered_once_whatever_survivors_are_claimed(sum_node: HandMadeNode) -> None:
    reports(sum_node)
    survivors = Others(sum_node, 4).mask()
    assert ask(sum_node, survivors) is not None
    assert ask(sum_node, survivors) is None
    assert ask(sum_node, survivors.model_copy(update={"members": [0, 1, 2, 3]})) is None
    assert set(reasons(sum_node)) == {"a round of no open secure sum"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([0, 1], "a cohort of 2, below the floor of 3"),
        ([0, 1, 2], "too few of the cohort are left to open the sum"),
        ([0, 1, 2, 9], "survivors that did not share"),
    ],
)
def test_survivors_that_cannot_be_are_refused_and_end_the_sum(
    sum_node: HandMadeNode, members: list[int], reason: str
) -> None:
    reports(sum_node)
    survivors = Others(sum_node, 4).mask()
    assert ask(sum_node, survivors.model_copy(update={"members": members})) is None
    assert ask(sum_node, survivors) is None
    assert reasons(sum_node) == [reason, "a round of no open secure sum"]


ROUND: dict[str, Callable[[Others], FromServer]] = {
    ADVERTISE: lambda others: others.advertise() and others.invite,
    SHARE: lambda others: others.share() and others.server.cohorts()[0],
    MASK: lambda others: others.mask() and others.inboxes[0],
}


@pytest.mark.parametrize("kind", list(ROUND))
def test_no_round_is_answered_twice(sum_node: HandMadeNode, kind: str) -> None:
    """Else a mask could be asked for twice over different vectors, or a vector over different masks."""
    reports(sum_node)
    others = Others(sum_node)
    again = ROUND[kind](others)
    assert ask(sum_node, again) is None
    assert reasons(sum_node)[0] in ("a round out of order", "a secure sum that was begun before")
    assert uses(sum_node).count("sum") == 1


def test_a_round_out_of_order_is_refused(sum_node: HandMadeNode) -> None:
    reports(sum_node)
    others = Others(sum_node)
    others.advertise()
    assert ask(sum_node, Inbox(session=others.session, members=[], sealed=[])) is None
    assert ask(sum_node, Survivors(session="6" * 64, members=[0, 1, 2])) is None
    assert reasons(sum_node) == ["a round out of order", "a round of no open secure sum"]


def test_a_sum_of_what_was_never_reported_is_refused(sum_node: HandMadeNode) -> None:
    assert ask(sum_node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is None
    reports(sum_node)
    assert ask(sum_node, Invite(session="5" * 64, release_id=RELEASE, cell="c" * 64)) is None
    assert ask(sum_node, Invite(session="5" * 64, release_id="d" * 64, cell=CELL)) is None
    assert reasons(sum_node) == ["a secure sum of a report that was never made"] * 3
    assert "sum" not in uses(sum_node)


def test_a_gate_that_ended_has_dropped_its_sums_and_joins_a_new_one(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy())
    node.activate()
    reports(node)
    others = Others(node)
    cohort = others.advertise()
    node.close()
    again = HandMadeNode(node.home, StubSuperLink(), make_policy())
    again.activate()
    assert ask(again, cohort) is None
    assert reasons(again) == ["a round of no open secure sum"]
    assert Others(again).total() == {k: 4 * v - 6 for k, v in LEVELS.items()}
    assert again.ledger.reports == 1
    again.close()


def config(values: dict[str, Any]) -> RecordDict:
    return RecordDict({"request": ConfigRecord(values)})


MALFORMED: dict[str, tuple[str, RecordDict]] = {
    "another round's": (SHARE, config({"session": "5" * 64, "members": [0]})),
    "a user": (ADVERTISE, config({"session": "5" * 64, "release_id": RELEASE, "cell": CELL, "user": "alice"})),
    "nothing": (ADVERTISE, RecordDict({})),
    "two records": (ADVERTISE, RecordDict({"a": ConfigRecord({"b": 1}), "c": ConfigRecord({"d": 1})})),
    "a metric record": (UNMASK, RecordDict({"request": MetricRecord({"members": [0, 1, 2]})})),
    "a megabyte": (MASK, config({"session": "5" * 64, "members": [1], "sealed": [bytes(1 << 20)]})),
    "too many": (UNMASK, config({"session": "5" * 64, "members": list(range(101))})),
    "a member twice": (UNMASK, config({"session": "5" * 64, "members": [1, 1, 1]})),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_round_gets_no_payload(sum_node: HandMadeNode, what: str) -> None:
    reports(sum_node)
    assert tell(sum_node, *MALFORMED[what]) == 0
    assert len(reasons(sum_node)) == 1
    assert "alice" not in reasons(sum_node)[0]
    assert uses(sum_node) == ["report", "status", "status"]


def test_keys_that_are_none_end_the_sum(sum_node: HandMadeNode) -> None:
    reports(sum_node)
    cohort = Others(sum_node).advertise()
    assert ask(sum_node, cohort.model_copy(update={"seal_keys": [*cohort.seal_keys[:3], b"no key"]})) is None
    assert reasons(sum_node) == ["a member's key is no key"]


SOME = st.one_of(st.integers(-5, 200), st.binary(max_size=9), st.text(max_size=70), st.lists(st.integers(-1, 101)))
KEYS = st.sampled_from(["session", "you", "members", "seal_keys", "mask_keys", "sealed", "release_id", "cell", "x"])


@given(values=st.dictionaries(KEYS, SOME | st.just(RELEASE)), kind=st.sampled_from(list(ROUNDS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_round_holds_it_is_refused_with_fixed_words(
    sum_node: HandMadeNode, values: dict[str, Any], kind: str
) -> None:
    with pytest.raises(EgressError) as refused:
        Sums(make_policy(), sum_node.ledger).answer(kind, values)
    assert str(refused.value) in (
        *(f"no message of the secure sum ({r.asked.__name__.lower()})" for r in ROUNDS.values()),
        "a secure sum of a report that was never made",
        "a round of no open secure sum",
    )


# --- a hostile app -----------------------------------------------------------------------------------------------


def test_an_app_cannot_say_that_it_holds_something(sum_node: HandMadeNode) -> None:
    assert reports(sum_node, {"status": int(Status.HELD)})[-1] == 400
    assert reasons(sum_node) == ["status held is no answer to that"]
    assert ask(sum_node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is None


def test_an_app_cannot_answer_a_round(sum_node: HandMadeNode) -> None:
    reports(sum_node)
    Others(sum_node).advertise()
    said = len(sum_node.superlink.said)
    for message_id in ("", *(line["kind"] for line in read_audit(sum_node.home))):
        metadata = Metadata(RUN, "", NODE, 1, message_id, "", time.time(), 3600.0, MASK)
        forged = make_message(metadata, config({"values": [21, 59]}))
        assert sum_node.push(forged) == [400]
    assert len(sum_node.superlink.said) == said


def test_nothing_is_sent_while_the_sum_cannot_be_debited(
    sum_node: HandMadeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports(sum_node)
    before = [n for n, _ in sum_node.superlink.said]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sum_node.ledger._file, "append", full)
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, ADVERTISE)
    invite = Invite(session="5" * 64, release_id=RELEASE, cell=CELL)
    message = make_message(metadata, config(invite.model_dump()))
    metadata.__dict__["_message_id"] = message.object_id
    sum_node.superlink.queue.append(message)
    sum_node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
    sum_node.fleet.close()  # waits for what is being answered
    assert [n for n, _ in sum_node.superlink.said if n.startswith("push")] == [
        n for n in before if n.startswith("push")
    ]
    assert reasons(sum_node) == ["the gate failed: OSError", "not even an error is sent: storage"]
