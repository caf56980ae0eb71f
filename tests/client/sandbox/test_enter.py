"""Entering a sandbox: the command becomes what it was, ends as it did, and never runs unconfined."""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from emgup_client.sandbox import roles, runtime
from emgup_client.sandbox.rules import Rules
from emgup_client.sandbox.sockets import make_filter
from emgup_client.sandbox.support import look
from tests.deployment.stage import alive, wait_until

pytestmark = pytest.mark.skipif(not look().complete, reason=f"no whole sandbox here: {look()}")
PLAIN = Rules(execute=runtime.programs(), read=runtime.readable(), names=runtime.listable())


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def connected(listening: socket.socket) -> Rules:
    return PLAIN.model_copy(update={"only_to": listening.getsockname()[1]})


def enter(rules: Rules, code: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = roles.confined(rules, [sys.executable, "-c", code], *options)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("with_sockets", [False, True])
def test_a_command_prints_and_ends_as_without(listening: socket.socket, with_sockets: bool) -> None:
    rules = connected(listening) if with_sockets else PLAIN
    done = enter(rules, "import sys; print('here'); sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "here\n", "")


def test_a_socket_comes_connected_whatever_was_asked_for(listening: socket.socket) -> None:
    ask = """
import socket
for blocking in (True, False):
    s = socket.socket()
    if not blocking:
        s.settimeout(5)
    s.connect(("192.0.2.1", 9))
    print(s.getpeername(), s.getblocking(), s.get_inheritable())
"""
    done = enter(connected(listening), ask)
    peer = listening.getsockname()
    assert done.stdout.splitlines() == [f"{peer} True False", f"{peer} True False"], done.stderr


def test_nobody_listens_and_the_socket_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as made:
        rules = connected(made)
    done = enter(rules, "import socket; socket.socket()")
    assert "ConnectionRefusedError" in done.stderr


def test_what_a_command_starts_is_confined_too(listening: socket.socket) -> None:
    inner = "import socket; socket.create_connection(('192.0.2.1', 9)); open('/etc/passwd')"
    done = enter(connected(listening), f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])")
    assert "PermissionError" in done.stderr
    assert "/etc/passwd" in done.stderr


def test_no_program_but_python_is_run() -> None:
    assert "PermissionError" in enter(PLAIN, "import subprocess; subprocess.run(['/bin/true'])").stderr
    done = subprocess.run(roles.confined(PLAIN, ["/bin/true"]), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("sandbox: [Errno 13]")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("rules", ["{}x", '{"reed": []}', '{"only_to": 0}', '{"connect": ["a"]}'])
def test_rules_that_are_none_start_nothing(rules: str) -> None:
    command = [sys.executable, "-m", "emgup_client.sandbox.enter", "--rules", rules, sys.executable, "-c", "print(1)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""


def test_a_port_that_is_none_starts_nothing() -> None:
    done = enter(Rules(connect=(99999,)), "print(1)")
    assert (done.returncode, done.stdout) == (2, "")
    assert "port out of range" in done.stderr


STAY = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"


def stay(rules: Rules) -> tuple[subprocess.Popen[str], int]:
    """A command that stays, and the process id of what it runs."""
    command = roles.confined(rules, [sys.executable, "-c", STAY])
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_with_the_maker_of_sockets_ends_the_command(listening: socket.socket, number: signal.Signals) -> None:
    process, below = stay(connected(listening))
    assert below != process.pid
    process.send_signal(number)
    process.wait(20)
    assert wait_until(lambda: not alive(below), 20)
    assert process.stdout is not None
    process.stdout.close()


def test_a_killed_command_ends_the_maker_of_sockets(listening: socket.socket) -> None:
    process, below = stay(connected(listening))
    os.kill(below, signal.SIGKILL)
    assert process.wait(20) == 128 + signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def test_the_command_ends_with_whoever_started_it(listening: socket.socket) -> None:
    command = roles.confined(connected(listening), [sys.executable, "-c", STAY], "--watch", "PID")
    starter = f"""
import os, subprocess
command = [str(os.getpid()) if word == "PID" else word for word in {command!r}]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
    print(process.stdout.readline(), end="", flush=True)
    os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", starter], capture_output=True, text=True, timeout=60, check=True)
    assert wait_until(lambda: not alive(int(done.stdout)), 20)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("rules", [Rules(), Rules(only_to=1), Rules(names_by_udp=True), Rules(local_sockets=True)])
def test_the_filter_can_be_made_for_each_processor(machine: str, rules: Rules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert len(make_filter(rules).program) % 8 == 0


paths = st.lists(st.text(min_size=1).map(lambda t: Path("/", t.replace("\0", ""))), max_size=3).map(tuple)
ports = st.lists(st.integers(1, 65535), max_size=3).map(tuple)


@given(st.builds(Rules, read=paths, write=paths, connect=ports, only_to=st.none() | st.integers(1, 65535)))
def test_rules_survive_the_command_line(rules: Rules) -> None:
    assert Rules.model_validate_json(roles.confined(rules, ["x"])[4]) == rules


@given(st.text())
def test_other_text_is_no_rules(text: str) -> None:
    with contextlib.suppress(ValidationError):
        assert isinstance(Rules.model_validate_json(text), Rules)
