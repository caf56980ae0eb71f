from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from safetensors.torch import load_file, save

from emgup_client import app as client_app
from emgup_client.app import ClientSettings, Subject, make_app
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import policy_levels
from emgup_client.vault import EVALUATION, RECORD, WEIGHTS
from emgup_model import personalize as personalization
from emgup_model.backbones import Backbone
from emgup_model.data.store import write_user
from emgup_model.errors import DataError
from emgup_model.keys import public_key, write_trusted
from emgup_model.methods import Adapted, MethodConfig, Target
from emgup_model.report_wire import CATALOGUE, value_of
from emgup_model.wire import (
    DELIVER,
    OFFER,
    REPLY,
    REQUEST,
    Offer,
    Reply,
    Result,
    Status,
    encode_request,
)
from tests.client.clients import Client
from tests.toy import make_release, toy_info, toy_recordings

KEY = Ed25519PrivateKey.generate()
CANARY = "canary-4711"


@pytest.fixture
def client(tmp_path: Path) -> Client:
    write_user(tmp_path / "u1.h5", toy_info("u1"), toy_recordings(1))
    write_trusted(tmp_path / "trusted", [public_key(KEY)])

    def subject(user: str | None) -> Subject:
        if user != "u1":
            raise DataError(f"no such user here: {CANARY}")
        return Subject("u1", tmp_path / "u1.h5")

    home = tmp_path / "home"
    settings = ClientSettings(home, tmp_path / "trusted", subject, threads=1)
    return Client(home, make_app(lambda _: settings), make_release(KEY))


def test_the_way_of_a_release_and_a_user(client: Client) -> None:
    assert client.offer() is Status.NEEDS_RELEASE
    assert client.deliver() is Status.HAVE_RELEASE
    assert client.offer() is Status.HAVE_RELEASE
    reply = client.personalize()
    assert reply.status is Status.OK
    assert reply.result is not None
    assert reply.result.n_windows > 0

    evaluation = json.loads((client.cell / EVALUATION).read_text())
    assert (evaluation["dataset"], evaluation["user"], evaluation["method"]) == ("toy", "u1", "adabn")
    assert sum(map(sum, evaluation["confusion_after"])) == reply.result.n_windows
    assert abs(evaluation["accuracy"] - reply.result.accuracy / 1e6) < 1e-6
    weights = load_file(client.cell / WEIGHTS)
    assert all(bool(torch.isfinite(t).all()) for t in weights.values())
    assert client.log == ""


def test_a_deployed_client_reports_what_its_policy_names(client: Client, tmp_path: Path) -> None:
    limits = {"reports_per_day": 1, "reports_for_life": 1, "statuses_per_day": 9, "statuses_for_life": 9, "pad_s": 0}
    scalars = {name: {"bits": 5} for name in ("predictions_changed", "confidence", "windows_log2")}
    policy = EgressPolicy.model_validate({"scalars": scalars, "noise": {"kind": "none"}, "limits": limits})
    settings = ClientSettings(
        client.home, tmp_path / "trusted", lambda _: Subject("u1", tmp_path / "u1.h5"), threads=1, policy=policy
    )
    deployed = Client(client.home, make_app(lambda _: settings), client.files)
    assert deployed.personalize().status is Status.RELEASE_REFUSED
    deployed.deliver()
    reply = deployed.personalize(user=None)
    assert reply.status is Status.REPORTED
    assert reply.report is not None
    assert policy_levels(policy, reply.report)
    evaluation = json.loads((client.cell / EVALUATION).read_text())
    for name, true in (
        ("confidence", evaluation["mean_confidence"]),
        ("windows_log2", math.log2(evaluation["n_windows"])),
    ):
        scalar = CATALOGUE[name]
        assert abs(value_of(name, reply.report[name]) - true) < (scalar.upper - scalar.lower) / 31
    assert deployed.personalize(user=None) == reply


def test_a_completed_cell_is_answered_without_training_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client.deliver()
    first = client.personalize()
    monkeypatch.setattr(client_app, "personalize", lambda *_: pytest.fail("trained again"))
    assert client.personalize() == first
    assert client.personalize(release_id="0" * 64) == first  # not even the release is needed any more


