"""`emgup server start`: the SuperLink and the process that starts ServerApps, kept running together."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable

import httpx

from emgup_model.processes import Program, Tell, flower_environment, keep_running
from emgup_server.deployment.folder import ServerFolder


def serve(folder: ServerFolder, tell: Tell, up: Callable[[], None]) -> None:
    """Run until Ctrl-C or SIGTERM. Raises ConfigError, and RunError when the SuperLink does not start."""
    url = f"https://{folder.config().local_address}/health"
    environment = flower_environment(folder.flower_home)
    context = ssl.create_default_context(cafile=str(folder.ca))
    context.check_hostname = False

    def ready() -> bool:
        try:
            return httpx.get(url, verify=context, timeout=1, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    keep_running(
        [
            Program("superlink", _module("superlink", folder), environment, ready),
            Program("superexec", _module("superexec", folder), environment),
        ],
        folder.logs,
        tell,
        up,
    )


def _module(name: str, folder: ServerFolder) -> list[str]:
    return [sys.executable, "-m", f"emgup_server.deployment.{name}", str(folder.path)]
