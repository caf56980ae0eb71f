"""Secure sums through one gate, with messages made by hand: what leaves, what is debited first, what is refused."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.message import make_message
from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PullMessagesRequest, PullMessagesResponse
from flwr.proto.node_pb2 import Node
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_client.egress.audit import first_break, read_audit
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError
from emgup_client.egress.secure_sum import SumClient
from emgup_client.egress.sums import Sums
from emgup_model.secure_sum_wire import (
    ADVERTISE,
    MASK,
    ROUNDS,
    SHARE,
    UNMASK,
    Advertise,
    Cohort,
    FromServer,
    Inbox,
    Invite,
    Masked,
    Shares,
    Survivors,
    Unmask,
    decode,
)
from emgup_model.wire import Status
from emgup_server.secure_sum import SumServer
from tests.client.egress.stub import NODE, POLICY, REPORT, RUN, HandMadeNode, StubSuperLink, request

RELEASE, CELL = "a" * 64, "b" * 64
LEVELS = {"predictions_changed": 21, "confidence": 59}
SUM = {"floor": 3, "per_day": 3, "for_life": 4}
WIDE = {"reports_per_day": 9, "reports_for_life": 9, "statuses_per_day": 50, "statuses_for_life": 50}


def make_policy(limits: dict[str, Any] | None = None, **rules: Any) -> EgressPolicy:
    plain = {**POLICY, "limits": {**POLICY["limits"], **WIDE, **(limits or {})}}
    return EgressPolicy.model_validate({**plain, "sum": {**SUM, **rules}})


@pytest.fixture
def node(tmp_path: Path) -> Iterator[HandMadeNode]:
    made = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy())
    made.activate()
    yield made
    made.close()


def reports(node: HandMadeNode, values: dict[str, int] | None = None, for_sum: bool = True) -> list[int]:
    """The app is asked for a report, for a sum or not, and gives one."""
    node.superlink.queue.append(request(**({"for_sum": True} if for_sum else {})))
    message = node.pull()
    assert message is not None
    statuses = node.push(Message(RecordDict({"reply": MetricRecord(values or REPORT)}), reply_to=message))
    if node.superlink.arrived.wait(2):
        node.superlink.arrived.clear()
    return statuses


def tell(node: HandMadeNode, kind: str, content: RecordDict) -> int:
    """A round comes down; how many bytes of records went up for it."""
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, kind)
    message = make_message(metadata, content)
    metadata.__dict__["_message_id"] = message.object_id
    before = node.superlink.payload
    node.superlink.queue.append(message)
    answer = node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
    assert not PullMessagesResponse.FromString(answer.body).messages_list  # the app is not woken
    node.answered()
    return node.superlink.payload - before


def ask(node: HandMadeNode, asked: FromServer) -> Any:
    """The gate's answer to one round; None where it sent the fixed error."""
    kind = next(k for k, r in ROUNDS.items() if isinstance(asked, r.asked))
    if not tell(node, kind, RecordDict({"request": ConfigRecord(asked.model_dump())})):
        return None
    record = next(c for c in reversed(node.superlink.content) if c.startswith(b"ConfigRecord "))
    return decode(ROUNDS[kind].answered, dict(ConfigRecord.inflate(record)))


def reasons(node: HandMadeNode) -> list[str]:
    return [line["reason"] for line in read_audit(node.home) if not line["allowed"]]


def uses(node: HandMadeNode) -> list[str]:
    return [json.loads(line)["kind"] for line in (node.home / "uses.jsonl").read_text().splitlines()]


