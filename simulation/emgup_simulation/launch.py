"""`flwr run simulation` from a program: an own Flower home, port and SuperLink, and the run's real outcome.

`flwr run` returns 0 even when the ServerApp fails, and the SuperLink it starts by itself is shared by port, never stops
and keeps the first caller's code and working directory. Here everything is private to one call, and ends with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from emgup_model.errors import RunError
from emgup_model.processes import flower_environment, free_port
from emgup_simulation.guardian import GRACE_S

CONNECTION = "emgup"
START_S = 60.0
POLL_S = 0.2
STATUS_EVERY_S = 2.0
ENDED = "ended"
HANG_S = 60.0
"""How long a run may linger after its ServerApp is done before it is ended: a client may hang."""


@dataclass(frozen=True)
class Outcome:
    """How Flower says a run ended (``finished:completed`` is good), and why."""

    status: str
    details: str

    @property
    def completed(self) -> bool:
        """Whether the ServerApp returned."""
        return self.status == "finished:completed"

    @property
    def failed(self) -> bool:
        """Whether the app did not start, or the ServerApp raised; a run that had to be ended is neither."""
        return not self.completed and self.status != ENDED


@dataclass(frozen=True)
class Runtime:
    """A running private SuperLink."""

    home: Path
    environment: Mapping[str, str]

    def flwr(self, *arguments: str) -> dict[str, Any]:
        """Run a `flwr` command and return its JSON. Raises RunError when it fails."""
        command = [_tool("flwr"), *arguments, "--format", "json"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        start = done.stdout.find("{")
        with contextlib.suppress(ValueError):
            answer = json.loads(done.stdout[start:]) if start >= 0 else {}
            if isinstance(answer, dict) and answer.get("success"):
                return answer
        text = " ".join((done.stdout + done.stderr).split())
        raise RunError(f"flwr {arguments[0]} failed: {text[-400:]}")


def app_folder() -> Path:
    """The Flower app's folder: inside the wheel, or ``simulation/`` of a source checkout."""
    here = Path(__file__).resolve().parent
    packaged = here / "flower_app"
    return packaged if packaged.is_dir() else here.parent


@contextlib.contextmanager
def runtime(log: Path, variables: Mapping[str, str]) -> Iterator[Runtime]:
    """A SuperLink with a home and a port of its own; when the context ends, so does every process it started.

    Args:
        log: file to which everything the runtime prints is appended.
        variables: added to its environment.

    Raises:
        RunError: it does not come up.
    """
    home = Path(tempfile.mkdtemp(prefix="emgup-", dir=_short_temporary_folder()))
    port = free_port()
    address = f"127.0.0.1:{port}"
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n[superlink.{CONNECTION}]\naddress = "{address}"\ninsecure = true\n'
    )
    command = [_tool("flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--database", str(home / "state.db")]  # as the SuperLink that `flwr run` starts by itself
    started = Runtime(home, {**_environment(home), **variables})
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        guardian = subprocess.Popen(
            [sys.executable, "-m", "emgup_simulation.guardian", str(home), *command],
            env=started.environment,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C is the driver's to handle
        )
    try:
        _wait_until_up(address, guardian, log)
        yield started
    finally:
        _end(guardian)


def launch(
    run_config: Mapping[str, str | bool],
    federation_config: Mapping[str, int | float],
    log: Path,
    variables: Mapping[str, str],
    finished: Callable[[], bool],
    tick: Callable[[], None],
) -> Outcome:
    """Run the simulation app once, from start to end.

    Args:
        run_config: values of the app's run-config.
        federation_config: number of SuperNodes and resources of a client, in Flower's names.
        log: file for what the runtime prints.
        variables: environment variables for the ServerApp and the clients.
        finished: whether the ServerApp is done; a run that still does not end, because a client hangs, is ended.
        tick: called several times a second while waiting.

    Raises:
        RunError: Flower could not be started or asked.
    """
    with runtime(log, variables) as flower, log.open("ab") as output:
        config = flower.home / "run.toml"
        config.write_text("".join(f"{k} = {json.dumps(v)}\n" for k, v in run_config.items()))
        federation = " ".join(f"{k}={v}" for k, v in federation_config.items())
        arguments = [_tool("flwr"), "run", str(app_folder()), CONNECTION, "--stream"]
        arguments += ["--run-config", str(config), "--federation-config", federation]
        # One process that starts the run, streams its log, and ends when the run ends: nothing has to be polled.
        stream = subprocess.Popen(
            arguments, env=flower.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            return _follow(flower, stream, finished, tick)
        finally:
            stream.kill()
            stream.wait()


def _follow(
    flower: Runtime, stream: subprocess.Popen[bytes], finished: Callable[[], bool], tick: Callable[[], None]
) -> Outcome:
    done_since: float | None = None
    while True:
        tick()
        time.sleep(POLL_S)
        done_since = (done_since or time.monotonic()) if finished() else None
        if done_since and time.monotonic() - done_since > HANG_S:
            return Outcome(ENDED, f"the run did not end within {HANG_S:g} s after the ServerApp")
        if stream.poll() is None:
            continue
        runs = flower.flwr("list", CONNECTION)["runs"]
        if not runs:
            return Outcome("refused", "flwr run did not start the app")
        if str(runs[0]["status"]).startswith("finished"):
            return Outcome(str(runs[0]["status"]), str(runs[0].get("status-details", "")))
        time.sleep(STATUS_EVERY_S)


def _environment(home: Path) -> dict[str, str]:
    """That of Flower's programs, and Ray confined to ``home`` and silent towards the outside."""
    return {**flower_environment(home), "RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(home)}


def _short_temporary_folder() -> str | None:
    """Ray puts sockets below its folder, and a socket's path may have about 100 characters."""
    return "/tmp" if len(tempfile.gettempdir()) > 20 and os.access("/tmp", os.W_OK) else None


def _tool(name: str) -> str:
    """A command of this environment, even when the environment is not activated."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if path is None:
        raise RunError(f"the command {name} is missing; install emgup again (pip install -e .)")
    return path


def _wait_until_up(address: str, guardian: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_S
    while time.monotonic() < end and guardian.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"http://{address}/health", timeout=0.5).is_success:
                return
        time.sleep(0.1)
    raise RunError(f"Flower's SuperLink did not start; see {log}")


def _end(guardian: subprocess.Popen[bytes]) -> None:
    """Close the guardian's standard input, which makes it end everything and clean up; wait for that."""
    if guardian.stdin:
        guardian.stdin.close()
    try:
        guardian.wait(GRACE_S + 10)
    except subprocess.TimeoutExpired:
        guardian.kill()
        guardian.wait()
