"""The ledger of uses and the audit log: durable, tamper-evident, and shut when in doubt."""

from __future__ import annotations

import base64
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from emgup_client.egress.audit import FILE, AuditLog, first_break, read_audit
from emgup_client.egress.audit_cli import audit, check_policy
from emgup_client.egress.policy import EgressPolicy
from emgup_client.egress.record import EgressError
from emgup_client.egress.use_ledger import FILE as USES
from emgup_client.egress.use_ledger import UseLedger
from emgup_model.config import configs_dir
from emgup_model.errors import DataError
from tests.client.egress.stub import POLICY, make_policy

LEVELS = {"predictions_changed": 5, "confidence": 14}
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000_000.0

    def __call__(self) -> float:
        return self.now


def ledger(home: Path, clock: Clock, **limits: object) -> UseLedger:
    return UseLedger(home, make_policy(**limits), clock)


def test_a_day_and_a_life_are_limited_also_after_restarts(tmp_path: Path) -> None:
    clock = Clock()
    for day in range(3):
        made = ledger(tmp_path, clock, reports_per_day=1)
        assert made.report("r", f"c{day}", LEVELS)[1]
        made.close()
        made = ledger(tmp_path, clock, reports_per_day=1)
        with pytest.raises(EgressError, match="for a day" if day < 2 else "for life"):
            made.report("r", "another", LEVELS)
        made.close()
        clock.now += DAY + 1
    made = ledger(tmp_path, clock, reports_per_day=1)
    with pytest.raises(EgressError, match="for life"):
        made.report("r", "c9", LEVELS)
    made.close()


def test_the_same_cell_gets_the_same_noisy_values_for_ever(tmp_path: Path) -> None:
    limits = {**POLICY["limits"], "epsilon_for_life": 2.0}
    noise = {"kind": "laplace", "epsilon": 1.0}
    policy = EgressPolicy.model_validate({**POLICY, "noise": noise, "limits": limits})
    first = UseLedger(tmp_path, policy)
    sent, fresh = first.report("r", "c", LEVELS)
    assert fresh
    assert first.report("r", "c", {"predictions_changed": 0, "confidence": 0}) == (sent, False)
    first.close()
    again = UseLedger(tmp_path, policy)
    assert again.report("r", "c", LEVELS) == (sent, False)
    assert again.epsilon == pytest.approx(1.0)
    again.close()


def test_repeated_answers_are_counted_and_end(tmp_path: Path) -> None:
    """Else hostile code could tell bits for ever by when it answers."""
    made = ledger(tmp_path, Clock(), statuses_per_day=2)
    made.report("r", "c", LEVELS)
    made.report("r", "c", LEVELS)
    made.report("r", "c", LEVELS)
    with pytest.raises(EgressError, match="statuses for a day"):
        made.report("r", "c", LEVELS)
    made.close()


@pytest.mark.parametrize(("epsilon", "reports"), [(2.5, 2), (3.0, 3)])
def test_epsilon_for_life_is_enforced_and_may_be_spent_to_the_end(tmp_path: Path, epsilon: float, reports: int) -> None:
    limits = {**POLICY["limits"], "epsilon_for_life": epsilon, "reports_per_day": 9, "reports_for_life": 9}
    noise = {"kind": "laplace", "epsilon": 1.0}
    made = UseLedger(tmp_path, EgressPolicy.model_validate({**POLICY, "noise": noise, "limits": limits}))
    for cell in range(reports):
        made.report("r", str(cell), LEVELS)
    with pytest.raises(EgressError, match="epsilon for life"):
        made.report("r", "one more", LEVELS)
    made.close()


@pytest.mark.parametrize("step", [-10 * DAY, -1.0, 0.0, DAY / 2])
def test_a_clock_set_back_gives_no_second_day(tmp_path: Path, step: float) -> None:
    clock = Clock()
    made = ledger(tmp_path, clock, reports_per_day=1)
    made.report("r", "1", LEVELS)
    made.close()
    clock.now += step
    made = ledger(tmp_path, clock, reports_per_day=1)
    with pytest.raises(EgressError, match="for a day"):
        made.report("r", "2", LEVELS)
    made.close()


def test_a_debit_that_cannot_be_made_durable_sends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = ledger(tmp_path, Clock())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("emgup_client.egress.appending.os.fsync", full)
    with pytest.raises(OSError, match="space"):
        made.report("r", "1", LEVELS)
    monkeypatch.undo()
    assert made.reports == 0
    assert made.report("r", "1", LEVELS)[1]
    made.close()
    assert len((tmp_path / USES).read_text().splitlines()) == 1


@pytest.mark.parametrize("room", [0, 1, 40])
def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, room: int) -> None:
    """The kernel cuts the write off in the middle, as a full disk does."""
    log = AuditLog(tmp_path)
    log.note("pull-messages", True, "", b"x" * 50)
    size = (tmp_path / FILE).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + room, hard))
    try:
        with pytest.raises(OSError):
            log.note("push-object", True, "", b"y" * 50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / FILE).stat().st_size == size
    log.note("push-object", True, "", b"y" * 50)
    log.close()
    assert [line["kind"] for line in read_audit(tmp_path)] == ["pull-messages", "push-object"]
    assert first_break(read_audit(tmp_path)) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from emgup_client.egress.use_ledger import UseLedger
