"""`emgup client start`: gate, SuperNode and the process that starts ClientApps, kept running together."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable

import httpx

from emgup_client.deployment.config import ClientConfig, ClientHome
from emgup_client.sandbox import roles
from emgup_client.sandbox.rules import Rules
from emgup_client.sandbox.support import in_words, sandbox_of
from emgup_client.vault import write_private
from emgup_model.errors import RunError
from emgup_model.lock import exclusive
from emgup_model.processes import Program, Tell, flower_environment, free_port, keep_running


def start(home: ClientHome, tell: Tell, up: Callable[[], None]) -> None:
    """Run until Ctrl-C or SIGTERM.

    Raises:
        ConfigError: the client's settings are wrong, or ask for a sandbox that this machine does not have.
        RunError: another client runs with the same folder, or a program does not start.
    """
    config = home.config()
    confined = sandbox_of(config.sandbox) is not None
    with exclusive(home.lock, RunError(f"a client with the folder {home.path} is running already")):
        if confined:
            roles.try_out(home)
        tell(f"sandbox: {in_words(config.sandbox)}")
        _keep_up(home, config, confined, tell, up)


def _keep_up(home: ClientHome, config: ClientConfig, confined: bool, tell: Tell, up: Callable[[], None]) -> None:
    gate_port, port = free_port(), free_port()
    runtime, gate = f"127.0.0.1:{port}", f"127.0.0.1:{gate_port}"

    def program(name: str, rules: Rules, command: list[str], ready: Callable[[], bool], hint: str = "") -> Program:
        environment = flower_environment(home.flower_home)
        if confined:
            command, environment = roles.confined(rules, command), environment | roles.environment(home, name)
        return Program(name, command, environment, ready, hint=hint)

    programs = [
        program("gate", roles.gate(home, config, gate_port), _gate(home, config, gate), lambda: _listening(gate)),
        program(
            "supernode",
            roles.supernode(home, gate_port, port),
            _supernode(home, gate, runtime),
            lambda: _healthy(runtime),
            hint="is the server up, and has it registered this client?",
        ),
        program("superexec", roles.superexec(home, config, port), _module("superexec", home, runtime), lambda: True),
    ]

    def note() -> None:
        write_private(home.state, json.dumps({"pid": os.getpid(), "since": time.time(), "runtime": runtime}))
        up()

    try:
        keep_running(programs, home.logs, tell, note)
    finally:
        home.state.unlink(missing_ok=True)


def _gate(home: ClientHome, config: ClientConfig, gate: str) -> list[str]:
    return [
        *(sys.executable, "-m", "emgup_client.egress.gate"),
        *("--home", str(home.path)),
        *("--listen", gate.rpartition(":")[2]),
        *("--superlink", config.superlink),
        *("--root-certificates", str(home.root_certificates)),
        *("--supernode-key", str(home.supernode_key)),
        *("--bundle", config.bundle_sha256),
    ]


def _supernode(home: ClientHome, gate: str, runtime: str) -> list[str]:
    """The SuperNode knows the gate only, by the gate's own certificate: nothing goes around it."""
    host, _, port = runtime.rpartition(":")
    return [
        *_module("supernode", home),
        *("--superlink", gate),
        *("--root-certificates", str(home.loopback_certificate)),
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


def _listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
