"""Three users, three clients, a SuperLink with TLS and node authentication, on 127.0.0.1: what crosses the wire."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import MetricRecord
from flwr.proto.fab_pb2 import GetFabRequest
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PullObjectRequest, PushObjectRequest
from flwr.proto.run_pb2 import GetRunRequest

from emgup_client.egress.audit import first_break, read_audit
from emgup_model.report_wire import TOP
from emgup_model.wire import Reply, Status
from emgup_server.transcript import read_transcript
from tests.deployment.stage import OPEN_POLICY, Stage, User, alive, emgup, stage, toy_user, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.flower]

CALLS = {
    "activate-node": ActivateNodeRequest,
    "deactivate-node": DeactivateNodeRequest,
    "send-node-heartbeat": SendNodeHeartbeatRequest,
    "pull-messages": PullMessagesRequest,
    "get-run": GetRunRequest,
    "get-fab": GetFabRequest,
    "pull-object": PullObjectRequest,
    "confirm-message-received": ConfirmMessageReceivedRequest,
    "push-messages": PushMessagesRequest,
    "push-object": PushObjectRequest,
}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("federation")) as made:
        for number, name in enumerate(("anna", "bela", "cleo")):
            made.add_user(name, toy_user(number)).start()
        for user in made.users:
            assert user.running is not None
            user.running.wait_until_up()
        yield made


@pytest.fixture(scope="module")
def finished(three: Stage) -> Stage:
    """The same after one run."""
    done = three.run("--method", "adabn", "--clients", 3, "--name", "first")
    assert "partial" not in done.stdout
    return three


def replies(user: User) -> list[Reply]:
    """What the wire saw of replies: every metric record, decoded."""
    out = []
    for path, body in user.relay.requests():
        if path == "/v1/fleet/push-object":
            content = PushObjectRequest.FromString(body).object_content
            if content.startswith(b"MetricRecord "):
                out.append(Reply.decode(dict(MetricRecord.inflate(content))))
    return out


def test_three_users_are_personalized_and_answer_once(finished: Stage) -> None:
    answers = finished.answers("first")
    assert {name: a.status for name, a in answers.items()} == dict.fromkeys(("anna", "bela", "cleo"), "reported")
    for user in finished.users:
        assert [p.name for p in user.cells] == [answers[user.name].cell]
        assert (user.cells[0] / "weights.safetensors").stat().st_size > 1000


def test_only_allowed_scalars_left_and_less_than_a_kilobyte_of_them(finished: Stage) -> None:
    for user in finished.users:
        said = replies(user)
        assert [r.status for r in said] == [Status.NEEDS_RELEASE, Status.HAVE_RELEASE, Status.REPORTED]
        report = said[-1].report
        assert report is not None
        assert list(report) == list(OPEN_POLICY["scalars"])
        assert all(0 <= level <= TOP for level in report.values())
        assert report == finished.answers("first")[user.name].report
        payload = objects = 0
        for path, body in user.relay.requests():
            assert type(CALLS[path.removeprefix("/v1/fleet/")].FromString(body)), path
            if path.endswith("/push-object"):
                content = PushObjectRequest.FromString(body).object_content
                objects += len(content)
                payload += len(content) if content.startswith(b"MetricRecord ") else 0
        print(f"{user.name}: {payload} bytes of metric records, {objects} bytes of objects up")
        assert payload <= 1024


def test_every_byte_on_the_wire_is_in_the_users_log_and_in_the_servers_transcript(finished: Stage) -> None:
    server = {
        bytes.fromhex(o["hex"])
        for line in read_transcript(finished.server_folder / "runs" / "first" / "transcript.jsonl")
        for o in line["objects"].values()
    }
    for user in finished.users:
        lines = read_audit(user.home)
        assert first_break(lines) is None
        logged = {(x["kind"], base64.b64decode(x["bytes"])) for x in lines if "bytes" in x}
        wire = {(path.removeprefix("/v1/fleet/"), body) for path, body in user.relay.requests()}
        assert wire == logged
        sent = {PushObjectRequest.FromString(b).object_content for kind, b in wire if kind == "push-object"}
        assert sent <= server
    assert server == {
        PushObjectRequest.FromString(body).object_content
        for user in finished.users
        for path, body in user.relay.requests()
        if path.endswith("/push-object")
    }


def test_names_and_paths_of_the_user_are_nowhere_on_the_wire(finished: Stage) -> None:
    for user in finished.users:
        stream = b"".join(bytes(s) for s in user.relay.up)
        for secret in (str(user.home), str(user.recordings), user.recordings.name, "r0_g0"):
            assert secret.encode() not in stream
            assert base64.b64encode(secret.encode()).rstrip(b"=")[:-2] not in stream


def test_a_second_run_sends_no_weights_again_and_costs_no_second_report(finished: Stage) -> None:
    weights = (finished.release / "weights.safetensors").read_bytes()
    before = {u.name: (u.uses("report"), u.cells[0].stat().st_mtime_ns) for u in finished.users}
    done = finished.run("--method", "adabn", "--clients", 3, "--name", "second")
    assert "partial" not in done.stdout
    for user in finished.users:
        reports, made = before[user.name]
        assert sum(bytes(stream).count(weights) for stream in user.relay.down) == 1
        assert user.uses("report") == reports == 1
        assert user.cells[0].stat().st_mtime_ns == made
        assert finished.answers("second")[user.name].report == finished.answers("first")[user.name].report
        assert [r.status for r in replies(user)[3:]] == [Status.HAVE_RELEASE, Status.REPORTED]


def test_what_is_complete_is_not_asked_for_again(finished: Stage) -> None:
    before = {u.name: len(list(u.relay.requests())) for u in finished.users}
    finished.run("--method", "adabn", "--clients", 3, "--name", "first")
    for user in finished.users:
        later = [path for path, _ in list(user.relay.requests())[before[user.name] :]]
        # a request is pulled before it is answered; an earlier answer may be repeated late on a busy machine
        assert not [p for p in later if p.endswith(("push-object", "pull-object"))]


def test_settings_of_the_server_are_refused(finished: Stage, tmp_path: Path) -> None:
    """A method that the client ships, with other settings, through the real runtime."""
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder
    from emgup_server.deployment.run import prepare, submit_and_follow

    folder = ServerFolder(finished.server_folder)
    run, job = prepare(folder, "changed", finished.release, ["emgup"], nodes=3)
    text = json.loads(json.dumps(job.model_dump(mode="json")))
    text["methods"]["emgup"]["ssa"]["epochs"] = 7
    run.job.unlink()
    changed = type(job).model_validate(text)
    run.save(changed)
    with control(folder) as connection:
        outcome = submit_and_follow(connection, run, changed, lambda _: None)
    assert not outcome.good
    assert {a.status for a in outcome.answers} == {"config_refused"}
    assert all(len(u.cells) == 1 for u in finished.users)


def test_a_bundle_changed_by_one_byte_never_runs(finished: Stage) -> None:
    from flwr.cli.build import build_fab_from_files

    from emgup_model.bundle import bundle_files
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder
    from emgup_server.deployment.run import prepare, submit_and_follow

    folder = ServerFolder(finished.server_folder)
    run, job = prepare(folder, "foreign", finished.release, ["adabn"], nodes=3, seed=1)
    other = {name: data.replace(b"1.0.0", b"1.0.1") for name, data in bundle_files().items()}
    with control(folder) as connection:
        outcome = submit_and_follow(connection, run, job, lambda _: None, build_fab_from_files(other)[0])
    assert not outcome.good
    assert not any(a.complete for a in outcome.answers)
    for user in finished.users:
        refused = [line["reason"] for line in read_audit(user.home) if not line["allowed"]]
        assert "the run's app bundle is not the pinned one" in refused
        assert len(user.cells) == 1
        assert not list((user.home / "flower" / "apps").glob("*"))


def test_status_audit_and_nodes_say_what_happened(finished: Stage) -> None:
    user = finished.users[0]
    said = emgup("client", "status", "--home", user.home).stdout
    assert "1 personalized models" in said
    assert "running  for" in said
    assert "the chain is intact" in emgup("client", "audit", "--home", user.home, "--verify").stdout
    listed = emgup("server", "nodes", finished.server_folder).stdout
    assert [line.split()[1:] for line in listed.splitlines()] == [[u.name, "online"] for u in finished.users]


def test_stopping_leaves_no_process(finished: Stage) -> None:
    user = finished.users[2]
    assert user.running is not None
    children = user.running.children()
    assert set(children) == {"gate", "supernode", "superexec"}
    user.stop()
    assert wait_until(lambda: not any(alive(p) for p in children.values()), 10)
    assert "running  no" in emgup("client", "status", "--home", user.home).stdout
