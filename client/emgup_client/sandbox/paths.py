"""Landlock: which files a process may touch and which TCP ports it may use; signals stay within the sandbox."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from landlockpy import AccessFS, AccessNet, Ruleset, Scope

from emgup_client.sandbox.rules import Rules

READ = AccessFS.READ_FILE | AccessFS.READ_DIR
_CHANGE = AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.MAKE_REG | AccessFS.MAKE_DIR | AccessFS.REFER
WRITE = READ | _CHANGE | AccessFS.REMOVE_FILE | AccessFS.REMOVE_DIR
DEVICE = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.IOCTL_DEV
OF_FILES = AccessFS.EXECUTE | AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE | AccessFS.IOCTL_DEV
"""Rights that a rule for a file, and not a folder, can hold."""
NAMES_PORT = 53


def restrict(rules: Rules) -> None:
    """Confine this process, which has one thread, and all that it starts. Raises OSError."""
    with Ruleset(scoped=Scope.ABSTRACT_UNIX_SOCKET | Scope.SIGNAL) as ruleset:
        for path, access in _accesses(rules):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                ruleset.allow_path(path, access if path.is_dir() else access & OF_FILES)
        for port in rules.connect:
            ruleset.allow_port(port, AccessNet.CONNECT_TCP)
        for port in rules.bind:
            ruleset.allow_port(port, AccessNet.BIND_TCP)
        if rules.names_by_udp:  # kernels that know rules for UDP
            ruleset.allow_port(NAMES_PORT, AccessNet.CONNECT_SEND_UDP)
            ruleset.allow_port(0, AccessNet.BIND_UDP)
        ruleset.restrict()


def _accesses(rules: Rules) -> Iterator[tuple[Path, AccessFS]]:
    yield from ((path, AccessFS.EXECUTE | AccessFS.READ_FILE) for path in rules.execute)
    yield from ((path, READ) for path in rules.read)
    yield from ((path, AccessFS.READ_DIR) for path in rules.names)
    yield from ((path, WRITE) for path in rules.write)
    yield from ((path, DEVICE) for path in rules.devices)
    if rules.local_sockets:  # kernels that know rules for connecting to them
        yield Path(f"/run/user/{os.getuid()}"), AccessFS.RESOLVE_UNIX
