"""Secure sums of a deployed run, in process: the real rounds, server and gate's sums, with clients of every kind."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from rich.console import Console

from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError
from emgup_client.egress.sums import Sums as ClientSums
from emgup_client.egress.use_ledger import UseLedger
from emgup_model.methods import load_method
from emgup_model.report_wire import TOP
from emgup_model.secure_sum_wire import ADVERTISE, MASK, MAX_COHORT, ROUNDS, SHARE, UNMASK
from emgup_model.wire import REPLY, REQUEST, Reply, Status
from emgup_server.deployment.answers import Answers
from emgup_server.deployment.collect import collect
from emgup_server.deployment.control import RunState
from emgup_server.deployment.job import Job
from emgup_server.deployment.run import Outcome
from emgup_server.deployment.sums import Sum, Sums, groups, sum_methods
from emgup_server.deployment.tables import print_outcome
from emgup_simulation.local import LocalGrid
from tests.client.egress.stub import POLICY
from tests.deployment.test_collect import LIMITS, honest
from tests.server.hostile import answer, metrics

Client = Callable[[Message, Context], Message | None]
RELEASE = "a" * 64
NAMES = ("anna", "bela", "cleo", "dora", "eva", "fay", "gea")
LABELS = {1001 + i: name for i, name in enumerate(NAMES)}


@pytest.fixture
def job() -> Job:
    return Job(
        release="unused", release_id=RELEASE, methods={"adabn": load_method("adabn")}, secure_sum=True, round_s=0.5
    )


class Cohort:
    """Gates' sums of some clients, each with a ledger that knows a report; ``change`` makes one of them another."""

    def __init__(self, folder: Path, job: Job, count: int, floor: int = 3, **policy: Any) -> None:
        self.job, self.answers, self.sums = job, Answers(folder / "answers"), Sums(folder / "sums")
        rules = {**POLICY, "sum": {"floor": floor, "per_day": 9, "for_life": 9}, **policy}
        made = EgressPolicy.model_validate(rules)
        self.ledgers = {1001 + i: UseLedger(folder / f"home{i}", made) for i in range(count)}
        self.gates = {node: ClientSums(made, ledger) for node, ledger in self.ledgers.items()}
        self.levels = {}
        for i, (node, ledger) in enumerate(self.ledgers.items()):
            exact = {"predictions_changed": i % 16, "confidence": 15 - i % 16}
            self.levels[node] = ledger.report(RELEASE, job.cell("adabn"), exact)[0]
            self.answers.record(job.cell("adabn"), node, LABELS[node], "adabn", Reply(status=Status.HELD))
        self.change: Client | None = None
        self.grid = LocalGrid(self._client, count, {})

    def make(self) -> Sum:
        """The sum that a run makes."""
        sum_methods(self.grid, self.job, self.answers, self.sums, LABELS, 0.01)
        made = self.sums.read(self.job.cell("adabn"))
        assert made is not None
        return made

    def expected(self, *names: str) -> dict[str, int]:
        said = [levels for node, levels in self.levels.items() if LABELS[node] in names]
        return {name: sum(levels[name] for levels in said) for name in said[0]}

    def close(self) -> None:
        for ledger in self.ledgers.values():
            ledger.close()

    def real(self, message: Message, context: Context) -> Message:
        """What a gate does with a round."""
        record = message.content[REQUEST]
        assert isinstance(record, ConfigRecord)
        try:
            said = self.gates[context.node_id].answer(message.metadata.message_type, dict(record))
        except EgressError:
            return Message(Error(2, ""), reply_to=message)
        return answer(message, RecordDict({REPLY: ConfigRecord(said.model_dump())}))

    def _client(self, message: Message, context: Context) -> Message | None:
        return (self.change or self.real)(message, context)


@pytest.fixture
def cohort(tmp_path: Path, job: Job) -> Iterator[Callable[..., Cohort]]:
    made: list[Cohort] = []

    def make(count: int, **options: Any) -> Cohort:
        made.append(Cohort(tmp_path / str(len(made)), job, count, **options))
        return made[-1]

    yield make
    for item in made:
        item.close()


def test_the_sum_of_all_is_kept_and_nobodys_levels_are(cohort: Callable[..., Cohort]) -> None:
    made = cohort(5)
    done = made.make()
    assert done.complete
    assert done.levels == made.expected(*NAMES[:5])
    assert done.members == NAMES[:5]
    assert done.floor == 4
    assert done.remarks == {}
    assert all(a.report is None for a in made.answers.all())


