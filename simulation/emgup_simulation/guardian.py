"""A process that runs a command and sees to it that nothing the command started outlives the driver.

``python -m emgup_simulation.guardian FOLDER COMMAND …`` ends when the command ends, when it gets SIGTERM, or when its
standard input closes, which the kernel does when the driver dies in whatever way. It then ends every descendant, and
removes FOLDER, where they kept their files. Flower and Ray start some of theirs in sessions of their own, and orphans,
so a process group is not enough; on Linux orphans are adopted by this process. Others are never touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_S = 3.0
PR_SET_CHILD_SUBREAPER = 36


def main() -> int:
    """Guard the command given as arguments; returns its exit status, or 143 when it was ended from here."""
    folder, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.set_wakeup_fd(tell)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.poll() is None:
        _reap(child)
        if select.select([told, sys.stdin], [], [], 0.5)[0]:
            break
    ended = child.poll()
    end_descendants(os.getpid())
    shutil.rmtree(folder, ignore_errors=True)
    return 143 if ended is None else ended


def end_descendants(root: int, grace_s: float = GRACE_S) -> None:
    """SIGTERM to all descendants of ``root``, and after a while SIGKILL to those that are left."""
    for kind, patience in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 5.0)):
        end = time.monotonic() + patience
        told: set[int] = set()
        while (alive := descendants(root)) and time.monotonic() < end:
            for pid in alive:
                if kind == signal.SIGKILL or pid not in told:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, kind)
            told |= set(alive)
            time.sleep(0.05)
            _reap()
        _reap()


def descendants(root: int) -> list[int]:
    """Ids of the living descendants of ``root``, zombies left out."""
    children: dict[int, list[int]] = {}
    for pid, parent, state in _processes():
        if not state.startswith("Z"):
            children.setdefault(parent, []).append(pid)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def _processes() -> list[tuple[int, int, str]]:
    """(pid, parent, state) of every process."""
    out = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            out.append((int(path.parent.name), int(parent), state))
    if out:
        return out
    listing = subprocess.run(["ps", "-axo", "pid=,ppid=,state="], capture_output=True, text=True, check=True).stdout
    return [(int(pid), int(parent), state) for pid, parent, state in (line.split() for line in listing.splitlines())]


def _reap(child: subprocess.Popen[bytes] | None = None) -> None:
    """Collect adopted processes that ended, but leave ``child`` to its Popen."""
    with contextlib.suppress(ChildProcessError):
        if child is None:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        else:
            for pid, parent, state in _processes():
                if parent == os.getpid() and state.startswith("Z") and pid != child.pid:
                    os.waitpid(pid, os.WNOHANG)


if __name__ == "__main__":
    sys.exit(main())