class Others:
    """Members of a cohort beside the gate, which is number 0, and their server."""

    def __init__(self, node: HandMadeNode, count: int = 3, session: str | None = None) -> None:
        self.node, self.session = node, session or os.urandom(32).hex()
        self.clients = [SumClient(self.session, {k: v - i for k, v in LEVELS.items()}, 3) for i in range(1, count + 1)]
        self.invite = Invite(session=self.session, release_id=RELEASE, cell=CELL)

    def advertise(self) -> Cohort:
        own = ask(self.node, self.invite)
        assert isinstance(own, Advertise)
        others = {i: c.advertise() for i, c in enumerate(self.clients, 1)}
        self.server = SumServer(self.session, {0: own, **others}, {})
        return self.server.cohorts()[0]

    def share(self) -> Inbox:
        cohort = self.advertise()
        own = ask(self.node, cohort)
        assert isinstance(own, Shares)
        others = {i: c.share(self.server.cohorts()[i]) for i, c in enumerate(self.clients, 1)}
        self.inboxes = self.server.inboxes({0: own, **others})
        return self.inboxes[0]

    def mask(self) -> Survivors:
        inbox = self.share()
        self.masked = ask(self.node, inbox)
        assert isinstance(self.masked, Masked)
        others = {i: c.masked(self.inboxes[i]) for i, c in enumerate(self.clients, 1)}
        return self.server.survivors({0: self.masked, **others})

    def total(self) -> dict[str, int]:
        survivors = self.mask()
        own = ask(self.node, survivors)
        assert isinstance(own, Unmask)
        others = {i: c.unmask(survivors) for i, c in enumerate(self.clients, 1)}
        return self.server.total({0: own, **others})


def test_the_gate_holds_the_report_and_the_server_learns_the_sum(node: HandMadeNode) -> None:
    assert reports(node) == [200] * 4
    assert node.superlink.values == [{"status": int(Status.HELD)}]
    others = Others(node)
    assert others.total() == {k: 4 * v - 6 for k, v in LEVELS.items()}
    assert all(v > 63 for v in others.masked.values)  # 1 in 30 million
    assert node.superlink.values == [{"status": int(Status.HELD)}]
    assert uses(node) == ["report", "status", "sum"]
    assert reasons(node) == []


def test_all_that_left_is_in_the_audit_log_and_the_debit_came_before(node: HandMadeNode) -> None:
    reports(node)
    Others(node).total()
    lines = read_audit(node.home)
    assert first_break(lines) is None
    logged = [(line["kind"], base64.b64decode(line["bytes"])) for line in lines if "bytes" in line]
    assert logged == list(dict.fromkeys(node.superlink.said))
    words = list(dict.fromkeys(line["reason"] for line in lines if line["kind"] == "push-object"))
    assert words == [
        "status held",
        "secure sum: two fresh public keys, to sum predictions_changed, confidence",
        "secure sum: shares of two fresh secrets, sealed for 3 others",
        "secure sum: the report under masks, 2 numbers that say nothing alone",
        "secure sum: shares of the secrets of 4 members, which open the sum only",
    ]


def test_a_new_session_and_a_report_alone_show_the_same_noisy_levels(tmp_path: Path) -> None:
    policy = EgressPolicy.model_validate(
        {
            **POLICY,
            "noise": {"kind": "laplace", "epsilon": 1.0},
            "limits": {**POLICY["limits"], **WIDE, "epsilon_for_life": 3.0},
            "sum": SUM,
        }
    )
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), policy)
    node.activate()
    reports(node)
    held = node.ledger.known(RELEASE, CELL)
    assert held is not None
    for _ in range(2):
        others = {k: sum(v - i for i in (1, 2, 3)) for k, v in LEVELS.items()}
        assert Others(node).total() == {k: held[k] + others[k] for k in LEVELS}
    reports(node, for_sum=False)
    assert node.superlink.values[-1] == {"status": int(Status.REPORTED), **held}
    reports(node)
    assert node.ledger.reports == 1
    assert node.ledger.epsilon == pytest.approx(1.0)
    node.close()


# --- what the policy says ----------------------------------------------------------------------------------------


def test_a_report_that_may_leave_in_a_sum_only_does_not_leave_alone(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(only=True))
    node.activate()
    assert reports(node, for_sum=False)[-1] == 400
    assert reasons(node) == ["the policy lets a report leave in a secure sum only"]
    assert node.ledger.reports == 0
    assert node.superlink.payload == 0
    assert reports(node)[-1] == 200
    assert Others(node).total()
    node.close()


