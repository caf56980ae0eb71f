"""When replies leave, and that they leave once, also over a SuperLink that is away for a while."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flwr.app import Message, MetricRecord, RecordDict
from flwr.app.metadata import Metadata

from emgup_client.egress import outbox as outbox_module
from emgup_client.egress.audit import AuditLog
from emgup_client.egress.outbox import Outbox, Wire
from emgup_client.egress.policy import MAX_PADDINGS
from emgup_client.egress.replies import Request
from tests.client.egress.stub import REPORT, HandMadeNode, StubSuperLink, make_policy, request


def asked(kind: str, ago: float) -> Request:
    metadata = Metadata(1, "a" * 64, 1, 77, "", "", time.time(), 3600.0, kind)
    return Request(metadata, frozenset(), time.monotonic() - ago)


@pytest.fixture
def waiting(tmp_path: Path) -> Outbox:
    audit = AuditLog(tmp_path)
    return Outbox(Wire(StubSuperLink().post, audit), pad_s=10.0)


@pytest.mark.parametrize(("ago", "moment"), [(0.5, 10), (9.0, 10), (10.5, 20), (25.0, 40), (79.0, 80), (81.0, 160)])
def test_the_run_time_is_rounded_up_to_one_of_a_few_moments(waiting: Outbox, ago: float, moment: float) -> None:
    item = asked("train", ago)
    due = waiting._due(item)
    assert due is not None
    assert due - item.arrived == pytest.approx(moment)
    waiting.close()


def test_there_are_few_moments_and_only_for_personalization(waiting: Outbox) -> None:
    items = [asked("train", float(s)) for s in range(0, 400_000, 500)]
    moments = {None if (due := waiting._due(i)) is None else round(due - i.arrived) for i in items}
    assert None in moments  # later than the last moment: not at all
    assert len(moments) <= MAX_PADDINGS + 1
    offer = asked("query.offer", 3.0)
    assert (waiting._due(offer) or 0.0) - offer.arrived == pytest.approx(3.0, abs=0.5)
    waiting.close()


def test_a_reply_waits_for_its_moment(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(), make_policy(pad_s=1))
    node.activate()
    node.superlink.queue.append(request())
    started = time.monotonic()
    message = node.pull()
    assert message is not None
    node.push(Message(RecordDict({"reply": MetricRecord(REPORT)}), reply_to=message))
    node.answered()
    assert time.monotonic() - started >= 1
    node.close()


def test_a_superlink_that_is_away_gets_the_same_message_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_RETRY_S", (0.05,))
    node = HandMadeNode(tmp_path / "home", StubSuperLink())
    node.activate()
    node.superlink.queue.append(request())
    message = node.pull()
    assert message is not None
    node.superlink.refuse = {"push-messages": 503}
    node.push(Message(RecordDict({"reply": MetricRecord(REPORT)}), reply_to=message))
    while [n for n, _ in node.superlink.said].count("push-messages") < 3:
        time.sleep(0.01)
    node.superlink.refuse = {}
    node.answered()
    assert len({b for n, b in node.superlink.said if n == "push-messages"}) == 1
    assert node.superlink.values == [REPORT]
    assert node.ledger.reports == 1
    node.close()


def test_a_reply_that_is_not_taken_is_dropped_and_not_debited_again(tmp_path: Path) -> None:
    node = HandMadeNode(tmp_path / "home", StubSuperLink(refuse={"push-messages": 403}))
    node.activate()
    for wanted in (0, 1):
        node.superlink.queue.append(request())
        message = node.pull()
        assert message is not None
        node.push(Message(RecordDict({"reply": MetricRecord(REPORT)}), reply_to=message))
        if wanted:
            node.answered()
        else:
            while not any(n == "push-messages" for n, _ in node.superlink.said):
                time.sleep(0.01)
            node.superlink.refuse = {}
    assert node.superlink.values == [REPORT]
    assert node.ledger.reports == 1
    node.close()
