"""Who is let in: a real SuperLink and a real SuperNode, and callers that are not meant to be."""

from __future__ import annotations

import datetime
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, RegisterNodeFleetRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime import RuntimeHttpClient

from emgup_client.deployment.config import ClientHome
from emgup_client.egress import upstream
from emgup_client.egress.upstream import SuperLink, tls_context
from emgup_model.errors import RunError
from emgup_model.processes import end_with_parent, flower_environment, free_port
from emgup_server.deployment.certificates import new_authority
from emgup_server.deployment.control import control
from emgup_server.deployment.folder import ServerFolder
from tests.deployment.stage import Stage, stage, toy_user, wait_until

REFUSED = (400, 401, 403, 412)

pytestmark = [pytest.mark.slow, pytest.mark.flower]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("security")) as made:
        yield made


def activate(server: Stage, key: ec.EllipticCurvePrivateKey, root: Path | None = None) -> int:
    """HTTP status of a client's first call; 503 where not even TLS comes about."""
    root = root or server.server_folder / "for_clients" / "root_certificates.pem"
    link = SuperLink(f"127.0.0.1:{server.port}", tls_context(str(root)), key)
    request = ActivateNodeRequest(public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=30)
    try:
        return link.post("/v1/fleet/activate-node", request.SerializeToString()).status
    finally:
        link.close()


@pytest.fixture
def known(server: Stage, tmp_path: Path) -> ec.EllipticCurvePrivateKey:
    """The key of a client that was registered."""
    from emgup_client.egress.gate import read_supernode_key

    user = server.add_user(tmp_path.name, toy_user(0))
    return read_supernode_key(user.home / "keys" / "supernode")


def test_a_registered_key_is_let_in_and_an_unknown_one_is_not(server: Stage, known: ec.EllipticCurvePrivateKey) -> None:
    assert activate(server, known) == 200
    stranger = ec.generate_private_key(ec.SECP384R1())
    assert activate(server, stranger) in REFUSED
    root = server.server_folder / "for_clients" / "root_certificates.pem"
    link = SuperLink(f"127.0.0.1:{server.port}", tls_context(str(root)), stranger)
    register = RegisterNodeFleetRequest(public_key=public_key_to_bytes(stranger.public_key()))
    assert link.post("/v1/fleet/register-node", register.SerializeToString()).status in REFUSED
    link.close()
    assert activate(server, stranger) in REFUSED


def test_a_key_that_was_shut_out_is_not_let_in(
    server: Stage, known: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    assert activate(server, known) == 200
    with control(ServerFolder(server.server_folder)) as connection:
        mine = next(n for n in connection.nodes() if n.label == tmp_path.name)
        connection.unregister(mine.id)
    assert activate(server, known) in REFUSED


def test_an_old_signature_is_refused(
    server: Stage, known: ec.EllipticCurvePrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=10)
    monkeypatch.setattr(upstream, "now", lambda: old)
    assert activate(server, known) == 401
    monkeypatch.undo()
    assert activate(server, known) == 200


def test_a_server_of_another_authority_is_not_spoken_to(
    server: Stage, known: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    (tmp_path / "other.pem").write_bytes(new_authority()[0])
    assert activate(server, known, tmp_path / "other.pem") == 503


def test_plaintext_is_refused(server: Stage) -> None:
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{server.port}/health", timeout=5, trust_env=False)


def test_nobody_runs_anything_without_the_operators_secret(server: Stage) -> None:
    folder = ServerFolder(server.server_folder)
    secret = folder.operator_secret.read_text()
    try:
        folder.operator_secret.write_text("0" * 64)
        with control(folder) as connection, pytest.raises(RunError, match="401"):
            connection.nodes()
    finally:
        folder.operator_secret.write_text(secret)
    with control(folder) as connection:
        connection.nodes()


def acquire(address: str, root: bytes | None, secret: bytes | None) -> int:
    """HTTP status of a process that asks for tasks."""
    interceptors: list[object] = [RuntimeVersionHttpInterceptor(component_name="SuperExec")]
    if secret is not None:
        methods = frozenset({"/flwr.proto.Runtime/AcquireTask"})
        interceptors.append(SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods=methods))
    client = RuntimeHttpClient.from_server_address(address, root is None, root, interceptors)  # type: ignore[arg-type]
    try:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP, TaskType.SERVER_APP]))
        return 200
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()


def test_a_rogue_process_gets_no_server_task(server: Stage) -> None:
    folder = ServerFolder(server.server_folder)
    address, root = f"127.0.0.1:{server.port}", folder.ca.read_bytes()
    assert acquire(address, root, None) in (401, 403)
    assert acquire(address, root, b"0" * 64) in (401, 403)
    assert acquire(address, root, folder.superexec_secret.read_bytes()) == 200


def test_a_rogue_process_gets_no_task_of_a_client(server: Stage, tmp_path: Path) -> None:
    home = ClientHome(server.add_user("rogue", toy_user(0)).home)
    gate, port = free_port(), free_port()
    command = [sys.executable, "-m", "emgup_client.deployment.supernode", str(home.path)]
    command += ["--superlink", f"127.0.0.1:{gate}", "--root-certificates", str(home.root_certificates)]
    command += ["--auth-supernode-private-key", str(home.supernode_key), "--isolation", "process"]
    command += ["--superexec-auth-secret-file", str(home.superexec_secret), "--host", "127.0.0.1", "--port", str(port)]
    with (tmp_path / "supernode.log").open("wb") as log:
        supernode = subprocess.Popen(
            command,
            env=flower_environment(home.flower_home),
            stdout=log,
            stderr=log,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,
        )
    try:
        assert wait_until(lambda: b"Uvicorn running" in (tmp_path / "supernode.log").read_bytes(), 90)
        address = f"127.0.0.1:{port}"
        assert acquire(address, None, None) in (401, 403)
        assert acquire(address, None, b"0" * 64) in (401, 403)
        assert acquire(address, None, home.superexec_secret.read_bytes()) == 200
    finally:
        supernode.kill()
        supernode.wait()