def test_without_the_section_there_are_no_sums(tmp_path: Path) -> None:
    policy = EgressPolicy.model_validate({**POLICY, "limits": {**POLICY["limits"], **WIDE}})
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), policy)
    node.activate()
    assert reports(node)[-1] == 400
    assert reports(node, for_sum=False)[-1] == 200
    before = node.superlink.payload
    assert ask(node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is None
    assert reasons(node) == ["the policy allows no secure sum"] * 2
    assert node.superlink.payload == before
    node.close()


@pytest.mark.parametrize(("rules", "reason"), [({"per_day": 2}, "for a day"), ({"for_life": 2}, "for life")])
def test_sums_are_limited_also_after_a_restart(tmp_path: Path, rules: dict[str, int], reason: str) -> None:
    for number in range(3):
        node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(**rules))
        node.activate()
        reports(node)
        invite = Invite(session=f"{number}" * 64, release_id=RELEASE, cell=CELL)
        assert (ask(node, invite) is None) == (number == 2)
        node.close()
    assert reasons(node) == [f"the policy's number of secure sums {reason} is used up"]


def test_answers_to_rounds_leave_at_padded_moments(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy({"pad_s": 1}))
    node.activate()
    reports(node)
    started = time.monotonic()
    assert ask(node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is not None
    assert time.monotonic() - started >= 1
    node.close()


# --- a hostile server --------------------------------------------------------------------------------------------


def test_below_the_floor_nothing_is_shared(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(floor=5))
    node.activate()
    reports(node)
    cohort = Others(node, 3).advertise()
    assert ask(node, cohort) is None
    assert ask(node, cohort) is None
    assert reasons(node) == ["a cohort of 4, below the floor of 5", "a round of no open secure sum"]
    node.close()


def test_round_three_is_answered_once_whatever_survivors_are_claimed(node: HandMadeNode) -> None:
    reports(node)
    survivors = Others(node, 4).mask()
    assert ask(node, survivors) is not None
    assert ask(node, survivors) is None
    assert ask(node, survivors.model_copy(update={"members": [0, 1, 2, 3]})) is None
    assert set(reasons(node)) == {"a round of no open secure sum"}


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([0, 1], "a cohort of 2, below the floor of 3"),
        ([0, 1, 2], "too few of the cohort are left to open the sum"),
        ([0, 1, 2, 9], "survivors that did not share"),
    ],
)
def test_survivors_that_cannot_be_are_refused_and_end_the_sum(
    node: HandMadeNode, members: list[int], reason: str
) -> None:
    reports(node)
    survivors = Others(node, 4).mask()
    assert ask(node, survivors.model_copy(update={"members": members})) is None
    assert ask(node, survivors) is None
    assert reasons(node) == [reason, "a round of no open secure sum"]


ROUND: dict[str, Callable[[Others], FromServer]] = {
    ADVERTISE: lambda others: others.advertise() and others.invite,
    SHARE: lambda others: others.share() and others.server.cohorts()[0],
    MASK: lambda others: others.mask() and others.inboxes[0],
}


@pytest.mark.parametrize("kind", list(ROUND))
def test_no_round_is_answered_twice(node: HandMadeNode, kind: str) -> None:
    """Else a mask could be asked for twice over different vectors, or a vector over different masks."""
    reports(node)
    others = Others(node)
    again = ROUND[kind](others)
    assert ask(node, again) is None
    assert reasons(node)[0] in ("a round out of order", "a secure sum that was begun before")
    assert uses(node).count("sum") == 1


def test_a_round_out_of_order_is_refused(node: HandMadeNode) -> None:
    reports(node)
    others = Others(node)
    others.advertise()
    assert ask(node, Inbox(session=others.session, members=[], sealed=[])) is None
    assert ask(node, Survivors(session="6" * 64, members=[0, 1, 2])) is None
    assert reasons(node) == ["a round out of order", "a round of no open secure sum"]


