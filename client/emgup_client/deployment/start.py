"""`emgup client start`: SuperNode and the process that starts ClientApps, kept running together."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Callable

import httpx

from emgup_client.deployment.config import ClientHome
from emgup_client.vault import write_private
from emgup_model.errors import RunError
from emgup_model.processes import Program, Tell, flower_environment, keep_running


def start(home: ClientHome, tell: Tell, up: Callable[[], None]) -> None:
    """Run until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: the client's settings are wrong.
        RunError: another client runs with the same folder, or a program does not start.
    """
    config = home.config()
    lock = os.open(home.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RunError(f"a client with the folder {home.path} is running already") from None
    runtime = f"127.0.0.1:{free_port()}"
    environment = flower_environment(home.flower_home)
    programs = [
        Program("supernode", _supernode(home, config.superlink, runtime), environment, lambda: _healthy(runtime)),
        Program("superexec", _module("superexec", home, runtime), environment),
    ]

    def note() -> None:
        write_private(home.state, json.dumps({"pid": os.getpid(), "since": time.time(), "runtime": runtime}))
        up()

    try:
        keep_running(programs, home.logs, tell, note)
    finally:
        home.state.unlink(missing_ok=True)
        os.close(lock)


def _supernode(home: ClientHome, superlink: str, runtime: str) -> list[str]:
    host, _, port = runtime.rpartition(":")
    return [
        *_module("supernode", home),
        *("--superlink", superlink),
        *("--root-certificates", str(home.root_certificates)),
        *("--auth-supernode-private-key", str(home.supernode_key)),
        *("--isolation", "process"),
        *("--superexec-auth-secret-file", str(home.superexec_secret)),
        *("--host", host),
        *("--port", port),
    ]


def _module(name: str, home: ClientHome, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"emgup_client.deployment.{name}", str(home.path), *arguments]


def _healthy(runtime: str) -> bool:
    try:
        return httpx.get(f"http://{runtime}/health", timeout=1, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