def test_a_cell_without_its_record_is_made_again(client: Client) -> None:
    client.deliver()
    first = client.personalize()
    (client.cell / RECORD).unlink()
    again = client.personalize()
    assert first.result is not None
    assert again.result is not None
    assert first.result.model_copy(update={"adapt_ms": 0}) == again.result.model_copy(update={"adapt_ms": 0})


def test_the_record_names_the_scenario_and_it_changes_the_adaptation(client: Client) -> None:
    client.deliver()
    one, other = client.personalize(), client.personalize(cell="b" * 64, scenario="subset")
    assert one.result is not None
    assert other.result is not None
    assert one.result.n_windows == other.result.n_windows
    names = [json.loads((client.cell.parent / (c * 64) / EVALUATION).read_text())["scenario"] for c in "ab"]
    assert names == ["balanced", "subset"]
    assert (client.cell / WEIGHTS).read_bytes() != (client.cell.parent / ("b" * 64) / WEIGHTS).read_bytes()


def test_a_stream_is_recorded_with_its_sizes_and_weights(client: Client) -> None:
    client.deliver()
    sizes = {"block_s": 4.0, "memory_s": 8.0}
    reply = client.personalize(protocol="streaming", streaming=json.dumps(sizes))
    assert reply.status is Status.OK
    evaluation = json.loads((client.cell / EVALUATION).read_text())
    assert evaluation["streaming"] == sizes
    assert evaluation["log"]["adaptations"] == 5
    assert (client.cell / WEIGHTS).exists()


