"""A real federation on 127.0.0.1: `emgup` processes of the test's own, in folders of its own, on free ports."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from emgup_model.data.store import Recording, write_user
from emgup_model.keys import create_signing_key, public_key, read_signing_key, write_trusted
from emgup_model.processes import end_with_parent, free_port
from emgup_server.deployment.answers import Answer, Answers
from emgup_server.deployment.job import read_job
from tests.deployment.relay import Relay
from tests.toy import make_release, toy_info, toy_recordings

EMGUP = [sys.executable, "-m", "emgup_simulation.cli"]
UP_S = 300.0
PATIENCE_S = 1200.0
"""For a run: half a minute on an idle machine, many times that on a busy one."""


def emgup(*arguments: object, ok: bool = True, timeout: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Run an `emgup` command to its end."""
    command = [*EMGUP, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    assert not ok or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done


@dataclass
class Running:
    """A command that stays: `emgup server start`, `emgup client start`."""

    process: subprocess.Popen[bytes]
    log: Path

    def wait_until_up(self) -> None:
        wait_until(lambda: "up: " in self.log.read_text() or self.process.poll() is not None, UP_S)
        assert "up: " in self.log.read_text(), self.log.read_text()

    def children(self) -> dict[str, int]:
        """Process ids of the programs it keeps running, by the last part of their module's name."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                if parent == self.process.pid:
                    words = (path.parent / "cmdline").read_bytes().split(b"\0")
                    found[words[words.index(b"-m") + 1].decode().rpartition(".")[2]] = int(path.parent.name)
        return found

    def task(self) -> int:
        """Process id of the app, ServerApp or ClientApp, that its superexec runs."""
        superexec = self.children()["superexec"]
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                if int(path.read_text().rpartition(")")[2].split()[1]) == superexec:
                    return int(path.parent.name)
        raise AssertionError("no app runs")

    def end(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        finally:
            self.process.kill()


def start(log: Path, *arguments: object) -> Running:
    """Start a command that stays."""
    with log.open("ab") as output:
        command = [*EMGUP, *map(str, arguments)]
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=end_with_parent if sys.platform == "linux" else None,  # not even a killed test leaves it
        )
        return Running(process, log)


@dataclass
class User:
    """One user's machine."""

    name: str
    home: Path
    recordings: Path
    relay: Relay
    running: Running | None = None

    def configure(self, **settings: Any) -> None:
        """Change settings of the client; they hold from its next start on."""
        path = self.home / "client.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | settings))

    def start(self) -> None:
        self.running = start(self.home.parent / f"{self.name}.log", "client", "start", "--home", self.home)

    def stop(self) -> None:
        if self.running is not None:
            self.running.end()
            self.running = None

    @property
    def cells(self) -> list[Path]:
        """Folders of complete results."""
        return sorted(p.parent for p in (self.home / "vault" / "me").glob("*/reply.json"))

    def reports(self) -> list[dict[str, int]]:
        """Levels of every report that the user's gate ever debited."""
        path = self.home / "uses.jsonl"
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else [])
        return [line["levels"] for line in lines if line.get("kind") == "report"]

    def uses(self, kind: str) -> int:
        """Debits of a kind in the user's ledger."""
        path = self.home / "uses.jsonl"
        return path.read_text().count(f'"kind":"{kind}"') if path.exists() else 0


