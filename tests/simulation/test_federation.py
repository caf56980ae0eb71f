"""The whole federation in one process: real ServerApp, real ClientApp, a grid without Ray."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.recorddict_pb2 import MetricRecord as MetricRecordProto

from emgup_client import app as client_app
from emgup_client.vault import EVALUATION, RECORD, WEIGHTS, VaultCell
from emgup_model import personalize as personalization
from emgup_model.errors import ConfigError, RunError
from emgup_model.evaluation.results import read_results
from emgup_model.lock import exclusive
from emgup_model.wire import PARTS, REPLY, Reply, Status
from emgup_server.ledger import Ledger
from emgup_server.transcript import read_transcript
from emgup_simulation.client_app import app
from emgup_simulation.local import LocalGrid
from emgup_simulation.run_config import read_run_config
from emgup_simulation.server_app import serve
from tests.federation import FAST, Toy, copy_of, make_sessions_store, make_toy
from tests.toy import GESTURES

CANARY = "canary-4711-/home/alice"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("federation"))


@pytest.fixture
def toy(prepared: Toy, tmp_path: Path) -> Toy:
    return copy_of(prepared, tmp_path / "run")


def federate(toy: Toy, client: object = app, nodes: int = 2) -> LocalGrid:
    grid = LocalGrid(client, nodes, toy.run_config)  # type: ignore[arg-type]
    serve(grid, toy.experiment, toy.run, FAST)
    return grid


def table(toy: Toy) -> list[object]:
    return [r.model_copy(update={"adapt_seconds": 0.0}) for r in read_results(toy.run.results)]


def test_all_users_of_all_folds_are_personalized_and_their_weights_stay(toy: Toy) -> None:
    federate(toy)
    rows = read_results(toy.run.results)
    assert {(r.user, r.method) for r in rows} == {(f"u{i}", m) for i in range(4) for m in ("source_only", "adabn")}
    assert {r.status for r in rows} == {"ok"}
    for cell in toy.cells:
        folder = toy.run.client_home / "vault" / cell.user / cell.key
        assert {WEIGHTS, EVALUATION, RECORD} <= {p.name for p in folder.iterdir()}
    assert toy.run.report.stat().st_size > 1000
    with toy.run.draws.open(newline="") as f:
        drawn = {(d["user"], d["gesture"]) for d in csv.DictReader(f) if int(d["windows"])}
    assert drawn == {(f"u{i}", g) for i in range(4) for g in GESTURES}
    assert json.loads(toy.run.summary.read_text())["methods"]


def test_each_user_gets_the_release_of_the_fold_that_never_saw_it(toy: Toy) -> None:
    federate(toy)
    folds = json.loads(toy.run.folds.read_text())["folds"]
    for path in (toy.run.client_home / "vault").glob(f"*/*/{EVALUATION}"):
        evaluation = json.loads(path.read_text())
        manifest = json.loads(
            (toy.run.client_home / "releases" / evaluation["release_id"] / "manifest.json").read_text()
        )
        fold = folds[manifest["fold"]]
        assert evaluation["user"] in fold["test"]
        assert evaluation["user"] not in fold["train"] + fold["validation"]


@pytest.mark.parametrize("nodes", [1, 3, 7])
def test_the_table_does_not_depend_on_the_number_of_nodes(prepared: Toy, tmp_path: Path, nodes: int) -> None:
    two, other = copy_of(prepared, tmp_path / "two"), copy_of(prepared, tmp_path / "other")
    federate(two)
    federate(other, nodes=nodes)
    assert table(two) == table(other)


def test_a_second_run_asks_nobody(toy: Toy) -> None:
    federate(toy)
    before = table(toy)
    assert federate(toy).sent == []
    assert table(toy) == before


def test_only_missing_cells_are_asked_for(toy: Toy) -> None:
    federate(toy)
    (toy.run.cells / f"{toy.cells[3].key}.json").unlink()
    grid = federate(toy)
    assert [m.metadata.message_type for m in grid.sent] == ["query.offer", "train"]


def test_a_stream_goes_through_the_federation(tmp_path: Path) -> None:
    sizes = {"block_s": 3.0, "memory_s": 9.0}
    toy = make_toy(tmp_path, protocols=["streaming"], scenarios=["balanced", "subset"], streaming=sizes)
    federate(toy)
    rows = read_results(toy.run.results)
    assert {(r.protocol, r.scenario, r.status) for r in rows} == {
        ("streaming", "balanced", "ok"),
        ("streaming", "subset", "ok"),
    }
    assert {r.n_windows for r in rows if r.scenario == "balanced"} == {6 * 29}
    assert {r.n_windows for r in rows if r.scenario == "subset"} == {4 * 29}
    assert all(r.accuracy == r.source_accuracy for r in rows if r.method == "source_only")
    assert any(r.accuracy != r.source_accuracy for r in rows if r.method == "adabn")


@pytest.fixture(scope="module")
def two_sessions(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    """Two protocols that adapt on the same windows."""
    folder: Path = tmp_path_factory.mktemp("sessions")
    make_sessions_store(folder / "store")
    return make_toy(folder, ["adabn"], protocols=["transductive", "later_sessions"], scenarios=["balanced", "subset"])


def test_a_shared_adaptation_gives_the_same_table_as_two(
    two_sessions: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, apart = copy_of(two_sessions, tmp_path / "shared"), copy_of(two_sessions, tmp_path / "apart")
    adapted: list[object] = []
    real = personalization.adapt
    monkeypatch.setattr(personalization, "adapt", lambda *task: (adapted.append(task), real(*task))[1])
    federate(shared)
    assert len(shared.cells) == 2 * len(adapted) == 16
    monkeypatch.setattr(VaultCell, "sibling", lambda *_: None)
    federate(apart)
    assert len(adapted) == 8 + 16
    assert table(shared) == table(apart)


@pytest.mark.parametrize("kept", [1, 5, 11])
def test_a_run_killed_between_cells_goes_on_to_the_same_table(two_sessions: Toy, tmp_path: Path, kept: int) -> None:
    whole, killed = copy_of(two_sessions, tmp_path / "whole"), copy_of(two_sessions, tmp_path / "killed")
    federate(whole)
    answered = 0

    def client(message: Message, context: Context) -> Message:
        nonlocal answered
        answered += message.metadata.message_type == "train"
        if answered > kept:
            raise KeyboardInterrupt
        return app(message, context)

    with pytest.raises(KeyboardInterrupt):
        federate(killed, client)
    records = sorted((killed.run.client_home / "vault").glob(f"*/*/{RECORD}"))
    records[0].unlink()  # as if it had died before the record of one was written
    federate(killed, nodes=3)
    assert table(whole) == table(killed)


def test_lost_replies_are_answered_from_the_vault_without_training(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    federate(toy)
    before = read_results(toy.run.results)
    for path in toy.run.cells.iterdir():
        path.unlink()
    monkeypatch.setattr(client_app, "personalize", lambda *_: pytest.fail("trained again"))
    federate(toy, nodes=3)
    assert read_results(toy.run.results) == before


def decode(line: dict[str, Any]) -> Reply:
    """The reply in one line of a transcript; fails on any byte that the reply does not account for."""
    objects = [bytes.fromhex(item["hex"]) for item in line["objects"].values()]
    kinds = {data.partition(b" ")[0]: data for data in objects}
    assert sorted(kinds) == [b"Message", b"MetricRecord", b"RecordDict"]
    assert len(objects) == 3
    body = {kind: data.partition(b"\x00")[2] for kind, data in kinds.items()}

    metrics = MetricRecordProto.FromString(body[b"MetricRecord"])
    assert {item.value.WhichOneof("value") for item in metrics.items} == {"sint64"}
    reply = Reply.decode({item.key: item.value.sint64 for item in metrics.items})
    record = MetricRecord(dict(reply.encode()))
    assert record.deflate() == kinds[b"MetricRecord"]  # a record made of the reply alone is the same bytes
    assert RecordDict({REPLY: record}).deflate() == kinds[b"RecordDict"]

    message = MessageProto.FromString(body[b"Message"])
    assert (message.content.ByteSize(), message.error.ByteSize()) == (0, 0)
    assert message.metadata.message_type in {"train", "query.offer", "query.deliver"}
    assert message.metadata.group_id == ""
    return reply


def test_nothing_but_bounded_integers_reached_the_server(toy: Toy) -> None:
    federate(toy)
    transcript = read_transcript(toy.run.transcript)
    assert all(line["error"] is None for line in transcript)
    assert all(item["intact"] and item["bytes"] < 512 for line in transcript for item in line["objects"].values())
    replies = [decode(line) for line in transcript]
    assert sum(r.status is Status.OK for r in replies) == len(toy.cells)
    assert {r.status for r in replies} == {Status.OK, Status.HAVE_RELEASE, Status.NEEDS_RELEASE}


def everything_the_server_has(toy: Toy) -> str:
    """All text below the run folder that is not the clients' own."""
    files = [p for p in toy.run.path.rglob("*") if p.is_file() and toy.run.client_home not in p.parents]
    raw = b"".join(p.read_bytes() for p in files)
    hidden = b"".join(
        bytes.fromhex(item.get("hex", ""))
        for line in read_transcript(toy.run.transcript)
        for item in line["objects"].values()
    )
    return (raw + hidden).decode("latin1")