def test_a_sum_of_what_was_never_reported_is_refused(node: HandMadeNode) -> None:
    assert ask(node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is None
    reports(node)
    assert ask(node, Invite(session="5" * 64, release_id=RELEASE, cell="c" * 64)) is None
    assert ask(node, Invite(session="5" * 64, release_id="d" * 64, cell=CELL)) is None
    assert reasons(node) == ["a secure sum of a report that was never made"] * 3
    assert "sum" not in uses(node)


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
def test_a_malformed_round_gets_no_payload(node: HandMadeNode, what: str) -> None:
    reports(node)
    assert tell(node, *MALFORMED[what]) == 0
    assert len(reasons(node)) == 1
    assert "alice" not in reasons(node)[0]
    assert uses(node) == ["report", "status", "status"]


def test_keys_that_are_none_end_the_sum(node: HandMadeNode) -> None:
    reports(node)
    cohort = Others(node).advertise()
    assert ask(node, cohort.model_copy(update={"seal_keys": [*cohort.seal_keys[:3], b"no key"]})) is None
    assert reasons(node) == ["a member's key is no key"]


SOME = st.one_of(st.integers(-5, 200), st.binary(max_size=9), st.text(max_size=70), st.lists(st.integers(-1, 101)))
KEYS = st.sampled_from(["session", "you", "members", "seal_keys", "mask_keys", "sealed", "release_id", "cell", "x"])


@given(values=st.dictionaries(KEYS, SOME | st.just(RELEASE)), kind=st.sampled_from(list(ROUNDS)))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_round_holds_it_is_refused_with_fixed_words(
    node: HandMadeNode, values: dict[str, Any], kind: str
) -> None:
    with pytest.raises(EgressError) as refused:
        Sums(make_policy(), node.ledger).answer(kind, values)
    assert str(refused.value) in (
        *(f"no message of the secure sum ({r.asked.__name__.lower()})" for r in ROUNDS.values()),
        "a secure sum of a report that was never made",
        "a round of no open secure sum",
    )


# --- a hostile app -----------------------------------------------------------------------------------------------


def test_an_app_cannot_say_that_it_holds_something(node: HandMadeNode) -> None:
    assert reports(node, {"status": int(Status.HELD)})[-1] == 400
    assert reasons(node) == ["status held is no answer to that"]
    assert ask(node, Invite(session="5" * 64, release_id=RELEASE, cell=CELL)) is None


def test_an_app_cannot_answer_a_round(node: HandMadeNode) -> None:
    reports(node)
    Others(node).advertise()
    said = len(node.superlink.said)
    for message_id in ("", *(line["kind"] for line in read_audit(node.home))):
        metadata = Metadata(RUN, "", NODE, 1, message_id, "", time.time(), 3600.0, MASK)
        forged = make_message(metadata, config({"values": [21, 59]}))
        assert node.push(forged) == [400]
    assert len(node.superlink.said) == said


def test_nothing_is_sent_while_the_sum_cannot_be_debited(node: HandMadeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    reports(node)
    before = [n for n, _ in node.superlink.said]

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(node.ledger._file, "append", full)
    metadata = Metadata(RUN, "", 1, NODE, "", "", time.time(), 3600.0, ADVERTISE)
    invite = Invite(session="5" * 64, release_id=RELEASE, cell=CELL)
    message = make_message(metadata, config(invite.model_dump()))
    metadata.__dict__["_message_id"] = message.object_id
    node.superlink.queue.append(message)
    node.call("pull-messages", PullMessagesRequest(node=Node(node_id=NODE)))
    node.fleet.close()  # waits for what is being answered
    assert [n for n, _ in node.superlink.said if n.startswith("push")] == [n for n in before if n.startswith("push")]
    assert reasons(node) == ["the gate failed: OSError", "not even an error is sent: storage"]