def test_a_sum_that_was_made_is_not_made_again(cohort: Callable[..., Cohort]) -> None:
    """With one client more, the difference of both sums would be that client's report."""
    made = cohort(4)
    first = made.make()
    sent = len(made.grid.sent)
    assert made.make() == first
    assert len(made.grid.sent) == sent


def test_a_new_session_sums_the_same_noisy_levels(cohort: Callable[..., Cohort]) -> None:
    noise = {"kind": "laplace", "epsilon": 1.0}
    made = cohort(4, noise=noise, limits={**POLICY["limits"], "epsilon_for_life": 2.0})
    totals = []
    for _ in range(3):
        totals.append(made.make().levels)
        made.sums.folder.joinpath(f"{made.job.cell('adabn')}.json").unlink()
    assert totals == [made.expected(*NAMES[:4])] * 3
    assert [ledger.epsilon for ledger in made.ledgers.values()] == [pytest.approx(1.0)] * 4
    assert {ledger.reports for ledger in made.ledgers.values()} == {1}


@pytest.mark.parametrize("floor", [4, 5])
def test_a_cohort_below_the_clients_floor_gets_no_sum_and_the_run_says_so(
    cohort: Callable[..., Cohort], floor: int
) -> None:
    done = cohort(floor - 1, floor=floor).make()
    assert not done.complete
    assert done.levels == {}
    assert "shares of 0 of" in done.why
    assert set(done.remarks.values()) == {"sum_share: it declined"}


@pytest.mark.parametrize("kind", [ADVERTISE, SHARE, MASK, UNMASK])
@pytest.mark.parametrize("dead", ["silent", "declines", "lost"])
def test_one_that_drops_out_is_left_out_and_named(cohort: Callable[..., Cohort], kind: str, dead: str) -> None:
    made = cohort(5)
    says = {"silent": None, "declines": Error(2, "x" * 9), "lost": Error(5, "")}[dead]

    def client(message: Message, context: Context) -> Message | None:
        if (context.node_id, message.metadata.message_type) != (1003, kind):
            return made.real(message, context)
        return Message(says, reply_to=message) if says else None

    made.change = client
    done = made.make()
    stays = kind == UNMASK
    assert done.complete
    assert done.levels == made.expected(*(n for n in NAMES[:5] if stays or n != "cleo"))
    assert ("cleo" in done.members) == stays
    assert list(done.remarks) == ["cleo"]
    assert done.remarks["cleo"].startswith(kind.removeprefix("query."))


def test_too_few_survivors_are_no_sum_and_the_next_run_makes_one(cohort: Callable[..., Cohort]) -> None:
    made = cohort(4)

    def client(message: Message, context: Context) -> Message | None:
        gone = message.metadata.message_type == MASK and context.node_id > 1002
        return None if gone else made.real(message, context)

    made.change = client
    done = made.make()
    assert not done.complete
    assert "vectors of 2 of 4 clients, 3 are needed" in done.why
    made.change = None
    assert made.make().levels == made.expected(*NAMES[:4])


HOSTILE: dict[str, Callable[[dict[str, Any]], RecordDict | None]] = {
    "nan": lambda _: metrics({"values": float("nan")}),
    "a metric record": lambda said: metrics({"values": [1, 2]}),
    "another name": lambda said: RecordDict({"sum": ConfigRecord(said)}),
    "nothing": lambda _: RecordDict({}),
    "a second record": lambda said: RecordDict({REPLY: ConfigRecord(said), "more": MetricRecord({"a": 1})}),
    "a key more": lambda said: RecordDict({REPLY: ConfigRecord({**said, "user": "alice"})}),
    "a key less": lambda said: RecordDict({REPLY: ConfigRecord(dict(list(said.items())[1:]))}),
    "garbage": lambda said: RecordDict({REPLY: ConfigRecord(dict.fromkeys(said, b"alice" * 9))}),
    "a megabyte": lambda said: RecordDict({REPLY: ConfigRecord(dict.fromkeys(said, bytes(1 << 20)))}),
    "floats": lambda said: RecordDict({REPLY: ConfigRecord(dict.fromkeys(said, 0.5))}),
}