@dataclass
class Stage:
    """A server and its users."""

    folder: Path
    port: int
    release: Path
    server: Running | None = None
    users: list[User] = field(default_factory=list)

    @property
    def server_folder(self) -> Path:
        return self.folder / "server"

    def start_server(self) -> None:
        self.server = start(self.folder / "server.log", "server", "start", self.server_folder)
        self.server.wait_until_up()

    def add_user(self, name: str, recordings: list[Recording], policy: dict[str, Any] | None = None) -> User:
        """Set a user up, behind a relay of the user's own, and register the client."""
        relay = self.relay()
        path = self.folder / f"{name}.h5"
        write_user(path, toy_info(name), recordings)
        home = self.folder / name
        rules = self.folder / f"{name}-policy.yaml"
        rules.write_text(yaml.safe_dump(policy or OPEN_POLICY))
        handed = self.server_folder / "for_clients"
        emgup(
            *("client", "init", "--home", home, "--superlink", relay.address, "--recordings", path),
            *("--root-certificates", handed / "root_certificates.pem"),
            *("--trusted", handed / "trusted_release_keys.txt", "--policy", rules),
        )
        emgup("server", "register", self.server_folder, home / "keys" / "supernode.pub", "--label", name)
        user = User(name, home, path, relay)
        user.configure(threads=1, methods=["emgup", "adabn", "source_only", "emgup_paper", "adabn_half", "tent"])
        self.users.append(user)
        return user

    def relay(self) -> Relay:
        tls = self.server_folder / "tls"
        root = self.server_folder / "for_clients" / "root_certificates.pem"
        return Relay(self.port, tls / "server.pem", tls / "server.key", root)

    def run(self, *arguments: object, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """`emgup server run`, to its end."""
        return emgup("server", "run", self.server_folder, "--release", self.release, *arguments, ok=ok)

    def start_run(self, *arguments: object) -> subprocess.Popen[str]:
        """`emgup server run`, without waiting."""
        command = [*EMGUP, "server", "run", str(self.server_folder), "--release", str(self.release)]
        return subprocess.Popen(
            [*command, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_until_adapting(self, user: User, run: str) -> Path:
        """Folder of the run's cell in the user's vault, once its adaptation has begun and before it is done."""
        cell = self.wait_for_cell(user, run)
        assert wait_until((cell / ".attempts").exists, PATIENCE_S)
        assert not (cell / "reply.json").exists()
        return cell

    def wait_for_cell(self, user: User, run: str) -> Path:
        """Folder of the run's cell in the user's vault, as soon as the run says what it asks for."""
        assert wait_until((self.server_folder / "runs" / run / "job.yaml").exists, PATIENCE_S)
        return user.home / "vault" / "me" / self.cell(run)

    def cell(self, run: str) -> str:
        """Key of what the run's first method makes of any user."""
        job = read_job(self.server_folder / "runs" / run / "job.yaml")
        return job.cell(next(iter(job.methods)))

    def answers(self, run: str) -> dict[str, Answer]:
        """By user."""
        return {a.label: a for a in Answers(self.server_folder / "runs" / run / "answers").all()}

    def end(self) -> None:
        for user in self.users:
            user.stop()
            user.relay.close()
        if self.server is not None:
            self.server.end()


OPEN_POLICY: dict[str, Any] = {
    "scalars": {"predictions_changed": {"bits": 4}, "confidence": {"bits": 4}, "decision": {"bits": 2}},
    "noise": {"kind": "none"},
    "limits": {
        "reports_per_day": 100,
        "reports_for_life": 100,
        "statuses_per_day": 1000,
        "statuses_for_life": 1000,
        "pad_s": 0,
    },
}


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A server that is up, without users; everything ends with the context."""
    port = free_port()
    key = create_key(folder)
    made = Stage(folder, port, Path())
    try:
        emgup("server", "init", made.server_folder, "--port", port)
        make_release(key).write(folder / "run" / "releases" / "fold_00")
        emgup("server", "sign", made.server_folder, folder / "run" / "releases" / "fold_00")
        made.release = next((made.server_folder / "releases").iterdir())
        made.start_server()
        yield made
    finally:
        made.end()


def create_key(folder: Path) -> Any:
    """The key of whoever trained the release, and the list of keys beside it."""
    path = folder / "run" / "server" / "release_key.pem"
    create_signing_key(path)
    key = read_signing_key(path)
    write_trusted(folder / "run" / "client" / "trusted_release_keys.txt", [public_key(key)])
    return key


def toy_user(number: int, **changes: Any) -> list[Recording]:
    return toy_recordings(number, gain=1 + 0.3 * number, **changes)


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return not (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0].startswith("Z")
    except OSError:
        return False
