"""`python -m emgup_server.deployment.superexec FOLDER`: starts the ServerApps of runs; nobody else can.

Only a holder of the secret is given tasks.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from emgup_model.processes import Tasks
from emgup_model.replacing import replace
from emgup_server.deployment.folder import ServerFolder


class OneKind(Tasks):
    """Starts ServerApps of this installation as subprocesses."""

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: Any) -> tuple[set[TaskType], set[str]]:
        """ServerApps only, whatever Flower supports beside."""
        return supported_task_types & {TaskType.SERVER_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """No limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of one task."""
        if spec.task_type != TaskType.SERVER_APP:
            return LaunchResult.failed("this server runs ServerApps only")
        command = [sys.executable, "-c", "from flwr.superlink.cli import flwr_serverapp; flwr_serverapp()"]
        command += ["--runtime-api-address", spec.runtime_api_address]
        self.start([*command, "--root-certificates", str(spec.root_certificates_path)], spec.token)
        return LaunchResult.accepted()


def main() -> None:
    """Serve until SIGTERM."""
    folder = ServerFolder(Path(sys.argv[1]))
    executor = OneKind(folder.flower_home)
    replace(run_superexec, "get_executor", lambda *_, **__: executor)
    with contextlib.suppress(KeyboardInterrupt):
        run_superexec.run_superexec(
            runtime_api_address=folder.config().local_address,
            insecure=False,
            root_certificates_path=str(folder.ca),
            superexec_auth_secret=folder.superexec_secret.read_bytes(),
        )


if __name__ == "__main__":
    main()
