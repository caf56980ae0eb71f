"""What this machine's kernel offers, in one line for people."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from typing import Literal

from emgup_model.errors import ConfigError

Mode = Literal["required", "auto", "off"]
NETWORK_ABI, SIGNALS_ABI = 4, 6
"""Landlock versions that brought rules for TCP (Linux 6.7) and for signals (6.12)."""


@dataclass(frozen=True)
class Support:
    """What can be confined here.

    Attributes:
        landlock: version of the kernel's Landlock; 0 = none.
        seccomp: whether seccomp filters with user notification can be used.
        why_not: for people, what is missing.
    """

    landlock: int
    seccomp: bool
    why_not: str = ""

    @property
    def usable(self) -> bool:
        """Whether anything can be confined."""
        return self.landlock > 0 and self.seccomp

    @property
    def complete(self) -> bool:
        """Whether files and every kind of socket can be."""
        return self.landlock >= NETWORK_ABI and self.seccomp

    def __str__(self) -> str:
        if not self.usable:
            return f"none: {self.why_not}"
        parts = ["files", "sockets"]
        parts += ["TCP ports"] if self.landlock >= NETWORK_ABI else []
        parts += ["signals"] if self.landlock >= SIGNALS_ABI else []
        lacking = "" if self.complete else "; TCP ports of SuperNode and gate need Linux 6.7"
        return f"{', '.join(parts)} (Landlock {self.landlock}, seccomp){lacking}"


def look() -> Support:
    """Ask the kernel."""
    if sys.platform != "linux":
        return Support(0, False, f"Landlock is a part of Linux, and this is {platform.system()}")
    try:
        import landlockpy
        import seccompy
    except ImportError as e:
        return Support(0, False, f"{e.name} is not installed")
    try:
        landlock = landlockpy.abi_version()
        seccompy.audit_arch()
        seccomp = seccompy.action_supported(seccompy.Action.USER_NOTIF)
    except OSError as e:
        return Support(0, False, str(e))
    why_not = "" if landlock else "Landlock is missing or switched off in this kernel (Linux 5.13, lsm=landlock)"
    return Support(landlock, seccomp, why_not or ("" if seccomp else "this kernel has no seccomp notification"))


def sandbox_of(mode: Mode) -> Support | None:
    """The sandbox to use; None = none. Raises ConfigError where one is required and this machine has no whole one."""
    if mode == "off":
        return None
    found = look()
    if mode == "required" and not found.complete:
        raise ConfigError(f"client.yaml requires a sandbox, which is not whole here ({found}); or say 'sandbox: auto'")
    return found if found.usable else None


def in_words(mode: Mode) -> str:
    """One line: what is in force for a client with this setting."""
    return "off (client.yaml)" if mode == "off" else str(look())
