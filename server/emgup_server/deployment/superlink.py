"""`python -m emgup_server.deployment.superlink FOLDER`: Flower's SuperLink, with a guard in front of what is not Fleet.

Everything of a SuperLink is on one port: beside the Fleet API for clients, the Control API (starts runs, registers
clients) and the Runtime API (ServerApps), and Flower asks nobody on the Control API who he is.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import sys
from pathlib import Path
from typing import Any

from flwr.superlink import main as superlink
from flwr.superlink.cli.flower_superlink import flower_superlink
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emgup_model.replacing import replace
from emgup_server.deployment.folder import ServerFolder

OPERATOR_HEADER = "emgup-operator"
MAX_UP_BYTES = 1 << 16
"""Largest request from a client: an honest one takes a few hundred bytes."""


class Guard:
    """Fleet API: small requests of clients. Control API: with the operator's secret. Runtime API: from this machine."""

    def __init__(self, app: ASGIApp, secret: str) -> None:
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on, or refuse."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        path = str(scope["path"])
        if path.startswith("/v1/fleet/"):
            return await self._app(scope, _bounded(receive), send) if _small(scope) else await _refuse(413, scope, send)
        if path.startswith("/v1/control/"):
            given = dict(scope["headers"]).get(OPERATOR_HEADER.encode(), b"")
            if hmac.compare_digest(given, self._secret):
                return await self._app(scope, receive, send)
            return await _refuse(401, scope, send)
        if path == "/health" or (path.startswith("/v1/runtime/") and _local(scope)):
            return await self._app(scope, receive, send)
        return await _refuse(404, scope, send)


class TooLargeError(Exception):
    """A client sent more than it announced."""


def _bounded(receive: Receive) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > MAX_UP_BYTES:
            raise TooLargeError
        return message

    return bounded


def _small(scope: Scope) -> bool:
    length = dict(scope["headers"]).get(b"content-length", b"")
    return length.isdigit() and int(length) <= MAX_UP_BYTES


def _local(scope: Scope) -> bool:
    """Whether the caller is this machine: by a loopback address, or by the one that it called."""
    client, server = scope.get("client"), scope.get("server")
    if client is None:
        return False
    return ipaddress.ip_address(client[0]).is_loopback or (server is not None and client[0] == server[0])


async def _refuse(status: int, scope: Scope, send: Send) -> None:
    async def nothing() -> Message:
        return {"type": "http.disconnect"}

    await PlainTextResponse("refused\n", status)(scope, nothing, send)


def arguments(folder: ServerFolder) -> list[str]:
    """Flower's command line for the SuperLink of a folder. Raises ConfigError."""
    config = folder.config()
    return [
        "flower-superlink",
        *("--ssl-ca-certfile", str(folder.ca)),
        *("--ssl-certfile", str(folder.certificate)),
        *("--ssl-keyfile", str(folder.key)),
        "--enable-supernode-auth",
        *("--host", config.host),
        *("--port", str(config.port)),
        *("--database", str(folder.database)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(folder.superexec_secret)),
        "--disable-runtime-dependency-installation",
    ]


def main() -> None:
    """Serve until SIGTERM."""
    os.umask(0o077)  # Flower's database holds what clients answered
    folder = ServerFolder(Path(sys.argv[1]))
    secret = folder.operator_secret.read_text().strip()

    def guarded(*args: Any, **kwargs: Any) -> Any:
        app = create(*args, **kwargs)
        app.add_middleware(Guard, secret=secret)
        return app

    create = replace(superlink, "create_app", guarded)
    sys.argv = arguments(folder)
    flower_superlink()


if __name__ == "__main__":
    main()
