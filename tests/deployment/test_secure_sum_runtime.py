"""Secure sums on the real runtime: SuperLink with TLS and node authentication, five users' machines, 127.0.0.1."""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from flwr.app import ConfigRecord, MetricRecord
from flwr.proto.message_pb2 import PushObjectRequest

from emgup_client.egress.audit import first_break, read_audit
from emgup_model.secure_sum_wire import Masked
from emgup_model.wire import Reply, Status
from emgup_server.deployment.sums import Sum
from emgup_server.transcript import read_transcript
from tests.deployment.stage import OPEN_POLICY, Stage, User, stage, toy_user, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.flower]

NAMES = ("anna", "bela", "cleo", "dora", "eva")


def policy(floor: int = 3) -> dict[str, Any]:
    """Without noise, so that the sum can be compared; a report leaves in a sum only."""
    return {**OPEN_POLICY, "sum": {"only": True, "floor": floor, "per_day": 50, "for_life": 50}}


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Five users' machines, of which the last is not on; the fourth takes part in no sum of fewer than five."""
    with stage(tmp_path_factory.mktemp("sums")) as made:
        for number, name in enumerate(NAMES):
            rules = policy(5 if name == "dora" else 3)
            if name == "eva":  # its answers leave late enough to be killed in between
                rules["limits"] = {**rules["limits"], "pad_s": 20}
            made.add_user(name, toy_user(number), rules)
        for user in made.users[:4]:
            user.start()
        for user in made.users[:4]:
            assert user.running is not None
            user.running.wait_until_up()
        yield made


def levels(user: User) -> dict[str, int]:
    """What the user's ledger holds: without noise, the exact levels."""
    lines = [json.loads(line) for line in (user.home / "uses.jsonl").read_text().splitlines()]
    return next(line["levels"] for line in lines if line["kind"] == "report")


def expected(stage: Stage, *names: str) -> dict[str, int]:
    said = [levels(u) for u in stage.users if u.name in names]
    return {scalar: sum(v[scalar] for v in said) for scalar in said[0]}


def made_sum(stage: Stage, run: str) -> Sum:
    return Sum.model_validate_json(next((stage.server_folder / "runs" / run / "sums").iterdir()).read_bytes())


def sent_up(user: User) -> list[bytes]:
    """Records that the wire saw, in clear."""
    pushed = [PushObjectRequest.FromString(b) for path, b in user.relay.requests() if path.endswith("/push-object")]
    return [p.object_content for p in pushed if not p.object_content.startswith((b"Message ", b"RecordDict "))]


def vectors(user: User) -> list[list[int]]:
    said = [dict(ConfigRecord.inflate(c)) for c in sent_up(user) if c.startswith(b"ConfigRecord ")]
    return [Masked.model_validate(v).values for v in said if set(v) == {"values"}]


def sharers(stage: Stage, run: str) -> set[str]:
    """Whose shares the server has, as its transcript says."""
    path = stage.server_folder / "runs" / run / "transcript.jsonl"
    nodes = {
        line["metadata"]["src_node_id"]
        for line in (read_transcript(path) if path.exists() else [])
        if any(b"sealed" in bytes.fromhex(o.get("hex", "")) for o in line["objects"].values())
    }
    return {a.label for a in stage.answers(run).values() if a.node in nodes}


def refused(user: User) -> list[str]:
    return [line["reason"] for line in read_audit(user.home) if not line["allowed"]]


@pytest.fixture(scope="module")
def summed(five: Stage) -> tuple[Stage, str]:
    """After a run that made the sum of three; the fourth wants a larger cohort and says no in round 1."""
    done = five.run("--method", "adabn", "--clients", 4, "--secure-sum", "--round-s", 90, "--name", "first", ok=False)
    return five, done.stdout


def test_the_server_has_the_sum_of_those_who_took_part_and_says_who_did_not(summed: tuple[Stage, str]) -> None:
    stage, said = summed
    done = made_sum(stage, "first")
    assert done.complete
    assert done.members == NAMES[:3]
    assert done.levels == expected(stage, *NAMES[:3])
    assert done.floor == 3
    assert done.remarks == {"dora": "sum_share: it declined"}
    assert "dora: not in the sum; sum_share: it declined" in said
    assert "partial" in said
    assert {a.status for a in stage.answers("first").values()} == {"held"}