@pytest.fixture
def adaptations(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The methods that were run, one entry per adaptation."""
    made: list[str] = []
    real = personalization.adapt

    def counted(model: Backbone, target: Target, config: MethodConfig, seed: int) -> Adapted:
        made.append(config.kind)
        return real(model, target, config, seed)

    monkeypatch.setattr(personalization, "adapt", counted)
    return made


def two_sessions(client: Client) -> None:
    client.deliver()
    later = [dataclasses.replace(r, name=f"later_{r.name}", session=1) for r in toy_recordings(2)]
    write_user(client.home.parent / "u1.h5", toy_info("u1"), [*toy_recordings(1), *later])


def without_time(reply: Reply) -> Result:
    assert reply.result is not None
    return reply.result.model_copy(update={"adapt_ms": 0})


def test_two_protocols_that_adapt_alike_adapt_once(client: Client, adaptations: list[str]) -> None:
    two_sessions(client)
    fresh = client.personalize(protocol="later_sessions")
    client.personalize(cell="b" * 64, protocol="transductive")
    shared = client.personalize(cell="c" * 64, protocol="later_sessions")
    assert adaptations == ["adabn"]
    assert shared == fresh  # the reported time too is that of the one adaptation
    files = [(client.cell.parent / (c * 64) / WEIGHTS).read_bytes() for c in "abc"]
    assert files[0] == files[1] == files[2]
    records = [json.loads((client.cell.parent / (c * 64) / EVALUATION).read_text()) for c in "ac"]
    assert records[0] == records[1]


@pytest.mark.parametrize("change", [{"scenario": "subset"}, {"seed": 1}, {"protocol": "inductive"}])
def test_another_adaptation_is_not_reused(client: Client, adaptations: list[str], change: dict[str, object]) -> None:
    two_sessions(client)
    client.personalize()
    client.personalize(cell="b" * 64, **change)
    assert len(adaptations) == 2


def forge(cell: Path, weights: bytes) -> None:
    """Other weights, with a record that agrees with them."""
    (cell / WEIGHTS).write_bytes(weights)
    record = json.loads((cell / RECORD).read_text())
    record["sha256"][WEIGHTS] = hashlib.sha256(weights).hexdigest()
    (cell / RECORD).write_text(json.dumps(record))


@pytest.mark.parametrize("damage", ["weights", "evaluation", "record", "forged", "other shape"])
def test_a_tampered_neighbour_is_not_reused(client: Client, adaptations: list[str], damage: str) -> None:
    two_sessions(client)
    client.personalize()
    fresh = client.personalize(cell="b" * 64, protocol="later_sessions", method_name="x")
    shutil.rmtree(client.cell.parent / ("b" * 64))
    assert adaptations == ["adabn"]
    if damage == "forged":
        forge(client.cell, b"no safetensors")
    elif damage == "other shape":
        forge(client.cell, save({"w": torch.zeros(3)}))
    elif damage == "record":
        (client.cell / RECORD).unlink()
    else:
        path = client.cell / {"weights": WEIGHTS, "evaluation": EVALUATION}[damage]
        path.write_bytes(flip(path.read_bytes()))
    again = client.personalize(cell="b" * 64, protocol="later_sessions")
    assert adaptations == ["adabn"] * 2
    assert without_time(again) == without_time(fresh)


def flip(data: bytes) -> bytes:
    return data[:50] + bytes([data[50] ^ 1]) + data[51:]


@pytest.mark.parametrize("part", ["manifest", "signature", "weights"])
def test_a_release_with_a_flipped_bit_is_refused_and_leaves_no_trace(client: Client, part: str) -> None:
    bad = dataclasses.replace(client.files, **{part: flip(getattr(client.files, part))})
    assert client.deliver(bad) is Status.RELEASE_REFUSED
    assert not list((client.home / "releases").glob("*")) or not (client.home / "releases").exists()


def test_a_release_signed_by_a_stranger_is_refused(client: Client) -> None:
    assert client.deliver(make_release(Ed25519PrivateKey.generate())) is Status.RELEASE_REFUSED


def test_a_cached_release_is_verified_before_any_recording_is_opened(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    client.deliver()
    weights = client.home / "releases" / client.files.id / "weights.safetensors"
    weights.write_bytes(flip(weights.read_bytes()))
    monkeypatch.setattr(client_app, "personalize", lambda *_: pytest.fail("recordings were opened"))
    assert client.personalize().status is Status.RELEASE_REFUSED
    assert client.offer() is Status.NEEDS_RELEASE
    assert client.deliver() is Status.HAVE_RELEASE  # mended
    assert client.offer() is Status.HAVE_RELEASE


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"method": "{"}, Status.CONFIG_REFUSED),
        ({"method": "[" * 9000}, Status.CONFIG_REFUSED),
        ({"method": '{"kind": "oracle"}'}, Status.CONFIG_REFUSED),
        ({"method": '{"kind": "adabn", "unknown": 1}'}, Status.CONFIG_REFUSED),
        ({"user": "u2"}, Status.DATA_ERROR),
        ({"user": None}, Status.DATA_ERROR),
        ({"protocol": "later_sessions"}, Status.NOT_APPLICABLE),
        ({"protocol": "streaming"}, Status.CONFIG_REFUSED),
        ({"protocol": "streaming", "streaming": "{"}, Status.CONFIG_REFUSED),
        ({"protocol": "streaming", "streaming": '{"block_s": 0}'}, Status.CONFIG_REFUSED),
        ({"streaming": "{}"}, Status.CONFIG_REFUSED),
        ({"release_id": "0" * 64}, Status.RELEASE_REFUSED),
    ],
)
def test_what_cannot_be_done_is_one_code_and_nothing_is_saved(
    client: Client, changes: dict[str, object], status: Status
) -> None:
    client.deliver()
    assert client.personalize(**changes) == Reply(status=status)
    assert not list((client.home / "vault").rglob(WEIGHTS))
    assert not list((client.home / "vault").rglob(RECORD))


@pytest.mark.parametrize(
    "error",
    [ValueError(CANARY), OSError(28, CANARY), KeyError(CANARY), SystemExit(CANARY), RecursionError(CANARY)],
    ids=lambda e: type(e).__name__,
)
def test_the_text_of_an_exception_stays_in_the_clients_log(
    client: Client, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], error: BaseException
) -> None:
    def fail(*_: object) -> None:
        print(f"printed {CANARY}")
        raise error

    client.deliver()
    monkeypatch.setattr(client_app, "personalize", fail)
    reply = client.personalize()
    assert reply.status is (Status.STORAGE_ERROR if isinstance(error, OSError) else Status.INTERNAL)
    assert client.log.count(CANARY) >= 2
    assert CANARY not in "".join(capfd.readouterr())
    monkeypatch.undo()
    assert client.personalize().status is Status.OK  # the failure was not a crash and left nothing behind


def test_a_full_disk_keeps_nothing_half(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from emgup_client import vault

    real = vault.write_private

    def full(path: Path, data: bytes | str) -> None:
        if path.name == EVALUATION:
            raise OSError(28, "No space left on device")
        real(path, data)

    client.deliver()
    monkeypatch.setattr(vault, "write_private", full)
    assert client.personalize().status is Status.STORAGE_ERROR
    assert not (client.cell / RECORD).exists()
    monkeypatch.undo()
    assert client.personalize().status is Status.OK


def test_a_cell_that_keeps_killing_its_process_is_given_up_and_may_be_tried_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Stands for the end of the process: no handler runs."""

    def die(*_: object) -> None:
        raise Killed

    client.deliver()
    monkeypatch.setattr(client_app, "personalize", die)
    monkeypatch.setattr("emgup_client.vault.VaultCell.end", lambda self: None)
    for _ in range(3):
        with pytest.raises(Killed):
            client.personalize()
    monkeypatch.undo()
    assert client.personalize().status is Status.CRASHED
    assert client.personalize().status is Status.OK


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("train", RecordDict({})),
        ("train", RecordDict({REQUEST: MetricRecord({"a": 1})})),
        ("train", RecordDict({REQUEST: ConfigRecord({"release_id": "x"}), "more": ConfigRecord({})})),
        ("train", RecordDict({REQUEST: ConfigRecord({"release_id": "x"})})),
        ("train", RecordDict({"arrays": ArrayRecord([])})),
        (f"query.{OFFER}", RecordDict({REQUEST: ConfigRecord({"release_id": "../../etc"})})),
        (f"query.{DELIVER}", RecordDict({REQUEST: ConfigRecord({"manifest": b"", "signature": b"", "weights": b""})})),
    ],
)
def test_a_malformed_request_is_refused(client: Client, kind: str, content: RecordDict) -> None:
    answer = client.send(kind, content)
    assert Reply.decode(answer.content.metric_records[REPLY]) == Reply(status=Status.REQUEST_REFUSED)


