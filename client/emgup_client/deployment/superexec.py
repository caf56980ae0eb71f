"""`python -m emgup_client.deployment.superexec HOME ADDRESS`: starts this installation's ClientApp for each task.

Only a holder of the secret is given tasks, and only ClientApps are accepted.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from emgup_client.deployment.config import ClientHome
from emgup_model.processes import Tasks
from emgup_model.replacing import replace


class OwnCode(Tasks):
    """Starts ClientApps of this installation as subprocesses, whatever the bundle names."""

    def __init__(self, home: ClientHome) -> None:
        super().__init__(home.flower_home)
        self._home = home.path

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: Any) -> tuple[set[TaskType], set[str]]:
        """ClientApps only, whatever Flower supports beside."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """No limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of one task."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed("this client runs its own ClientApp only")
        command = [sys.executable, "-m", "emgup_client.deployment.task", str(self._home), "--insecure"]
        self.start([*command, "--runtime-api-address", spec.runtime_api_address], spec.token)
        return LaunchResult.accepted()


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
