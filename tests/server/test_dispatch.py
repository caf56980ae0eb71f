from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Error, Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emgup_model.errors import RunError
from emgup_model.wire import Status
from emgup_server.dispatch import Tally, deal, dispatch, in_turn
from emgup_server.exchange import WorkersLostError, wait_for_nodes
from emgup_server.ledger import Cell, Ledger
from emgup_simulation.local import LocalGrid
from tests.federation import FAST
from tests.server.hostile import Client, against, answer, bad_clients, dying_worker, honest, metrics
from tests.toy import make_release

BAD = bad_clients()
LIMITS = dataclasses.replace(FAST, reply_timeout_s=0.2)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("release")
    make_release(Ed25519PrivateKey.generate()).write(folder)
    return folder


def run(client: Client, cells: list[Cell], folder: Path, release: Path, nodes: int = 2) -> tuple[Tally, Ledger]:
    ledger = Ledger(folder)
    grid = LocalGrid(client, nodes, {})
    return dispatch(grid, cells, {"f" * 64: release}, ledger, LIMITS), ledger


@pytest.mark.parametrize("nodes", [1, 2, 3, 20])
def test_every_cell_is_recorded_whatever_the_number_of_nodes(
    tmp_path: Path, cells: list[Cell], release: Path, nodes: int
) -> None:
    tally, ledger = run(honest, cells, tmp_path, release, nodes)
    assert tally == Tally(len(cells), {})
    assert not ledger.missing(cells)


