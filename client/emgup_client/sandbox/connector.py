"""Runs a command whose every socket is connected to one port of 127.0.0.1 by this process, whatever it asks for.

The kernel's rules know ports, not addresses: a program that may connect to a port of this machine may connect to the
same port of any other. So the command makes no connection: its calls of socket() are answered by this process with one
that is connected already (seccomp user notification), and its calls of connect() do nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import select
import signal
import socket
from types import FrameType

from seccompy import SeccompError
from seccompy.notify import Listener, Notification

from emgup_client.sandbox.paths import restrict as restrict_paths
from emgup_client.sandbox.rules import Rules
from emgup_client.sandbox.sockets import restrict as restrict_sockets

PR_SET_PDEATHSIG = 1
LOOK_MS = 500
PATIENCE_S = 10.0
REFUSED = 2
"""Exit status when the sandbox cannot be made; no restart would help."""


def run_connected(rules: Rules, command: list[str], watched: int | None) -> int:
    """Run ``command`` below this process to its end; returns its exit status.

    Args:
        rules: of the command, with ``only_to``.
        command: with arguments.
        watched: the parent's process id; when it is gone, the command is sent SIGINT.

    Raises:
        OSError: the sandbox cannot be made; the command did not start.
    """
    here, there = socket.socketpair()
    me, child = os.getpid(), os.fork()
    if child == 0:
        here.close()
        _become(rules, command, me, there)
    there.close()
    _pass_signals_on(child)
    with here:
        _, handed, _, _ = socket.recv_fds(here, 1, 1)
    if not handed:
        return _exit_status(child)
    assert rules.only_to is not None
    with Listener(handed[0]) as listener:
        _serve(listener, child, rules.only_to, watched)
    return _exit_status(child)


def _become(rules: Rules, command: list[str], parent: int, there: socket.socket) -> None:
    """In the child: confine it, hand the parent the listener, run the command. Does not return."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(REFUSED)
        restrict_paths(rules)
        listener = restrict_sockets(rules)
        assert listener is not None
        socket.send_fds(there, [b"x"], [listener.fileno()])
        os.execv(command[0], command)
    except (OSError, ValueError) as e:
        with contextlib.suppress(OSError):
            os.write(2, f"sandbox: {e}\n".encode())
    finally:
        os._exit(REFUSED)


def _pass_signals_on(child: int) -> None:
    def pass_on(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)


def _serve(listener: Listener, child: int, port: int, watched: int | None) -> None:
    """Answer requests for sockets until the child has ended."""
    ended = os.pidfd_open(child)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(listener.fileno(), select.POLLIN)
    try:
        while True:
            for fd, event in poll.poll(LOOK_MS):
                if fd == ended:
                    return
                if event & select.POLLIN:
                    _answer(listener, port)
                else:
                    poll.unregister(fd)
            if watched is not None and os.getppid() != watched:
                os.kill(child, signal.SIGINT)
                watched = None
    finally:
        os.close(ended)


def _answer(listener: Listener, port: int) -> None:
    """Give the process that asks a socket that is connected; it may have been killed meanwhile."""
    with contextlib.suppress(SeccompError):
        asked = listener.recv()
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as connected:
                connected.setblocking(not asked.args[1] & socket.SOCK_NONBLOCK)
                _hand_over(listener, asked, connected)
        except OSError as e:
            listener.respond(asked.id, error=e.errno or errno.ETIMEDOUT)


def _hand_over(listener: Listener, asked: Notification, connected: socket.socket) -> None:
    close_on_exec = os.O_CLOEXEC if asked.args[1] & socket.SOCK_CLOEXEC else 0
    fd = listener.addfd(asked.id, connected.fileno(), newfd_flags=close_on_exec)
    listener.respond(asked.id, val=fd)


def _exit_status(child: int) -> int:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code
