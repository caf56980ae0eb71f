from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

GUARDIAN = [sys.executable, "-m", "emgup_simulation.guardian"]

# A child in a session of its own, and an orphan whose parent has ended: what Flower and Ray leave.
FAMILY = """
import os, subprocess, sys, time
def note(name): open(os.path.join(sys.argv[1], name), "w").write(str(os.getpid()))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        {stubborn}
        note("orphan"); time.sleep(60)
    os._exit(0)
note("child"); time.sleep(60)
"""


def alive(pid: int) -> bool:
    try:
        return not (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0].startswith("Z")
    except OSError:
        return False


@pytest.fixture(params=["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["meek", "stubborn"])
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    script = FAMILY.format(stubborn=request.param or "pass")
    folder = tmp_path / "home"
    folder.mkdir()
    guardian = subprocess.Popen(
        [*GUARDIAN, str(folder), sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    files = [tmp_path / "child", tmp_path / "orphan"]
    end = time.monotonic() + 20
    while not all(f.exists() and f.read_text() for f in files) and time.monotonic() < end:
        time.sleep(0.05)
    yield guardian, [int(f.read_text()) for f in files]
    guardian.kill()
    guardian.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
@pytest.mark.parametrize("how", ["driver gone", "sigterm", "sigint"])
def test_no_descendant_outlives_the_guardian(
    family: tuple[subprocess.Popen[bytes], list[int]], how: str, tmp_path: Path
) -> None:
    guardian, pids = family
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert all(alive(p) for p in pids)
        if how == "driver gone":
            assert guardian.stdin is not None
            guardian.stdin.close()
        else:
            os.kill(guardian.pid, signal.SIGTERM if how == "sigterm" else signal.SIGINT)
        assert guardian.wait(15) == 143
        assert not any(alive(p) for p in pids)
        assert alive(bystander.pid)
        assert not (tmp_path / "home").exists()
    finally:
        bystander.kill()
        bystander.wait()


def test_the_guardian_ends_with_its_command(tmp_path: Path) -> None:
    command = [*GUARDIAN, str(tmp_path / "none"), sys.executable, "-c", "raise SystemExit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as guardian:
        assert guardian.wait(15) == 7