def test_a_cohort_one_below_a_clients_floor_is_refused_with_its_reason(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    dora = stage.users[3]
    assert refused(dora) == ["a cohort of 4, below the floor of 5"]
    assert vectors(dora) == []


def test_nobodys_levels_were_on_the_wire_or_are_with_the_server(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    for user in stage.users[:4]:
        own = levels(user)
        clear = [Reply.decode(dict(MetricRecord.inflate(c))) for c in sent_up(user) if c.startswith(b"MetricRecord ")]
        assert [r.status for r in clear] == [Status.NEEDS_RELEASE, Status.HAVE_RELEASE, Status.HELD]
        assert all(r.report is None for r in clear)
        assert all(v > 63 for vector in vectors(user) for v in vector)  # 1 in 20 million
        record = MetricRecord(dict(Reply(status=Status.REPORTED, report=own).encode())).deflate()
        assert not any(record in bytes(stream) for stream in user.relay.up)
    kept = (stage.server_folder / "runs" / "first" / "answers").iterdir()
    assert all(json.loads(path.read_text())["report"] is None for path in kept)


def test_every_byte_on_the_wire_is_in_the_log_and_in_the_transcript(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    lines = read_transcript(stage.server_folder / "runs" / "first" / "transcript.jsonl")
    server = {bytes.fromhex(o["hex"]) for line in lines for o in line["objects"].values()}
    for user in stage.users[:4]:
        log = read_audit(user.home)
        assert first_break(log) is None
        logged = {(x["kind"], base64.b64decode(x["bytes"])) for x in log if "bytes" in x}
        assert logged == {(path.removeprefix("/v1/fleet/"), body) for path, body in user.relay.requests()}
        assert set(sent_up(user)) <= server
        payload = sum(map(len, sent_up(user)))
        print(f"{user.name}: {payload} bytes of records up")


def test_the_debit_was_made_before_the_vector_left_and_once(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    for user in stage.users[:3]:
        uses = [json.loads(line) for line in (user.home / "uses.jsonl").read_text().splitlines()]
        assert [u["kind"] for u in uses].count("report") == 1
        left = next(x["time"] for x in read_audit(user.home) if "the report under masks" in x["reason"])
        assert max(u["time"] for u in uses if u["kind"] in ("report", "sum")) < left


def test_what_is_complete_is_not_asked_again(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    before = {u.name: len(sent_up(u)) for u in stage.users[:4]}
    made = made_sum(stage, "first")
    stage.run("--method", "adabn", "--clients", 4, "--secure-sum", "--round-s", 60, "--name", "first", ok=False)
    assert made_sum(stage, "first") == made
    assert {u.name: len(sent_up(u)) for u in stage.users[:4]} == before


def test_the_same_run_without_sums_is_another_and_gets_no_report(summed: tuple[Stage, str]) -> None:
    stage, _ = summed
    done = stage.run("--method", "adabn", "--clients", 4, "--name", "first", ok=False)
    assert "choose another --name" in done.stderr
    stage.run("--method", "adabn", "--clients", 4, "--name", "alone", ok=False)
    assert all(a.report is None for a in stage.answers("alone").values())
    assert "the policy lets a report leave in a secure sum only" in refused(stage.users[0])


def test_with_a_fifth_all_take_part_though_one_is_killed_between_the_rounds(summed: tuple[Stage, str]) -> None:
    """A new session over the same levels; the gate of one dies after it shared: four of five open the sum.

    The fourth has lowered its floor: with five it would not help to open a sum of four.
    """
    stage, _ = summed
    dora, eva = stage.users[3:]
    dora.stop()
    (dora.home / "policy.yaml").write_text(yaml.safe_dump(policy(4)))
    for user in (dora, eva):
        user.start()
    for user in (dora, eva):
        assert user.running is not None
        user.running.wait_until_up()
    run = stage.start_run("--method", "adabn", "--clients", 5, "--secure-sum", "--round-s", 120, "--name", "second")
    assert wait_until(lambda: "eva" in sharers(stage, "second"), 400), run.communicate(timeout=60)[0]
    assert eva.running is not None
    os.kill(eva.running.process.pid, signal.SIGKILL)
    said = run.communicate(timeout=400)[0]
    done = made_sum(stage, "second")
    assert done.members == NAMES[:4], said
    assert done.levels == expected(stage, *NAMES[:4])
    assert done.remarks.keys() == {"eva"}
    assert done.remarks["eva"] in ("sum_mask: it went offline", "sum_mask: no answer in time")
    for user in stage.users[:3]:
        assert user.uses("report") == 1
        assert user.uses("sum") == 2
        first, second = vectors(user)
        assert first != second
