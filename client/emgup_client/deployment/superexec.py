"""`python -m emgup_client.deployment.superexec HOME ADDRESS`: starts this installation's ClientApp for each task.

Only a holder of the secret is given tasks, only ClientApps are accepted, and a task's token is passed in a file of mode
0600: command lines are for every local user to read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from flwr.supercore.constant import TaskType
from flwr.supercore.superexec import run_superexec
from flwr.supercore.superexec.executor import ExecutionSpec, LaunchResult

from emgup_client.deployment.config import ClientHome
from emgup_model.replacing import replace


class OwnCode:
    """Starts ClientApps of this installation as subprocesses, whatever the bundle names."""

    def __init__(self, home: Path, tokens: Path) -> None:
        self._home, self._tokens = home, tokens
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: Any) -> tuple[set[TaskType], set[str]]:
        """ClientApps only, whatever Flower supports beside."""
        return supported_task_types & {TaskType.CLIENT_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """No limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of one task."""
        if spec.task_type != TaskType.CLIENT_APP:
            return LaunchResult.failed("this client runs its own ClientApp only")
        fd, name = tempfile.mkstemp(dir=self._tokens)
        with os.fdopen(fd, "w") as file:
            file.write(spec.token)
        command = [sys.executable, "-m", "emgup_client.deployment.task", str(self._home), "--insecure"]
        command += ["--runtime-api-address", spec.runtime_api_address, "--token-file", name]
        command += ["--parent-pid", str(os.getpid())]
        self._started.append((subprocess.Popen(command, stdin=subprocess.DEVNULL), Path(name)))
        return LaunchResult.accepted()

    def reconcile(self) -> None:
        """Forget tokens of processes that ended."""
        for process, token in list(self._started):
            if process.poll() is not None:
                token.unlink(missing_ok=True)
                self._started.remove((process, token))

    def close(self) -> None:
        """The processes watch this one and end by themselves."""
        shutil.rmtree(self._tokens, ignore_errors=True)


def main() -> None:
    """Serve until SIGTERM."""
    home = ClientHome(Path(sys.argv[1]))
    executor = OwnCode(home.path, Path(tempfile.mkdtemp(prefix="tokens-", dir=home.flower_home)))
    replace(run_superexec, "get_executor", lambda *_, **__: executor)
    with contextlib.suppress(KeyboardInterrupt):
        run_superexec.run_superexec(
            runtime_api_address=sys.argv[2],
            insecure=True,  # within this machine: the SuperNode listens on 127.0.0.1 only
            superexec_auth_secret=home.superexec_secret.read_bytes(),
        )


if __name__ == "__main__":
    main()
