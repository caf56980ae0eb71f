"""The gate as a process: TLS on both sides, Flower's own client before it, killed and started again."""

from __future__ import annotations

import base64
import http.server
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, MetricRecord, RecordDict
from flwr.proto.fleet_pb2 import ActivateNodeRequest, PullMessagesRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes, verify_signature
from flwr.supercore.protobuf.client import ProtobufRequestContext
from flwr.supernode import node_auth_http_interceptor as flower_auth
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from emgup_client.egress import gate
from emgup_client.egress.audit import first_break, read_audit
from emgup_client.egress.fleet import PREFIX
from emgup_client.egress.gate import POLICY as POLICY_FILE
from emgup_client.egress.gate import read_supernode_key
from emgup_client.egress.upstream import Answer
from emgup_model.config import dump_yaml
from emgup_model.errors import ConfigError
from emgup_model.processes import free_port
from tests.client.egress.runtime import make_certificates, make_node_key
from tests.client.egress.stub import NODE, PINNED, POLICY, REPORT, HandMadeNode, StubSuperLink, request


class Server:
    """The stub SuperLink behind real TLS; keeps the headers it was sent."""

    def __init__(self, stub: StubSuperLink, certificate: Path, key: Path) -> None:
        self.headers: list[dict[str, str]] = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                owner.headers.append(dict(self.headers))
                answer = stub.post(self.path, body)
                self.send_response(answer.status)
                self.send_header("content-length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Place:
    """A home, keys and certificates; gates are started in it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir(mode=0o700)
        (self.home / POLICY_FILE).write_text(dump_yaml(POLICY))
        self.ca, certificate, key = make_certificates(folder / "tls")
        self.stub = StubSuperLink()
        self.server = Server(self.stub, certificate, key)
        self.key_file = folder / "keys" / "node"
        self.key = make_node_key(self.key_file)
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None

    def command(self, **changes: str) -> list[str]:
        options = {
            "home": str(self.home),
            "listen": str(self.port),
            "superlink": f"127.0.0.1:{self.server.port}",
            "root-certificates": str(self.ca),
            "supernode-key": str(self.key_file),
            "bundle": PINNED,
            **changes,
        }
        flags = [item for name, value in options.items() for item in (f"--{name}", value)]
        return [sys.executable, "-m", "emgup_client.egress.gate", *flags]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}

    def start(self, **changes: str) -> None:
        with (self.folder / "gate.log").open("a") as log:
            self.process = subprocess.Popen(
                self.command(**changes), env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == f"listening on 127.0.0.1:{self.port}\n", self.log

    @property
    def log(self) -> str:
        return (self.folder / "gate.log").read_text()

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def client(self, key: ec.EllipticCurvePrivateKey | None = None) -> FleetHttpClient:
        """Flower's own client, as the SuperNode makes it."""
        key = key or self.key
        return FleetHttpClient.from_server_address(
            f"127.0.0.1:{self.port}",
            False,
            str(self.home / "gate" / "loopback.pem"),
            interceptors=[RuntimeVersionHttpInterceptor("SuperNode"), NodeAuthHttpInterceptor(key, key.public_key())],
        )

    @property
    def public(self) -> bytes:
        return public_key_to_bytes(self.key.public_key())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.stop(signal.SIGKILL)
    made.server.close()


class OverHttp(HandMadeNode):
    """The same calls, through Flower's client and the process."""

    def __init__(self, place: Place) -> None:
        self.superlink, self._client, self.public_key = place.stub, place.client(), place.public

    def call(self, name: str, message: Any) -> Any:
        http = self._client._client
        built = http.build_request(
            "POST",
            f"{self._client._base_url}{PREFIX}{name}",
            content=message.SerializeToString(deterministic=True),
            headers={"content-type": "application/protobuf"},
        )
        response = self._client._send(ProtobufRequestContext(name, message, built))
        return Answer(response.status_code, response.content)


def activate(client: FleetHttpClient, public: bytes) -> int:
    return int(client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=30)).node_id)


def status_of(place: Place, key: ec.EllipticCurvePrivateKey) -> int:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        activate(place.client(key), public_key_to_bytes(key.public_key()))
    return caught.value.response.status_code