def hostile_contents() -> Iterator[tuple[str, RecordDict]]:
    yield "an array", RecordDict({"weights": ArrayRecord([])})
    yield "a text", RecordDict({REPLY: ConfigRecord({"note": CANARY})})
    yield "a second record", RecordDict({REPLY: MetricRecord({"status": 1}), "more": MetricRecord({"x": 1})})
    yield "a float", RecordDict({REPLY: MetricRecord({"status": 1.0})})
    yield "a list", RecordDict({REPLY: MetricRecord({"status": [1, 2, 3]})})
    yield "a long key", RecordDict({REPLY: MetricRecord({"k" * 10_000: 1})})
    yield "nothing", RecordDict({})


@pytest.mark.parametrize(("name", "content"), list(hostile_contents()), ids=[n for n, _ in hostile_contents()])
def test_the_exporter_builds_its_own_reply(
    client: Client, monkeypatch: pytest.MonkeyPatch, name: str, content: RecordDict
) -> None:
    monkeypatch.setattr(client_app, "_answer", lambda reply, message: Message(content, reply_to=message))
    assert client.offer() is Status.INTERNAL


def test_the_exporter_never_hands_on_the_apps_own_objects(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Message] = []

    def answer(reply: Reply, message: Message) -> Message:
        made.append(Message(RecordDict({REPLY: MetricRecord(dict(reply.encode()))}), reply_to=message))
        return made[-1]

    monkeypatch.setattr(client_app, "_answer", answer)
    out = client.send(
        f"query.{OFFER}", RecordDict({REQUEST: ConfigRecord(dict(encode_request(Offer(release_id="0" * 64))))})
    )
    assert out is not made[0]
    assert out.content is not made[0].content
    assert out.content[REPLY] is not made[0].content[REPLY]


def test_a_home_that_cannot_be_used_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "home").write_text("a file is in the way")
    subject: Callable[[str | None], Subject] = lambda _: Subject("u1", tmp_path / "u1.h5")  # noqa: E731
    settings = ClientSettings(tmp_path / "home", tmp_path / "trusted", subject)
    client = Client(tmp_path / "home", make_app(lambda _: settings), make_release(KEY))
    assert client.offer() is Status.STORAGE_ERROR
    assert capfd.readouterr() == ("", "")
