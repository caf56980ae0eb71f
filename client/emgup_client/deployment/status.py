"""`emgup client status`: whether the client runs, and what is in its folder; nothing is changed or sent."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import dataclass

from emgup_client.deployment.config import ClientConfig, ClientHome
from emgup_client.deployment.initialise import bundle_sha256
from emgup_client.vault import RECORD


@dataclass(frozen=True)
class ClientStatus:
    """What there is to say about a client.

    Attributes:
        config: its settings.
        running_s: for how long it has been running, seconds; None when it is not.
        bundle_fits: whether the pinned bundle is that of this installation.
        releases: how many are cached.
        personalized: complete results in the vault.
    """

    config: ClientConfig
    running_s: float | None
    bundle_fits: bool
    releases: int
    personalized: int


def status(home: ClientHome) -> ClientStatus:
    """Look at a client's folder. Raises ConfigError when it is none."""
    config = home.config()
    return ClientStatus(
        config=config,
        running_s=_running(home),
        bundle_fits=config.bundle_sha256 == bundle_sha256(),
        releases=len(list((home.path / "releases").glob("*/manifest.json"))),
        personalized=len(list((home.path / "vault" / config.user).glob(f"*/{RECORD}"))),
    )


def _running(home: ClientHome) -> float | None:
    """A running client holds the lock, which the kernel frees however it ends."""
    if not home.lock.exists():
        return None
    fd = os.open(home.lock, os.O_RDWR)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return None
    except OSError:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return max(0.0, time.time() - float(json.loads(home.state.read_text())["since"]))
        return 0.0
    finally:
        os.close(fd)
