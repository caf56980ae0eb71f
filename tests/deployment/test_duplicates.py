"""A reply is delivered twice, an old one comes again, a second one contradicts the first: nothing changes.

On the real runtime. Bytes that a client sent are said again to the SuperLink, and replies that it never gave are signed
with its own key, before and after the server has read the first one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from typing import Literal

import httpx
import pytest
from flwr.app.metadata import Metadata
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.proto.message_pb2 import PushObjectRequest

from emgup_client.egress.gate import read_supernode_key
from emgup_client.egress.replies import Request, answer
from emgup_client.egress.upstream import SuperLink, tls_context
from emgup_model.report_wire import TOP
from emgup_model.wire import Reply, Status
from emgup_server.deployment.tables import cohort
from emgup_server.transcript import read_transcript
from tests.deployment.relay import Passed
from tests.deployment.stage import PATIENCE_S, Stage, User, stage, toy_user, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.flower]

PUSH, OBJECT = "/v1/fleet/push-messages", "/v1/fleet/push-object"
OTHER = {"predictions_changed": TOP, "confidence": 0, "decision": TOP}
"""Levels that no client of these tests reports."""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("duplicates")) as made:
        for number, name in enumerate(("dina", "emil")):
            made.add_user(name, toy_user(number, seconds=60.0)).start()
        for user in made.users:
            assert user.running is not None
            user.running.wait_until_up()
        yield made


def pushes(user: User) -> list[Passed]:
    """What the user's client has sent to be kept so far: announcements of replies, and their objects."""
    return [r for r in user.relay.whole_requests() if r.path in (PUSH, OBJECT)]


def answers_to_train(requests: list[Passed]) -> list[PushMessagesRequest]:
    """The announced replies to requests to personalize."""
    said = [PushMessagesRequest.FromString(r.body) for r in requests if r.path == PUSH]
    return [push for push in said if push.messages_list[0].metadata.message_type == "train"]


def answered(requests: list[Passed]) -> bool:
    """Whether there is a reply to a request to personalize among them, with all of its objects."""
    said = answers_to_train(requests)
    objects = {PushObjectRequest.FromString(r.body).object_id for r in requests if r.path == OBJECT}
    return bool(said) and said[-1].message_object_trees[0].object_id in objects


def superlink(two: Stage, user: User) -> SuperLink:
    """The server, spoken to with the user's key and around the user's gate."""
    context = tls_context(str(user.home / "keys" / "root_certificates.pem"))
    return SuperLink(f"127.0.0.1:{two.port}", context, read_supernode_key(user.home / "keys" / "supernode"))


def say_again(two: Stage, user: User, requests: list[Passed]) -> set[int]:
    """Send the very bytes once more, headers and signatures included; returns the HTTP statuses."""
    context = tls_context(str(user.home / "keys" / "root_certificates.pem"))
    with httpx.Client(base_url=f"https://127.0.0.1:{two.port}", verify=context, trust_env=False) as client:
        return {client.post(r.path, content=r.body, headers=list(r.headers)).status_code for r in requests}


def sign_again(two: Stage, user: User, requests: list[Passed]) -> set[int]:
    """Send the same bodies, signed anew."""
    server = superlink(two, user)
    statuses = {server.post(r.path, r.body).status for r in requests}
    server.close()
    return statuses


def contradict(two: Stage, user: User, push: PushMessagesRequest) -> None:
    """Send a second reply to the question that ``push`` answers, with other levels."""
    said = push.messages_list[0].metadata
    question = Metadata(
        run_id=said.run_id,
        message_id=said.reply_to_message_id,
        src_node_id=said.dst_node_id,
        dst_node_id=said.src_node_id,
        reply_to_message_id="",
        group_id=said.group_id,
        created_at=said.created_at,
        ttl=said.ttl,
        message_type=said.message_type,
    )
    made = answer(Request(question, frozenset(), 0.0), Reply(status=Status.REPORTED, report=OTHER), said.src_node_id)
    server = superlink(two, user)
    response = server.post(PUSH, made.push.SerializeToString(deterministic=True))
    assert response.status == 200  # Flower says so to retries, too
    session = PushMessagesResponse.FromString(response.body).session_id
    for name, content in made.objects.items():
        request = PushObjectRequest(
            node=made.push.node, run_id=said.run_id, object_id=name, object_content=content, session_id=session
        )
        server.post(OBJECT, request.SerializeToString(deterministic=True))
    server.close()


