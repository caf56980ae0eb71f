"""`python -m emgup_client.deployment.superexec HOME ADDRESS`: starts this installation's ClientApp for each task.

Only a holder of the secret is given tasks, and only ClientApps are accepted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from emgup_client.deployment.config import ClientHome
from emgup_client.sandbox import roles
from emgup_client.sandbox.support import sandbox_of
from emgup_client.vault import VAULT
from emgup_client.vault_cipher import HANDED_KEY, key_to_hand_over
from emgup_model.processes import Tasks
from emgup_model.replacing import replace


class OwnCode(Tasks):
    """Starts ClientApps of this installation as subprocesses, whatever the bundle names."""

    def __init__(self, home: ClientHome) -> None:
        super().__init__(home.flower_home)
        self._home = home

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: Any) -> tuple[set[TaskType], set[str]]:
        """ClientApps only, whatever Flower supports beside."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """No limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of one task."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed("this client runs its own ClientApp only")
        command = [sys.executable, "-m", "emgup_client.deployment.task", str(self._home.path), "--insecure"]
        command += ["--runtime-api-address", spec.runtime_api_address]
        if sandbox_of(self._home.config().sandbox) is None:
            self.start(command, spec.token)
        else:
            self._start_confined(command, spec)
        return LaunchResult.accepted()

    def _start_confined(self, command: list[str], spec: ExecutionSpec) -> None:
        def within(whole: list[str], token: Path) -> list[str]:
            port = int(spec.runtime_api_address.rpartition(":")[2])
            rules = roles.task(self._home, self._home.config(), port, token)
            return roles.confined(rules, whole, "--watch", str(os.getpid()))

        environment = {**os.environ, **roles.environment(self._home, "task")}
        with key_to_hand_over(self._home.path / VAULT) as key:
            if key is not None:
                environment[HANDED_KEY] = str(key)
            self.start(command, spec.token, within, environment, () if key is None else (key,))


def main() -> None:
    """Serve until SIGTERM."""
    home = ClientHome(Path(sys.argv[1]))
    executor = OwnCode(home)
    replace(run_superexec, "get_executor", lambda *_, **__: executor)
    with contextlib.suppress(KeyboardInterrupt):
        run_superexec.run_superexec(
            runtime_api_address=sys.argv[2],
            insecure=True,  # within this machine: the SuperNode listens on 127.0.0.1 only
            superexec_auth_secret=home.superexec_secret.read_bytes(),
        )


if __name__ == "__main__":
    main()
