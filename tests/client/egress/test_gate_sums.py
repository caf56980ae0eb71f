"""Secure sums through one gate: what leaves, what is debited first, what the policy says."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest

from emgup_client.egress.audit import first_break, read_audit
from emgup_client.egress.policy import EgressPolicy
from emgup_model.secure_sum_wire import (
    Invite,
)
from emgup_model.wire import Status
from tests.client.egress.gate_sums import (
    CELL,
    LEVELS,
    RELEASE,
    SUM,
    WIDE,
    Others,
    ask,
    make_policy,
    reports,
    uses,
)
from tests.client.egress.stub import POLICY, HandMadeNode, StubSuperLink, reasons


def test_the_gate_holds_the_report_and_the_server_learns_the_sum(sum_node: HandMadeNode) -> None:
    assert reports(sum_node) == [200] * 4
    assert sum_node.superlink.values == [{"status": int(Status.HELD)}]
    others = Others(sum_node)
    assert others.total() == {k: 4 * v - 6 for k, v in LEVELS.items()}
    assert all(v > 63 for v in others.masked.values)  # 1 in 30 million
    assert sum_node.superlink.values == [{"status": int(Status.HELD)}]
    assert uses(sum_node) == ["report", "status", "sum"]
    assert reasons(sum_node) == []


def test_all_that_left_is_in_the_audit_log_and_the_debit_came_before(sum_node: HandMadeNode) -> None:
    reports(sum_node)
    Others(sum_node).total()
    lines = read_audit(sum_node.home)
    assert first_break(lines) is None
    logged = [(line["kind"], base64.b64decode(line["bytes"])) for line in lines if "bytes" in line]
    assert logged == list(dict.fromkeys(sum_node.superlink.said))
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
