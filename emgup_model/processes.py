"""Keep programs running: started in order, started again when they end, all ended together. No Flower in here."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from emgup_model.errors import RunError

GRACE_S = 5.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
LONG_LIFE_S = 60.0
"""A program that ran this long before it ended is started again after the shortest pause."""
MAX_LOG_BYTES = 5 << 20
BAD_CONFIG = 2
"""Exit status of a program that no restart would help: it ends the others too."""
PR_SET_PDEATHSIG = 1

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """One program to keep running.

    Attributes:
        name: for people, and of its log file.
        command: with arguments.
        environment: all of it.
        ready: asked until true before the next program is started.
        ready_s: how long that may take, seconds.
        hint: for people, when it ends: what the likely reason is.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool] = field(default=lambda: True)
    ready_s: float = 60.0
    hint: str = ""


class _Kept:
    """One program, its present process, and when it may be started again."""

    def __init__(self, program: Program, logs: Path) -> None:
        self.program = program
        self.log = logs / f"{program.name}.log"
        self.process: subprocess.Popen[bytes] | None = None
        self._pause = FIRST_PAUSE_S
        self._started = self._again_at = 0.0

    def start(self) -> None:
        with _open_log(self.log) as output:
            self.process = subprocess.Popen(
                list(self.program.command),
                env=dict(self.program.environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is this process's to handle
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        self._started = time.monotonic()

    def look(self, tell: Tell) -> None:
        """Start the program again, after a pause, once it has ended. Raises RunError where that would not help."""
        if self.process is None:
            if time.monotonic() >= self._again_at:
                self.start()
            return
        status = self.process.poll()
        if status is None:
            return
        end_group(self.process.pid)
        self.process = None
        if status == BAD_CONFIG:
            raise RunError(f"{self.program.name} refused its settings: {last_line(self.log)} (log: {self.log})")
        if time.monotonic() - self._started > LONG_LIFE_S:
            self._pause = FIRST_PAUSE_S
        why = f" ({self.program.hint})" if self.program.hint else ""
        tell(f"{self.program.name} ended with status {status}{why}; again in {self._pause:g} s; log: {self.log}")
        self._again_at = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE_S)


def keep_running(programs: Sequence[Program], logs: Path, tell: Tell, up: Callable[[], None]) -> None:
    """Run until SIGTERM or Ctrl-C; whatever ends this function, every process it started ends too.

    Args:
        programs: started in this order, ended in the other.
        logs: folder for what they print.
        tell: called with a line for people.
        up: called once all are ready.

    Raises:
        RunError: a program is not ready in time, or refuses its settings.
    """
    stop = threading.Event()
    kept = [_Kept(program, logs) for program in programs]
    with _stopped_by_signals(stop):
        try:
            for one in kept:
                one.start()
                _wait_until_ready(one, kept, tell, stop)
            if not stop.is_set():
                up()
            while not stop.wait(0.2):
                for one in kept:
                    one.look(tell)
        finally:
            for one in reversed(kept):
                if one.process is not None:
                    end_group(one.process.pid)
                    one.process.wait()


def _wait_until_ready(one: _Kept, kept: Sequence[_Kept], tell: Tell, stop: threading.Event) -> None:
    end = time.monotonic() + one.program.ready_s
    while not stop.is_set() and not one.program.ready():
        for other in kept:
            if other.process is not None or other is one:
                other.look(tell)
        if time.monotonic() > end:
            raise RunError(f"{one.program.name} did not start: {last_line(one.log)} (log: {one.log})")
        stop.wait(0.1)


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    def note(_: int, __: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Tasks:
    """Processes that do one task each. A task's token is passed in a file of mode 0600: command lines are for every
    local user to read. The processes watch this one and end by themselves.

    Args:
        folder: where the files of tokens lie, in a folder of their own that :meth:`close` removes.
    """

    def __init__(self, folder: Path) -> None:
        self._tokens = Path(tempfile.mkdtemp(prefix="tokens-", dir=folder))
        self._started: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(
        self,
        command: Sequence[str],
        token: str,
        within: Callable[[list[str], Path], Sequence[str]] | None = None,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start ``command`` with ``--token-file FILE --parent-pid PID`` behind it.

        Args:
            command: with arguments.
            token: of the task.
            within: makes of the command, and the token's file, another one that runs it and ends it with this process;
                the command is then not told ``--parent-pid``.
            environment: of the process; None = this one's.
            pass_fds: open files that the process inherits.
        """
        fd, name = tempfile.mkstemp(dir=self._tokens)
        with os.fdopen(fd, "w") as file:
            file.write(token)
        whole = [*command, "--token-file", name]
        ready = within(whole, Path(name)) if within else [*whole, "--parent-pid", str(os.getpid())]
        process = subprocess.Popen(list(ready), stdin=subprocess.DEVNULL, env=environment, pass_fds=pass_fds)
        self._started.append((process, Path(name)))

    def reconcile(self) -> None:
        """Forget tokens of processes that ended."""
        for process, token in list(self._started):
            if process.poll() is not None:
                token.unlink(missing_ok=True)
                self._started.remove((process, token))

    def close(self) -> None:
        """Remove the tokens."""
        shutil.rmtree(self._tokens, ignore_errors=True)


def end_group(pid: int, grace_s: float = GRACE_S) -> None:
    """SIGTERM to a process group, and after a while SIGKILL to what is left of it."""
    for kind, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 2.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, kind)
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if not _alive(pid):
                return
            time.sleep(0.05)


def _alive(group: int) -> bool:
    """Whether a process of the group is left that is no zombie."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    stats = list(Path("/proc").glob("[0-9]*/stat"))
    if not stats:  # not Linux: zombies of ours count as alive until they are waited for
        return True
    for path in stats:
        with contextlib.suppress(OSError):
            state, _, of = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(of) == group and state not in "ZX":
                return True
    return False


def end_with_parent() -> None:
    """The kernel sends SIGTERM when the parent dies in whatever way."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


@contextlib.contextmanager
def _open_log(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > MAX_LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        yield fd
    finally:
        os.close(fd)


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    with contextlib.suppress(OSError):
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else "it printed nothing"
    return "it printed nothing"


def flower_environment(home: Path) -> dict[str, str]:
    """Ours, with Flower confined to ``home``, silent towards the outside, and no proxy between its processes."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith(("FLWR_", "RAY_"))}
    mine = {k: v for k, v in mine.items() if not k.lower().endswith("_proxy")}
    return {
        **mine,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{mine.get('PATH', '')}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.1",
        "PYTHONUNBUFFERED": "1",
    }


def free_port() -> int:
    """A port of this machine that nobody listens on at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