@pytest.mark.parametrize(
    ("what", "kind"),
    [*((what, list(ROUNDS)[i % 4]) for i, what in enumerate(HOSTILE)), *(("a key more", kind) for kind in ROUNDS)],
)
def test_a_hostile_client_is_named_and_the_sum_of_the_others_is_right(
    cohort: Callable[..., Cohort], what: str, kind: str
) -> None:
    made = cohort(4)

    def client(message: Message, context: Context) -> Message | None:
        said = made.real(message, context)
        if (context.node_id, message.metadata.message_type) != (1002, kind):
            return said
        record = said.content[REPLY]
        assert isinstance(record, ConfigRecord)
        content = HOSTILE[what](dict(record))
        assert content is not None
        return answer(message, content)

    made.change = client
    done = made.make()
    stays = kind == UNMASK
    assert done.levels == made.expected(*(n for n in NAMES[:4] if stays or n != "bela"))
    assert list(done.remarks) == ["bela"]
    assert "alice" not in str(done)


def test_an_answer_of_another_node_counts_for_nobody(cohort: Callable[..., Cohort]) -> None:
    made = cohort(4)

    def client(message: Message, context: Context) -> Message | None:
        said = made.real(message, context)
        if context.node_id == 1002:
            said.metadata.__dict__["_src_node_id"] = 1003
        return said

    made.change = client
    done = made.make()
    assert done.levels == made.expected("anna", "cleo", "dora")
    assert done.remarks == {"bela": "sum_advertise: from another node"}


def test_a_gate_that_was_started_again_has_dropped_its_sums(cohort: Callable[..., Cohort]) -> None:
    made = cohort(5)

    def client(message: Message, context: Context) -> Message | None:
        if message.metadata.message_type == MASK and context.node_id == 1001:
            made.gates[1001] = ClientSums(made.gates[1001]._policy, made.ledgers[1001])
        return made.real(message, context)

    made.change = client
    done = made.make()
    assert done.levels == made.expected(*NAMES[1:5])
    assert done.remarks == {"anna": "sum_mask: it declined"}


def test_a_run_with_sums_takes_nobodys_own_levels_and_another_run_no_held_ones(tmp_path: Path, job: Job) -> None:
    def held(message: Message, context: Context) -> Message:
        if message.metadata.message_type != "train":
            return honest(message, context)
        return answer(message, metrics({"status": int(Status.HELD)}))

    for name, for_sum in (("with", True), ("without", False)):
        asked = job.model_copy(update={"secure_sum": for_sum, "nodes": 3})
        for client, fits in ((honest, not for_sum), (held, for_sum)):
            answers = Answers(tmp_path / name / client.__name__)
            assert collect(LocalGrid(client, 3, {}), asked, answers, LABELS, LIMITS) == (3 if fits else 0)
            assert {a.status.partition(" ")[0] for a in answers.all()} == (
                {"reported" if client is honest else "held"} if fits else {"rejected"}
            )
            assert all(a.report is None for a in answers.all()) or not for_sum


@pytest.mark.parametrize(("count", "sizes"), [(0, [0]), (5, [5]), (100, [100]), (101, [51, 50]), (250, [84, 83, 83])])
def test_a_large_federation_is_dealt_to_even_groups(count: int, sizes: list[int]) -> None:
    made = groups(range(count))
    assert [len(g) for g in made] == sizes
    assert all(len(g) <= MAX_COHORT for g in made)
    assert sorted(n for g in made for n in g) == list(range(count))


def test_the_table_says_what_was_summed_and_who_is_not_in_it(cohort: Callable[..., Cohort], job: Job) -> None:
    made = cohort(5)
    silent = {1003: SHARE}

    def client(message: Message, context: Context) -> Message | None:
        if silent.get(context.node_id) == message.metadata.message_type:
            return None
        return made.real(message, context)

    made.change = client
    done = made.make()
    outcome = Outcome(tuple(made.answers.all()), (), RunState("finished:completed", ""), (done,))
    assert outcome.partial
    console = Console(width=120, file=io.StringIO())
    print_outcome(outcome, console)
    text = console.file.getvalue()
    total = made.expected("anna", "bela", "dora", "eva")["confidence"]
    row = next(line for line in text.splitlines() if "confidence" in line)
    assert row.split() == ["adabn", "confidence", "4", "4", str(total), f"{total / 4 / TOP:.3f}"]
    assert "adabn, cleo: not in the sum; sum_share: no answer in time" in text
