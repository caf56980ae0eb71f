"""Ask every client that is online for every method of a job, and keep the answers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flwr.app import MessageType
from flwr.serverapp import Grid

from emgup_model.config import canonical_json
from emgup_model.errors import RunError
from emgup_model.evaluation.streaming import StreamingConfig
from emgup_model.wire import Personalize, Reply, Status
from emgup_server.deployment.answers import Answers
from emgup_server.deployment.job import Job
from emgup_server.dispatch import refusal_text, supply
from emgup_server.exchange import Ask, Failure, Limits, Problem, WorkersLostError, exchange, wait_for_nodes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """One method put to one client."""

    node: int
    method: str
    cell: str


def collect(grid: Grid, job: Job, answers: Answers, labels: Mapping[int, str], limits: Limits) -> int:
    """Have every online client answer, and record each answer as it arrives; returns how many are complete.

    Args:
        grid: connection to the clients.
        job: what is asked.
        answers: where it goes; what is complete there is not asked again.
        labels: the operator's names of the clients.
        limits: patience.

    Raises:
        RunError: no client is online.
    """
    online = _online(grid, job, limits)
    questions = [q for q in _questions(job, online) if not ((a := answers.read(q.cell, q.node)) and a.complete)]
    log.info("%d clients online, %d answers to get", len(online), len(questions))
    silent = set(questions)
    try:
        for question, outcome, prefix in _outcomes(grid, job, questions, limits):
            silent.discard(question)
            _keep(answers, question, labels, _as_asked(outcome, job.secure_sum), prefix)
    except WorkersLostError as e:
        log.warning("%s", e)
    for question in silent:
        _keep(answers, question, labels, Failure(Problem.LOST))
    return sum((a := answers.read(q.cell, q.node)) is not None and a.complete for q in _questions(job, online))


def _outcomes(
    grid: Grid, job: Job, questions: Sequence[Question], limits: Limits
) -> Iterator[tuple[Question, Reply | Failure, str]]:
    """Each question, its outcome, and what to write before that; the release goes first, to clients that lack it."""
    pairs = [(job.release_id, node) for node in dict.fromkeys(q.node for q in questions)]
    refused = supply(grid, pairs, {job.release_id: Path(job.release)}, limits)
    ready = []
    for question in questions:
        if (why := refused.get((job.release_id, question.node))) is not None:
            yield question, why, "no release: "
        else:
            ready.append(question)
    for ask, outcome in exchange(grid, _asks(job, ready), limits):
        yield ask.about, outcome, ""


def _online(grid: Grid, job: Job, limits: Limits) -> list[int]:
    try:
        return wait_for_nodes(grid, job.nodes, limits)
    except RunError:
        online = sorted(grid.get_node_ids())
        if not online:
            raise RunError(f"no client came online within {limits.node_wait_s:g} s") from None
        log.warning("%d of %d clients are online: the run is partial", len(online), job.nodes)
        return online


def _questions(job: Job, nodes: Sequence[int]) -> list[Question]:
    return [Question(node, method, job.cell(method)) for method in job.methods for node in nodes]


def _asks(job: Job, questions: Sequence[Question]) -> Iterator[Ask[Question]]:
    for question in questions:
        request = Personalize(
            release_id=job.release_id,
            method=canonical_json(job.methods[question.method]).decode(),
            method_name=question.method,
            protocol=job.protocol,
            scenario="balanced",
            streaming=canonical_json(StreamingConfig()).decode() if job.protocol == "streaming" else None,
            seed=job.seed,
            cell=question.cell,
            for_sum=True if job.secure_sum else None,
        )
        yield Ask(question.node, MessageType.TRAIN, request, question)


def _as_asked(outcome: Reply | Failure, for_sum: bool) -> Reply | Failure:
    """In a run with secure sums nobody's own levels are kept, and in another nobody holds them back."""
    if isinstance(outcome, Reply) and outcome.report is not None and for_sum:
        return Failure(Problem.REJECTED, "levels of its own, where a sum was asked for")
    if isinstance(outcome, Reply) and outcome.status is Status.HELD and not for_sum:
        return Failure(Problem.REJECTED, "levels held back, where no sum was asked for")
    return outcome


def _keep(
    answers: Answers, question: Question, labels: Mapping[int, str], outcome: Reply | Failure, prefix: str = ""
) -> None:
    label = labels.get(question.node, f"node-{question.node}")
    if isinstance(outcome, Reply) and outcome.result is not None:
        outcome = Failure(Problem.REJECTED, "exact numbers, which no deployed client sends")
    if isinstance(outcome, Reply) and not prefix:
        answer = answers.record(question.cell, question.node, label, question.method, outcome)
    else:
        lost = isinstance(outcome, Failure) and outcome.transient
        text = prefix + refusal_text(outcome)
        answer = answers.record_failure(question.cell, question.node, label, question.method, text, lost)
    log.info("%s, %s: %s", answer.label, answer.method, answer.status)