def test_a_session_through_the_process_and_who_may_speak(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.start()
    client = place.client()
    assert activate(client, place.public) == NODE
    assert not client.PullMessages(PullMessagesRequest(node=Node(node_id=NODE))).messages_list
    headers = {k.lower(): v for k, v in place.server.headers[-1].items()}
    key = bytes_to_public_key(base64.b64decode(headers["flwr-public-key"]))
    assert verify_signature(key, headers["flwr-timestamp"].encode(), base64.b64decode(headers["flwr-signature"]))
    assert "." not in headers["flwr-timestamp"]
    assert set(headers) <= {
        *("host", "content-length", "content-type", "accept", "accept-encoding", "connection", "user-agent"),
        *("flwr-public-key", "flwr-timestamp", "flwr-signature"),
        *("flwr-package-name", "flwr-package-version", "flwr-component-name"),
    }

    said = list(place.stub.said)
    assert status_of(place, ec.generate_private_key(ec.SECP384R1())) == 400  # another key
    body = PullMessagesRequest(node=Node(node_id=NODE)).SerializeToString()
    url = f"127.0.0.1:{place.port}/v1/fleet/pull-messages"
    context = ssl.create_default_context(cafile=str(place.home / "gate" / "loopback.pem"))
    assert httpx.post(f"https://{url}", content=body, verify=context).status_code == 400  # no key, no version
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"http://{url}", content=body)  # plaintext
    old = flower_auth.now().replace(year=2020)
    monkeypatch.setattr(flower_auth, "now", lambda: old)
    with pytest.raises(httpx.HTTPStatusError):
        place.client().PullMessages(PullMessagesRequest(node=Node(node_id=NODE)))  # an old signature
    assert place.stub.said == said
    monkeypatch.undo()

    place.stop()
    lines = read_audit(place.home)
    assert first_break(lines) is None
    assert [line["kind"] for line in lines if not line["allowed"]] == ["caller"] * 3
    sent = [(line["kind"], base64.b64decode(line["bytes"])) for line in lines if "bytes" in line]
    assert sent == list(dict.fromkeys(place.stub.said))


@pytest.mark.slow
def test_the_budget_outlives_a_killed_gate(place: Place) -> None:
    place.start()
    node = OverHttp(place)
    node.activate()
    for cell in "bc":
        place.stub.queue.append(request(cell))
        message = node.pull()
        assert message is not None, place.log
        assert node.push(Message(RecordDict({"reply": MetricRecord(REPORT)}), reply_to=message))[-1] == 200
        node.answered()
    place.stop(signal.SIGKILL)
    place.start()
    node = OverHttp(place)
    node.activate()
    for cell in "db":  # a third report of the day is refused; the second cell's is repeated
        place.stub.queue.append(request(cell))
        message = node.pull()
        assert message is not None, place.log
        node.push(Message(RecordDict({"reply": MetricRecord(REPORT)}), reply_to=message))
        node.answered()
    assert place.stub.values == [REPORT] * 3
    place.stop()
    assert first_break(read_audit(place.home)) is None
    (place.home / "uses.jsonl").unlink()
    done = subprocess.run(place.command(), env=place.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "knows of 2 reports" in done.stderr


def test_a_superlink_with_a_wrong_certificate_hears_nothing(place: Place, tmp_path: Path) -> None:
    other, _, _ = make_certificates(tmp_path / "other")
    place.start(**{"root-certificates": str(other)})
    with pytest.raises(httpx.HTTPStatusError) as caught:
        activate(place.client(), place.public)
    assert caught.value.response.status_code == 503
    assert place.stub.said == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bundle": "abc"}, "SHA-256"),
        ({"supernode-key": "/nowhere"}, "no readable SuperNode key"),
        ({"root-certificates": "/nowhere"}, "no readable root certificate"),
    ],
)
def test_a_wrong_option_is_one_line(place: Place, change: dict[str, str], complaint: str) -> None:
    done = subprocess.run(place.command(**change), env=place.environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_that_others_can_read_is_refused(place: Place) -> None:
    place.key_file.chmod(0o644)
    with pytest.raises(ConfigError, match="0600"):
        read_supernode_key(place.key_file)


def test_the_gate_knows_one_flower(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "package_version", "1.42.0")
    assert gate.main(place.command()[3:]) == 2
    assert not (place.home / "audit.jsonl").exists()
