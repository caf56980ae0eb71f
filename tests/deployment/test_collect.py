"""The deployed server against clients of every kind, in process: the real exchange, answers and cohort."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Error, Message

from emgup_model.errors import ConfigError, RunError
from emgup_model.methods import load_method
from emgup_model.wire import REQUEST, Personalize, Reply, Status, decode_request
from emgup_server.deployment.answers import Answers
from emgup_server.deployment.collect import collect
from emgup_server.deployment.job import Job, RunFiles, read_job
from emgup_server.deployment.tables import cohort
from emgup_simulation.local import LocalGrid
from tests.federation import FAST
from tests.server.hostile import GOOD, answer, bad_clients, metrics
from tests.toy import make_release

BAD = bad_clients()
LIMITS = dataclasses.replace(FAST, reply_timeout_s=0.2, node_wait_s=0.3, losses=3)
LEVELS = {"predictions_changed": 21, "confidence": 42, "decision": 63}
LABELS = {1001: "anna", 1002: "bela", 1003: "cleo"}
Client = Callable[[Message, Context], Message | None]


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder: Path = tmp_path_factory.mktemp("release")
    files = make_release(Ed25519PrivateKey.generate())
    files.write(folder)
    methods = {m: load_method(m) for m in ("adabn", "source_only")}
    return Job(release=str(folder), release_id=files.id, methods=methods, nodes=3)


def honest(message: Message, _: Context) -> Message:
    """Holds every release, and reports the same to everything."""
    if message.metadata.message_type != "train":
        return answer(message, metrics({"status": int(Status.HAVE_RELEASE)}))
    return answer(message, metrics(Reply(status=Status.REPORTED, report=LEVELS).encode()))


def only(node: int, bad: Client) -> Client:
    """Honest, but one node answers train messages badly."""

    def client(message: Message, context: Context) -> Message | None:
        hostile = context.node_id == node and message.metadata.message_type == "train"
        return (bad if hostile else honest)(message, context)

    return client


def test_every_client_answers_every_method_once(tmp_path: Path, job: Job) -> None:
    answers = Answers(tmp_path)
    assert collect(LocalGrid(honest, 3, {}), job, answers, LABELS, LIMITS) == 6
    assert {(a.label, a.method, a.status) for a in answers.all()} == {
        (label, method, "reported") for label in LABELS.values() for method in job.methods
    }
    assert [(m, s, len(v)) for m, s, v in cohort(answers.all())] == [
        (m, s, 3) for m in ("adabn", "source_only") for s in LEVELS
    ]


def test_a_deployed_client_is_never_told_a_user_and_the_cell_is_the_same_for_all(tmp_path: Path, job: Job) -> None:
    grid = LocalGrid(honest, 3, {})
    collect(grid, job, Answers(tmp_path), LABELS, LIMITS)
    trains = [m for m in grid.sent if m.metadata.message_type == "train"]
    asked = [decode_request(Personalize, r) for m in trains if isinstance(r := m.content[REQUEST], ConfigRecord)]
    assert {a.user for a in asked} == {None}
    assert {a.cell for a in asked} == {job.cell(m) for m in job.methods}


@pytest.mark.parametrize("name", [*BAD, "exact numbers"])
def test_a_hostile_client_is_listed_and_the_cohort_is_unharmed(tmp_path: Path, job: Job, name: str) -> None:
    bad = BAD.get(name, lambda message, _: answer(message, metrics(dict(GOOD))))
    answers = Answers(tmp_path)
    assert collect(LocalGrid(only(1002, bad), 3, {}), job, answers, LABELS, LIMITS) == 4
    for a in answers.all():
        assert a.complete == (a.label != "bela")
        if a.label == "bela":
            assert a.status.startswith(("rejected", "client_error", "timeout"))
            assert "alice" not in a.status
    assert all(len(v) == 2 for _, _, v in cohort(answers.all()))
    expected = [v[:1] for _, _, v in cohort(a for a in answers.all() if a.label == "anna")]
    assert [v[:1] for _, _, v in cohort(answers.all())] == expected


def test_a_second_run_asks_only_for_what_is_missing(tmp_path: Path, job: Job) -> None:
    answers = Answers(tmp_path)
    collect(LocalGrid(only(1002, BAD["exception"]), 3, {}), job, answers, LABELS, LIMITS)
    grid = LocalGrid(honest, 3, {})
    assert collect(grid, job, answers, LABELS, LIMITS) == 6
    assert {m.metadata.dst_node_id for m in grid.sent} == {1002}


def test_a_complete_answer_is_not_replaced(tmp_path: Path) -> None:
    answers = Answers(tmp_path)
    first = answers.record("a" * 64, 7, "anna", "adabn", Reply(status=Status.REPORTED, report=LEVELS))
    assert answers.record("a" * 64, 7, "anna", "adabn", Reply(status=Status.INTERNAL)) == first
    assert answers.record_failure("a" * 64, 7, "anna", "adabn", "lost", lost=True) == first
    assert answers.all() == [first]


def test_a_refused_release_is_noted_for_that_client(tmp_path: Path, job: Job) -> None:
    def client(message: Message, context: Context) -> Message:
        if context.node_id == 1003 and message.metadata.message_type != "train":
            return answer(message, metrics({"status": int(Status.RELEASE_REFUSED)}))
        return honest(message, context)

    answers = Answers(tmp_path)
    assert collect(LocalGrid(client, 3, {}), job, answers, {}, LIMITS) == 4
    assert {a.status for a in answers.all() if a.node == 1003} == {"no release: release_refused"}


def test_dead_clients_leave_a_partial_cohort(tmp_path: Path, job: Job) -> None:
    def dead(message: Message, _: Context) -> Message:
        return Message(Error(5, "node unavailable"), reply_to=message)

    answers = Answers(tmp_path)
    assert collect(LocalGrid(only(1001, dead), 3, {}), job, answers, LABELS, LIMITS) == 4
    assert {(a.status, a.state) for a in answers.all() if a.label == "anna"} == {("lost", "lost")}


def test_a_reply_that_never_came_whole_is_not_asked_for_again_and_counts_as_word(tmp_path: Path, job: Job) -> None:
    asked = 0

    def torn(message: Message, _: Context) -> Message:
        nonlocal asked
        asked += 1
        return Message(Error(3, "objects are unavailable"), reply_to=message)

    answers = Answers(tmp_path)
    assert collect(LocalGrid(only(1001, torn), 3, {}), job, answers, LABELS, LIMITS) == 4
    assert asked == 2
    assert {a.status for a in answers.all() if a.label == "anna"} == {"client_error (code 3)"}


def test_fewer_clients_than_expected_go_on_and_none_is_an_error(tmp_path: Path, job: Job) -> None:
    answers = Answers(tmp_path)
    assert collect(LocalGrid(honest, 1, {}), job, answers, LABELS, LIMITS) == 2
    with pytest.raises(RunError, match="no client came online"):
        collect(LocalGrid(honest, 0, {}), job, answers, LABELS, LIMITS)


def test_a_run_keeps_what_it_asked_for(tmp_path: Path, job: Job) -> None:
    run = RunFiles(tmp_path / "run")
    run.save(job)
    assert read_job(run.job) == job
    assert run.job.stat().st_mode & 0o777 == 0o600
    run.save(job.model_copy(update={"wait_s": 5.0}))
    for change in ({"seed": 1}, {"protocol": "inductive"}, {"release_id": "0" * 64}, {"methods": {}}):
        with pytest.raises(ConfigError, match="choose another --name"):
            run.save(job.model_copy(update=change))
