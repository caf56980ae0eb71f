"""Runs the hostile code of `attacker/` in a process of the client, and what it may and may not have reached."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

ATTACKER = Path(__file__).with_name("attacker") / "sitecustomize.py"


@dataclass
class World:
    """What is around the attacked process: listeners of the test's own, files of the user's, another process."""

    folder: Path
    home: Path
    tcp: int
    udp: int
    neighbour: int
    reached: list[str] = field(default_factory=list)

    @property
    def packages(self) -> Path:
        """A folder of the module path that a confined Python reads."""
        return self.folder / "site-packages"

    def aim(self, pids: Mapping[str, int]) -> None:
        """Tell the attacker its targets."""
        target = {
            "folder": str(self.folder),
            "home": str(self.home),
            "tcp": self.tcp,
            "udp": self.udp,
            "unix": str(self.folder / "listening"),
            "abstract": self.abstract,
            "pids": dict(pids),
        }
        (self.packages / "target.json").write_text(json.dumps(target))

    @property
    def abstract(self) -> str:
        return f"emgup-test-{os.getpid()}-{self.tcp}"

    def environment(self, module: str) -> dict[str, str]:
        """Variables that make a process that runs ``module`` the attacker's."""
        path = os.pathsep.join([str(self.packages), os.environ.get("PYTHONPATH", "")])
        return {
            "PYTHONPATH": path,
            "EMGUP_ATTACKED": module,
            "EMGUP_ATTACKS": str(self.packages / "target.json"),
        }


@contextlib.contextmanager
def world(folder: Path, home: Path) -> Iterator[World]:
    """Listeners and files; whatever arrives at a listener is noted in ``reached``."""
    (folder / "user" / ".ssh").mkdir(parents=True)
    (folder / "user" / ".ssh" / "id").write_text("CANARY")
    (folder / "site-packages").mkdir()
    shutil.copy(ATTACKER, folder / "site-packages")
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("", 0)))
        udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        udp.bind(("127.0.0.1", 0))
        neighbour = stack.enter_context(subprocess.Popen(["sleep", "600"]))
        stack.callback(neighbour.kill)
        made = World(folder, home, tcp.getsockname()[1], udp.getsockname()[1], neighbour.pid)
        here = Path.cwd()
        os.chdir(folder)  # the path of a Unix socket is short
        try:
            unix = stack.enter_context(socket.socket(socket.AF_UNIX))
            unix.bind("listening")
        finally:
            os.chdir(here)
        unix.listen()
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX))
        abstract.bind("\0" + made.abstract)
        abstract.listen()
        for name, listening in (("tcp", tcp), ("unix", unix), ("abstract", abstract), ("udp", udp)):
            threading.Thread(target=_note, args=(made, name, listening), daemon=True).start()
        yield made


def _note(made: World, name: str, listening: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            if name == "udp":
                listening.recv(100)
            else:
                listening.accept()[0].close()
            made.reached.append(name)


def found(folder: Path) -> dict[str, str]:
    """What came of each attack: "refused: …" or what it got."""
    out: dict[str, str] = {}
    for path in sorted(folder.glob("attacks-*.json")):
        out |= json.loads(path.read_text())
    return out
