"""A hostile server on the real runtime: its code runs behind the gate and gets no byte of a payload out."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emgup_client.egress.audit import first_break, read_audit
from emgup_model.config import dump_yaml
from tests.client.egress.runtime import Deployment, bundle_hash, deployment
from tests.client.egress.stub import POLICY

APP = Path(__file__).with_name("hostile_app")
CANARY = "CANARY-6f1d-alice-left-wrist"
ALLOWED = {
    **POLICY,
    "scalars": {"predictions_changed": {"bits": 4}, "confidence": {"bits": 4}, "decision": {"bits": 2}},
    "limits": {**POLICY["limits"], "reports_per_day": 1, "statuses_per_day": 50, "statuses_for_life": 50},
}
ATTACKS = (
    *("arrays", "many_arrays", "config", "exception", "long_key", "key", "record_name", "second_record"),
    *("list", "nan", "float", "big", "fine", "unnamed", "exact"),
)

pytestmark = [pytest.mark.slow, pytest.mark.flower]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, list[dict[str, Any]]]]:
    """One deployment that a hostile run went through, with all that its server got."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret.txt").write_text(CANARY)
    with deployment(folder, dump_yaml(ALLOWED), bundle_hash(APP)) as made:
        attacks = f"honest:1 honest:1 honest:2 {' '.join(ATTACKS)} status unknown_kind"
        status = made.run(APP, f'out="{folder}/out.json" attacks="{attacks}"', deadline_s=900)
        assert status == "finished:completed", made.log("superlink")
        changed = folder / "changed"
        shutil.copytree(APP, changed)
        with (changed / "hostile_client.py").open("a") as file:
            file.write("#")
        made.run(changed, f'out="{folder}/changed.json" attacks="honest:1"', deadline_s=180)
        yield made, json.loads((folder / "out.json").read_text())


def test_only_the_allowed_report_got_out(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    _, got = ran
    report = {"status": 12, "predictions_changed": 17, "confidence": 59, "decision": 63}
    assert [g["values"] for g in got[:2]] == [{"reply": report}] * 2  # the second is the first again
    assert got[2]["error"] == [2, None]  # run N+1 of the day
    assert next(g for g in got if g["attack"] == "status")["values"] == {"reply": {"status": 7}}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_gets_no_payload_out(ran: tuple[Deployment, list[dict[str, Any]]], attack: str) -> None:
    found = next(g for g in ran[1] if g["attack"] == attack)
    assert found["error"] == [2, None]
    assert found["content_bytes"] == 0


def test_an_unknown_kind_of_message_is_answered_with_silence(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    assert next(g for g in ran[1] if g["attack"] == "unknown_kind")["silence"]


def test_the_canary_is_nowhere_on_the_servers_side(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    made, _ = ran
    raw = CANARY.encode()
    forms = [raw, raw.hex().encode(), base64.b64encode(raw)[:-4], raw[:14]]
    kept = [made.folder / "out.json", *made.folder.glob("state.db*"), made.folder / "superlink.log"]
    for path in kept:
        assert not any(form in path.read_bytes() for form in forms), path
    assert CANARY in made.log("supernode")  # it was there to be carried off


def test_each_refusal_is_in_the_log_with_its_reason(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    made, _ = ran
    lines = read_audit(made.home)
    assert first_break(lines) is None
    refused = [(line["kind"], line["reason"]) for line in lines if not line["allowed"]]
    replies = [reason for kind, reason in refused if kind == "reply"]
    assert len(replies) == len(ATTACKS)  # an exception is an error already and not refused; run N+1 is
    assert all(replies)
    assert ("request", "the server asks for something the client does not know") in refused
    assert ("run", "the run's app bundle is not the pinned one") in refused
    assert not any(CANARY in json.dumps(line) for line in lines)


def test_a_bundle_changed_by_one_byte_never_ran(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    made, _ = ran
    found = json.loads((made.folder / "changed.json").read_text())
    assert found[0]["error"] == [2, None]
    assert made.log("supernode").count("Start `flwr-clientapp` process") == len(ATTACKS) + 4


def test_up_go_less_than_1000_bytes_of_payload_a_run(ran: tuple[Deployment, list[dict[str, Any]]]) -> None:
    honest = ran[1][0]
    assert honest["content_bytes"] < 1000
    assert sum(len(v) // 2 for v in honest["objects"].values()) < 1000