from emgup_client.egress.policy import EgressPolicy
made = UseLedger(Path(sys.argv[1]), EgressPolicy.model_validate_json(sys.argv[2]))
levels, fresh = made.report("r", "c", {"predictions_changed": 5, "confidence": 14})
print(sorted(levels.items()), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_debit_survives_sigkill(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), make_policy(reports_per_day=1).model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    made = UseLedger(tmp_path, make_policy(reports_per_day=1))
    levels, fresh = made.report("r", "c", {"predictions_changed": 0, "confidence": 0})
    assert not fresh
    assert str(sorted(levels.items())) == done.stdout.strip()
    with pytest.raises(EgressError):
        made.report("r", "d", LEVELS)
    made.close()


def test_a_torn_last_line_was_never_sent_and_is_cut_off(tmp_path: Path) -> None:
    made = ledger(tmp_path, Clock())
    made.report("r", "1", LEVELS)
    made.close()
    with (tmp_path / USES).open("ab") as file:
        file.write(b'{"kind":"rep')
    made = ledger(tmp_path, Clock())
    assert made.reports == 1
    made.close()


@pytest.mark.parametrize("damage", [b"{}\n", b"\0\0\n", b'{"kind":"report","time":-1}\n', b"[1]\n"])
def test_a_damaged_ledger_lets_nothing_out(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / USES).write_bytes(damage)
    with pytest.raises(DataError, match="damaged"):
        ledger(tmp_path, Clock())


def test_a_ledger_and_a_log_have_one_holder_and_are_private(tmp_path: Path) -> None:
    home = tmp_path / "home"
    made, log = ledger(home, Clock()), AuditLog(home)
    with pytest.raises(DataError, match="another process"):
        ledger(home, Clock())
    with pytest.raises(DataError, match="another process"):
        AuditLog(home)
    made.close()
    log.close()
    assert home.stat().st_mode & 0o777 == 0o700
    assert {(home / name).stat().st_mode & 0o777 for name in (USES, FILE)} == {0o600}


def written(home: Path) -> list[dict[str, object]]:
    log = AuditLog(home)
    log.note("activate-node", True, "", b"\x01\x02")
    log.note("reply", False, "not one record")
    log.note("push-object", True, "", b"\x03")
    log.close()
    return read_audit(home)


def test_the_log_has_the_agreed_form(tmp_path: Path) -> None:
    lines = written(tmp_path)
    assert set(lines[0]) == {"seq", "time", "direction", "kind", "allowed", "reason", "bytes", "prev", "hash"}
    assert set(lines[1]) == {"seq", "time", "direction", "kind", "allowed", "reason", "prev", "hash"}
    assert base64.b64decode(str(lines[0]["bytes"])) == b"\x01\x02"
    assert lines[0]["prev"] == "0" * 64
    assert lines[1]["prev"] == lines[0]["hash"]
    assert all(isinstance(line["time"], float) for line in lines)  # seconds with their thousandths
    assert first_break(lines) is None


@pytest.mark.parametrize("index", [0, 1, 2])
@pytest.mark.parametrize("what", ["bytes", "reason", "time", "allowed", "drop", "swap", "twice"])
def test_any_change_to_the_log_is_found(tmp_path: Path, index: int, what: str) -> None:
    lines = written(tmp_path)
    match what:
        case "drop":
            if index == 2:
                pytest.skip("a cut end is found by the last hash only")
            del lines[index]
        case "swap":
            lines[index], lines[index - 1] = lines[index - 1], lines[index]
        case "twice":
            lines.insert(index, lines[index])
        case _:
            lines[index][what] = {"bytes": "AAAA", "reason": "other", "time": 1.0, "allowed": "yes"}[what]
    assert first_break(lines) is not None
    (tmp_path / FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError):
        AuditLog(tmp_path)


def test_a_log_torn_by_a_kill_says_so_and_goes_on(tmp_path: Path) -> None:
    written(tmp_path)
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"seq":3,"kin')
    log = AuditLog(tmp_path)
    log.note("pull-messages", True, "", b"x")
    log.close()
    lines = read_audit(tmp_path)
    assert [line["kind"] for line in lines[3:]] == ["recovered", "pull-messages"]
    assert first_break(lines) is None


def test_the_command_prints_everything_that_left(tmp_path: Path) -> None:
    written(tmp_path)
    app = typer.Typer()
    app.command()(audit)
    app.command()(check_policy)
    done = CliRunner().invoke(app, ["audit", "--home", str(tmp_path), "--verify", "--bytes"])
    assert done.exit_code == 0, done.output
    assert "0102" in done.output
    assert "REFUSED" in done.output
    assert "not one record" in done.output
    assert f"3 lines, the chain is intact; last hash {read_audit(tmp_path)[-1]['hash']}" in done.output
    done = CliRunner().invoke(app, ["check-policy", str(configs_dir() / "privacy" / "default.yaml")])
    assert "3 scalars, 10 bits" in done.output
    assert "can never carry more than 4392 bits" in done.output


def test_the_commands_know_the_home_from_the_environment_and_miss_one_that_is_not_there(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "policy.yaml").write_text((configs_dir() / "privacy" / "default.yaml").read_text())
    there, absent = {"EMGUP_HOME": str(tmp_path)}, {"EMGUP_HOME": str(tmp_path / "absent")}
    assert "3 lines, the chain is intact" in emgup_client("audit", "--verify", environment=there).stdout
    assert "3 scalars, 10 bits" in emgup_client("policy", environment=there).stdout
    missed = emgup_client("audit", "--verify", environment=absent)
    assert missed.returncode != 0
    assert "no client's folder at" in missed.stderr


def emgup_client(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "emgup_simulation.cli", "client", *arguments]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