def test_a_canary_in_an_exception_stays_with_the_client(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    real = client_app.personalize

    def fail(path: Path, *rest: object) -> object:
        if path.stem == "u2":
            print(CANARY)
            raise ValueError(f"{CANARY} {path}")
        return real(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(client_app, "personalize", fail)
    federate(toy)
    assert CANARY in (toy.run.client_home / "client.log").read_text()
    assert CANARY not in everything_the_server_has(toy)
    assert CANARY not in "".join(capfd.readouterr()) + caplog.text
    rows = {(r.user, r.status) for r in read_results(toy.run.results)}
    assert rows == {("u0", "ok"), ("u1", "ok"), ("u2", "internal"), ("u3", "ok")}
    monkeypatch.undo()
    federate(toy)  # failed cells are tried again
    assert {r.status for r in read_results(toy.run.results)} == {"ok"}


def test_recording_names_stay_with_the_client(toy: Toy) -> None:
    federate(toy)
    assert "r0_g0" not in everything_the_server_has(toy)


def test_a_run_in_which_no_client_gives_a_result_fails_but_writes_the_table(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_app, "personalize", lambda *_: 1 / 0)
    with pytest.raises(RunError, match="no client gave a result"):
        federate(toy)
    assert {r.status for r in read_results(toy.run.results)} == {"internal"}


def test_a_user_whose_file_is_damaged_fails_alone(toy: Toy, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(str(toy.experiment.store), store)
    run_config = {**toy.run_config, "overrides": f"store={store}"}

    def client(message: Message, context: Context) -> Message:
        (store / "u1.h5").write_bytes(b"not an HDF5 file")  # after preparation, which would refuse the store
        return app(message, context)

    experiment, run = read_run_config(run_config)
    serve(LocalGrid(client, 2, run_config), experiment, run, FAST)
    assert {(r.user, r.status) for r in read_results(run.results) if r.status != "ok"} == {("u1", "data_error")}


def test_two_runs_do_not_share_a_run_folder(toy: Toy) -> None:
    with (
        exclusive(toy.run.path / ".lock", toy.run.busy),
        pytest.raises(RunError, match="another run"),
        exclusive(toy.run.path / ".lock", toy.run.busy),
    ):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "nonsense"}, "unknown experiment"),
        ({"experiment": 5}, "must be a text"),
        ({"overrides": "seeds"}, "not of the form"),
        ({"overrides": "colour=red"}, "unknown key"),
        ({"overrides": "'"}, "quotation"),
    ],
)
def test_a_wrong_run_config_is_one_line(toy: Toy, change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_run_config({**toy.run_config, **change})
    assert "\n" not in str(caught.value)


def test_overrides_reach_the_experiment(toy: Toy) -> None:
    experiment, run = read_run_config({**toy.run_config, "overrides": "seeds=[1,2] methods=[adabn]"})
    assert experiment.seeds == (1, 2)
    assert list(experiment.methods) == ["adabn"]
    assert run.path == toy.run.path


def test_the_ledger_holds_what_the_vault_holds(toy: Toy) -> None:
    federate(toy)
    ledger = Ledger(toy.run.cells)
    for cell in toy.cells:
        record = json.loads((toy.run.client_home / "vault" / cell.user / cell.key / RECORD).read_text())
        reply = Reply.decode(record["reply"])
        entry = ledger.read(cell.key)
        assert entry is not None
        assert reply.status is Status.OK
        assert reply.result is not None
        assert entry.row.accuracy == reply.result.accuracy / PARTS