def test_a_release_goes_down_once_to_each_node_that_lacks_it(tmp_path: Path, cells: list[Cell], release: Path) -> None:
    held: set[int] = {1001}

    def client(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.offer" and context.node_id not in held:
            return answer(message, metrics({"status": int(Status.NEEDS_RELEASE)}))
        held.add(context.node_id)
        return honest(message, context)

    grid = LocalGrid(client, 3, {})
    dispatch(grid, cells, {"f" * 64: release}, Ledger(tmp_path), FAST)
    sent = Counter((m.metadata.message_type, m.metadata.dst_node_id) for m in grid.sent)
    assert {k: n for k, n in sent.items() if k[0] == "query.offer"} == {("query.offer", 1001 + i): 1 for i in range(3)}
    assert {k: n for k, n in sent.items() if k[0] == "query.deliver"} == {("query.deliver", n): 1 for n in (1002, 1003)}
    assert sum(n for k, n in sent.items() if k[0] == "train") == len(cells)


@pytest.mark.parametrize("name", BAD)
def test_one_hostile_client_leaves_the_others_unharmed(
    tmp_path: Path, cells: list[Cell], release: Path, name: str
) -> None:
    tally, ledger = run(against("u3", BAD[name]), cells, tmp_path, release)
    assert tally.complete == len(cells) - 2
    assert {c.user for c in ledger.missing(cells)} == {"u3"}
    for row in ledger.rows(ledger.missing(cells)):
        assert row.status.startswith(("rejected", "client_error", "timeout"))
        assert "alice" not in row.status
        assert len(row.status) < 100


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(behaviour=st.lists(st.sampled_from(["honest", *(n for n in BAD if n != "silence")]), min_size=6, max_size=6))
def test_any_mixture_of_clients_leaves_the_honest_ones(
    tmp_path_factory: pytest.TempPathFactory, cells: list[Cell], release: Path, behaviour: list[str]
) -> None:
    client: Client = honest
    for user, name in enumerate(behaviour):
        if name != "honest":
            client = _also(client, f"u{user}", BAD[name])
    good = {f"u{i}" for i, name in enumerate(behaviour) if name == "honest"}
    tally, ledger = run(client, cells, tmp_path_factory.mktemp("cells"), release)
    assert {c.user for c in cells} - {c.user for c in ledger.missing(cells)} == good
    assert tally.complete == 2 * len(good)


def _also(client: Client, user: str, bad: Client) -> Client:
    marked = against(user, bad)
    from tests.server.hostile import asked_user

    return lambda m, c: (marked if asked_user(m) == user else client)(m, c)


@pytest.mark.parametrize("kind", ["query.offer", "query.deliver"])
@pytest.mark.parametrize("name", ["exception", "weights", "silence", "text"])
def test_a_node_that_does_not_take_the_release_loses_its_own_users_only(
    tmp_path: Path, cells: list[Cell], release: Path, kind: str, name: str
) -> None:
    def client(message: Message, context: Context) -> Message | None:
        if context.node_id == 1002 and message.metadata.message_type == kind:
            return BAD[name](message, context)
        if message.metadata.message_type == "query.offer":
            return answer(message, metrics({"status": int(Status.NEEDS_RELEASE)}))
        return honest(message, context)

    tally, ledger = run(client, cells, tmp_path, release)
    assert tally.complete == len(cells) / 2
    assert {r.status.partition(":")[0] for r in ledger.rows(ledger.missing(cells))} == {"no release"}


def test_a_reply_sent_twice_and_a_stray_one_change_nothing(tmp_path: Path, cells: list[Cell], release: Path) -> None:
    class Doubling(LocalGrid):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            replies = list(super().pull_messages(message_ids))
            stray = [answer(m, metrics({"status": int(Status.INTERNAL)})) for m in self.sent[:1]]
            for message in stray:
                message.metadata.__dict__["_reply_to_message_id"] = "nobody asked"
            again = [answer(m, metrics({"status": int(Status.INTERNAL)})) for m in self.sent if replies]
            return [*stray, *replies, *(a for a in again if a.metadata.reply_to_message_id not in message_ids)]

    ledger = Ledger(tmp_path)
    tally = dispatch(Doubling(honest, 2, {}), cells, {"f" * 64: release}, ledger, FAST)
    assert tally == Tally(len(cells), {})
    assert {r.status for r in ledger.rows(cells)} == {"ok"}


@pytest.mark.parametrize("deaths", [1, 5, 30])
def test_messages_that_died_with_their_worker_are_sent_again(
    tmp_path: Path, cells: list[Cell], release: Path, deaths: int
) -> None:
    limits = dataclasses.replace(FAST, losses=1000)
    ledger = Ledger(tmp_path)
    tally = dispatch(LocalGrid(dying_worker(deaths), 2, {}), cells, {"f" * 64: release}, ledger, limits)
    assert tally == Tally(len(cells), {})


def test_the_run_stops_when_every_worker_is_dead_and_keeps_what_it_has(
    tmp_path: Path, cells: list[Cell], release: Path
) -> None:
    answered = 0

    def client(message: Message, context: Context) -> Message:
        nonlocal answered
        if message.metadata.message_type == "train":
            if answered == 4:
                return Message(Error(0, "dead"), reply_to=message)
            answered += 1
        return honest(message, context)

    with pytest.raises(WorkersLostError, match="every worker is dead"):
        run(client, cells, tmp_path, release)
    ledger = Ledger(tmp_path)
    missing = ledger.missing(cells)
    assert len(missing) == len(cells) - 4
    assert all((e := ledger.read(c.key)) is not None and e.state == "lost" for c in missing)


def test_cells_that_failed_before_come_last(tmp_path: Path, cells: list[Cell]) -> None:
    ledger = Ledger(tmp_path)
    ledger.record_failure(cells[0], "lost", lost=True)
    order = in_turn(cells, ledger, deal([c.user for c in cells], [1, 2]))
    assert order[-1] == cells[0]
    assert sorted(order, key=lambda c: c.key) == cells


def test_users_are_dealt_round_robin_and_nodes_take_turns(tmp_path: Path, cells: list[Cell]) -> None:
    node_of = deal([c.user for c in cells], [1, 2, 3])
    assert Counter(node_of.values()) == {1: 2, 2: 2, 3: 2}
    order = [node_of[c.user] for c in in_turn(cells, Ledger(tmp_path), node_of)]
    assert order == [1, 2, 3] * 4


def test_too_few_nodes_is_an_error() -> None:
    with pytest.raises(RunError, match="1 of 2 nodes"):
        wait_for_nodes(LocalGrid(honest, 1, {}), 2, dataclasses.replace(FAST, node_wait_s=0.1))


def test_nodes_are_counted_once_their_number_has_settled() -> None:
    class Growing(LocalGrid):
        calls = 0

        def get_node_ids(self) -> list[int]:
            self.calls += 1
            return list(range(min(self.calls // 3, 5)))

    assert wait_for_nodes(Growing(honest, 5, {}), 1, dataclasses.replace(FAST, settle_s=0.1)) == [0, 1, 2, 3, 4]
