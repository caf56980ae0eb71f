"""What the server's operator does through Flower's Control API: register clients, start a run, ask how it ended."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.cli.build import build_fab_from_files
from flwr.common.serde import fab_to_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext

from emgup_model.bundle import bundle_files
from emgup_model.errors import ConfigError, RunError
from emgup_server.deployment.folder import ServerFolder
from emgup_server.deployment.superlink import OPERATOR_HEADER


@dataclass(frozen=True)
class Node:
    """A registered client: Flower's id for its key, its label, and whether it is online."""

    id: int
    label: str
    status: str


@dataclass(frozen=True)
class RunState:
    """How Flower says a run stands (``finished:completed`` is good), and why."""

    status: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen."""
        return self.status.startswith("finished")

    @property
    def completed(self) -> bool:
        """Whether the ServerApp returned."""
        return self.status == "finished:completed"


class _Operator:
    """Shows the operator's secret with every request."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        context.request.headers[OPERATOR_HEADER] = self._secret
        return call_next(context)


T = TypeVar("T")


class Control:
    """A connection to the SuperLink of a folder. Methods raise RunError with one line when it does not do as asked."""

    def __init__(self, client: ControlHttpClient) -> None:
        self._client = client

    def register(self, public_key: Path, label: str | None) -> int:
        """Let the client with this public key in; returns its node id. Raises ConfigError for a file that is no key."""
        with _errors():
            answer = self._client.RegisterNode(RegisterNodeRequest(public_key=_read_key(public_key), name=label))
        return int(answer.node_id)

    def unregister(self, node: int) -> None:
        """Shut the client out."""
        with _errors():
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node))

    def nodes(self) -> list[Node]:
        """The registered clients."""
        with _errors():
            answer = self._client.ListNodes(ListNodesRequest())
        found = [Node(n.node_id, n.name or f"node-{n.node_id}", n.status) for n in answer.nodes_info]
        return sorted((n for n in found if n.status != "unregistered"), key=lambda n: (n.label, n.id))

    def start(self, job: Path, bundle: bytes) -> int:
        """Submit a bundle and what is asked for; returns the run's id."""
        request = StartRunRequest(
            fab=fab_to_proto(Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})),
            override_config=user_config_to_proto({"job": str(job)}),
        )
        with _errors():
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise RunError("the SuperLink did not start the run; see its log")
        return int(answer.run_id)

    def state(self, run: int) -> RunState:
        """How the run stands."""
        with _errors():
            found = self._client.ListRuns(ListRunsRequest(run_id=run)).run_dict
        if run not in found:
            raise RunError("the SuperLink does not know the run any more; was its database deleted?")
        status = found[run].status
        return RunState(":".join(p for p in (status.status, status.sub_status) if p), str(status.details))

    def stop(self, run: int) -> None:
        """End the run."""
        with _errors():
            self._client.StopRun(StopRunRequest(run_id=run))


@contextlib.contextmanager
def control(folder: ServerFolder) -> Iterator[Control]:
    """Connect to the SuperLink of a folder. Raises ConfigError when the folder is none."""
    client = ControlHttpClient.from_server_address(
        folder.config().local_address,
        insecure=False,
        root_certificates=folder.ca.read_bytes(),
        interceptors=[
            _Operator(folder.operator_secret.read_text().strip()),
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
        ],
    )
    try:
        yield Control(client)
    finally:
        client.close()


def build_bundle() -> bytes:
    """The app bundle: the same bytes on every machine with this version."""
    return build_fab_from_files(bundle_files())[0]


def _read_key(path: Path) -> bytes:
    try:
        key = load_ssh_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{path} holds no public key; the user finds it in HOME/keys/supernode.pub") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ConfigError(f"{path} holds a key of another kind; take the user's HOME/keys/supernode.pub")
    return public_key_to_bytes(key)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as e:
        known = FlowerError.from_json(e.response.text) if e.response.text.startswith("{") else None
        text = f"{known.message} {known.public_details or ''}".strip() if known else f"HTTP {e.response.status_code}"
        raise RunError(f"the SuperLink refused: {text}") from None
    except httpx.HTTPError as e:
        raise RunError(f"no SuperLink answers ({type(e).__name__}); start it with: emgup server start DIR") from None
