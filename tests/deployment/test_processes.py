"""Programs that are kept running: real processes, small ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from emgup_model.errors import RunError
from emgup_model.processes import Program, flower_environment, keep_running
from tests.deployment.stage import alive, wait_until

SUPERVISOR = """
import sys
from pathlib import Path
from emgup_model.processes import Program, keep_running
folder = Path(sys.argv[1])
code = "import os, subprocess, sys, time; " \\
       "child = subprocess.Popen(['sleep', '600']); " \\
       "open(os.path.join(sys.argv[1], sys.argv[2]), 'a').write(f'{os.getpid()} {child.pid}\\\\n'); time.sleep(600)"
programs = [Program(n, [sys.executable, "-c", code, str(folder), n], {}, (folder / n).exists) for n in ("one", "two")]
keep_running(programs, folder / "logs", print, lambda: (folder / "up").touch())
"""


def program(code: str, name: str = "program", ready_s: float = 30.0, ready: bool = True) -> Program:
    return Program(name, [sys.executable, "-c", code], dict(os.environ), lambda: ready, ready_s)


def test_settings_that_a_program_refuses_end_everything_with_its_last_line(tmp_path: Path) -> None:
    bad = "import sys, time; time.sleep(0.1); print('bad: key x', file=sys.stderr); sys.exit(2)"
    with pytest.raises(RunError, match=r"bad refused its settings: bad: key x \(log: .*bad.log\)"):
        keep_running(
            [program("import time; time.sleep(600)", "good"), program(bad, "bad")], tmp_path, print, lambda: None
        )
    assert (tmp_path / "bad.log").stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_not_ready_in_time_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="slow did not start: it printed nothing"):
        keep_running([program("import time; time.sleep(600)", "slow", 0.3, ready=False)], tmp_path, print, lambda: None)


def test_a_program_that_ends_is_started_again(tmp_path: Path) -> None:
    said: list[str] = []
    code = f"import sys; f = open({str(tmp_path / 'starts')!r}, 'a'); f.write('x'); f.close(); sys.exit(3)"

    def stop() -> None:
        wait_until(lambda: len(said) >= 2, 60)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    keep_running([program(code)], tmp_path / "logs", said.append, lambda: None)
    assert len((tmp_path / "starts").read_text()) >= 2
    assert said[0].startswith("program ended with status 3; again in 1 s")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells children of their parent's death on Linux")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_however_the_supervisor_ends_its_programs_end(tmp_path: Path, kind: signal.Signals) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISOR, str(tmp_path)], start_new_session=True)
    try:
        assert wait_until((tmp_path / "up").exists, 60)
        pids = [int(p) for n in ("one", "two") for p in (tmp_path / n).read_text().split()]
        programs, grandchildren = pids[::2], pids[1::2]
        assert all(map(alive, pids))
        supervisor.send_signal(kind)
        assert wait_until(lambda: not any(map(alive, programs)), 30)
        if kind != signal.SIGKILL:
            assert supervisor.wait(30) == 0
            assert wait_until(lambda: not any(map(alive, grandchildren)), 10)
        for pid in filter(alive, grandchildren):
            os.kill(pid, signal.SIGKILL)
    finally:
        supervisor.kill()
        supervisor.wait()


def test_a_large_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emgup_model.processes.MAX_LOG_BYTES", 10)
    (tmp_path / "bad.log").write_text("x" * 100)
    with pytest.raises(RunError):
        keep_running([program("import sys; sys.exit(2)", "bad", 5, ready=False)], tmp_path, print, lambda: None)
    assert (tmp_path / "bad.log.1").read_text() == "x" * 100
    assert (tmp_path / "bad.log").read_text() == ""


def test_flower_is_silent_confined_and_goes_through_no_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "http_proxy", "FLWR_OIDC_ENABLED", "FLWR_TELEMETRY_ENABLED"):
        monkeypatch.setenv(name, "1")
    environment = flower_environment(tmp_path)
    assert not [k for k in environment if k.lower().endswith("_proxy")]
    assert "FLWR_OIDC_ENABLED" not in environment
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert environment["FLWR_HOME"] == str(tmp_path)
    code = "from flwr.supercore import telemetry, update_check; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
