"""`python -m emgup_server.deployment.superexec FOLDER`: starts the ServerApps of runs; nobody else can.

Only a holder of the secret is given tasks, and a task's token is passed in a file of mode 0600: command lines are
for every local user to read.
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

from emgup_model.replacing import replace
from emgup_server.deployment.folder import ServerFolder


class OneKind:
    """Starts ServerApps of this installation as subprocesses."""

    def __init__(self, tokens: Path) -> None:
        self._tokens = tokens
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def get_eligible_capacity(self, supported_task_types: set[TaskType], **_: Any) -> tuple[set[TaskType], set[str]]:
        """ServerApps only, whatever Flower supports beside."""
        return supported_task_types & {TaskType.SERVER_APP}, set()

    def wait_for_capacity(self, *_: Any, **__: Any) -> None:
        """No limit."""

    def launch(self, spec: ExecutionSpec) -> LaunchResult:
        """Start the process of one task."""
        if spec.task_type != TaskType.SERVER_APP:
            return LaunchResult.failed("this server runs ServerApps only")
        fd, name = tempfile.mkstemp(dir=self._tokens)
        with os.fdopen(fd, "w") as file:
            file.write(spec.token)
        command = [sys.executable, "-c", "from flwr.superlink.cli import flwr_serverapp; flwr_serverapp()"]
        command += ["--runtime-api-address", spec.runtime_api_address, "--token-file", name]
        command += ["--root-certificates", str(spec.root_certificates_path), "--parent-pid", str(os.getpid())]
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
    folder = ServerFolder(Path(sys.argv[1]))
    config = folder.config()
    executor = OneKind(Path(tempfile.mkdtemp(prefix="tokens-", dir=folder.flower_home)))
    replace(run_superexec, "get_executor", lambda *_, **__: executor)
    host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
    with contextlib.suppress(KeyboardInterrupt):
        run_superexec.run_superexec(
            runtime_api_address=f"{host}:{config.port}",
            insecure=False,
            root_certificates_path=str(folder.ca),
            superexec_auth_secret=folder.superexec_secret.read_bytes(),
        )


if __name__ == "__main__":
    main()