def heard(two: Stage, name: str) -> list[tuple[str, int]]:
    """(kind, node) of every message that the run's server received."""
    lines = read_transcript(two.server_folder / "runs" / name / "transcript.jsonl")
    return sorted((line["metadata"]["message_type"], line["metadata"]["src_node_id"]) for line in lines)


def kept(two: Stage, name: str) -> dict[str, bytes]:
    """The run's ledger of answers, byte for byte; empty before the first."""
    return {p.name: p.read_bytes() for p in (two.server_folder / "runs" / name).glob("answers/*")}


@pytest.mark.parametrize(("when", "seed"), [("unread", 1), ("read", 2)])
def test_a_reply_that_comes_again_or_is_contradicted_changes_nothing(
    two: Stage, when: Literal["unread", "read"], seed: int
) -> None:
    """``unread``: the ServerApp stands still, so the first reply lies on the SuperLink while the others arrive.
    ``read``: the first one is recorded already, and the run waits for the other client.
    """
    dina, emil = two.users
    assert two.server is not None
    assert emil.running is not None
    name, old, reports = f"twice-{when}", pushes(dina), len(dina.reports())
    arguments = ("--method", "emgup_paper", "--seed", seed, "--clients", 2, "--name", name)
    run = two.start_run(*arguments)
    two.wait_until_adapting(dina if when == "unread" else emil, name)
    held = two.server.task() if when == "unread" else emil.running.children()["gate"]
    os.kill(held, signal.SIGSTOP)
    try:
        assert wait_until(lambda: answered(pushes(dina)[len(old) :]), PATIENCE_S)
        if when == "read":
            assert wait_until(lambda: "dina" in two.answers(name), PATIENCE_S)
        fresh = pushes(dina)[len(old) :]
        assert say_again(two, dina, fresh) == {200}
        contradict(two, dina, answers_to_train(fresh)[-1])
        assert say_again(two, dina, fresh) == {200}
        assert 200 not in sign_again(two, dina, old)
        known = kept(two, name)
    finally:
        os.kill(held, signal.SIGCONT)
    assert run.wait(PATIENCE_S) == 0
    answers = two.answers(name)
    assert {a.status for a in answers.values()} == {"reported"}
    [report] = dina.reports()[reports:]
    assert answers["dina"].report == report != OTHER
    assert known.items() <= kept(two, name).items()
    assert len(kept(two, name)) == 2
    assert all(len(values) == 2 for _, _, values in cohort(answers.values()))
    assert [kind for kind, node in heard(two, name) if node == answers["dina"].node].count("train") == 1
    before = kept(two, name)
    assert two.run(*arguments).returncode == 0
    assert kept(two, name) == before


def test_an_old_reply_of_the_same_cell_changes_nothing_in_a_new_run(two: Stage) -> None:
    dina, _ = two.users
    arguments = ("--method", "adabn", "--seed", 3, "--clients", 2, "--name")
    assert two.run(*arguments, "once").returncode == 0
    old, reports = pushes(dina), dina.reports()
    run = two.start_run(*arguments, "again")
    statuses: set[int] = set()
    while run.poll() is None:
        statuses |= sign_again(two, dina, old)
        time.sleep(0.5)
    assert run.returncode == 0
    assert 200 not in statuses
    once, again = two.answers("once"), two.answers("again")
    assert {n: (a.cell, a.report) for n, a in again.items()} == {n: (a.cell, a.report) for n, a in once.items()}
    assert dina.reports() == reports
    nodes = [a.node for a in again.values()]
    assert heard(two, "again") == sorted((kind, node) for kind in ("query.offer", "train") for node in nodes)
