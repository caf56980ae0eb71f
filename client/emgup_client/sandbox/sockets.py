"""Seccomp: which sockets a process may make, and a few calls that Landlock does not see.

What Landlock leaves open and is closed here: datagrams and every other kind of socket, Multipath TCP, connections by
TCP Fast Open, io_uring, listening without binding, Unix sockets by path (the session's D-Bus), other programs' shared
memory and kernel keys, watching folders, and modes and access lists that let other users in.
"""

from __future__ import annotations

import errno
import platform
import socket

from seccompy import ArgCmp, CmpOp, Filter, FilterFlag, syscall_nr
from seccompy.notify import Listener

from emgup_client.sandbox.rules import Rules

LOW = 0xFFFFFFFF
"""The kernel looks at the lower half of an argument that is an int."""
TYPE = 0xF
FAST_OPEN = 0x20000000
OTHERS = 0o077
NEVER: tuple[str | int, ...] = (
    *("io_uring_setup", "io_uring_enter", "io_uring_register"),
    *("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd"),
    *("shmget", "shmat", "msgget", "semget", "mq_open"),
    *("add_key", "keyctl", "request_key"),
    *("setxattr", "lsetxattr", "fsetxattr", 463),  # setxattrat
    *("inotify_add_watch", "fanotify_init", "open_by_handle_at", "bpf", "perf_event_open"),
)
FLAGS_OF_SENDING = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
MODES = {"chmod": 1, "fchmod": 1, "fchmodat": 2, "fchmodat2": 2}
X32 = 0x40000000
X32_OWN = {"sendmsg": 518, "sendmmsg": 538, "ptrace": 521, "process_vm_readv": 539, "process_vm_writev": 540}
"""Numbers of the x32 ABI of x86-64, which a kernel may offer beside the usual ones, where they differ."""


def restrict(rules: Rules) -> Listener | None:
    """Confine this process, which has one thread, and all that it starts.

    Returns:
        Where ``rules.only_to`` is given: what hands over each request for a socket. Whoever answers them connects the
        socket; a call of connect() then does nothing and succeeds.

    Raises:
        OSError: the kernel refuses the filter, for example because a container's runtime listens to calls already.
    """
    return make_filter(rules).load()


def make_filter(rules: Rules) -> Filter:
    """The filter, not yet in force, for the processor of this machine."""
    filter_ = Filter(flags=FilterFlag.NEW_LISTENER if rules.only_to else FilterFlag.NONE)
    for family, kind, protocol in _sockets(rules):
        wanted = [_is(0, family), _is(1, kind, TYPE), _is(2, protocol)]
        (filter_.notify if rules.only_to else filter_.allow)("socket", args=wanted)
    filter_.errno("socket", errno.EACCES)
    refused: list[str | int] = ["socket", *NEVER]
    if rules.only_to:
        filter_.errno("connect", 0)
        filter_.errno("listen", errno.EACCES)
        refused += ["connect", "listen"]
    for name in NEVER:
        filter_.errno(name, errno.EPERM)
    for name, index in FLAGS_OF_SENDING.items():
        filter_.errno(name, errno.EACCES, args=[_is(index, FAST_OPEN, FAST_OPEN)])
    for name, index in MODES.items():
        if name == "chmod" and not _x86_64():
            continue  # elsewhere there is fchmodat only
        filter_.allow(name, args=[_is(index, 0, OTHERS)])
        filter_.errno(name, errno.EPERM)
        refused.append(name)
    if _x86_64():
        for number in _x32([*refused, *FLAGS_OF_SENDING]):
            filter_.errno(number, errno.ENOSYS)
    return filter_


def _sockets(rules: Rules) -> list[tuple[int, int, int]]:
    """Family, type and protocol of what may be made."""
    families = [socket.AF_INET] if rules.only_to else [socket.AF_INET, socket.AF_INET6]
    made = [(int(f), int(socket.SOCK_STREAM), p) for f in families for p in (0, int(socket.IPPROTO_TCP))]
    if rules.names_by_udp:
        made += [(int(f), int(socket.SOCK_DGRAM), p) for f in families for p in (0, int(socket.IPPROTO_UDP))]
    if rules.local_sockets:
        made.append((int(socket.AF_UNIX), int(socket.SOCK_STREAM), 0))
    return made


def _is(index: int, value: int, mask: int = LOW) -> ArgCmp:
    return ArgCmp(index, CmpOp.MASKED_EQ, value, mask)


def _x86_64() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")


def _x32(calls: list[str | int]) -> set[int]:
    return {X32 | X32_OWN.get(str(call), syscall_nr(call)) for call in calls}
