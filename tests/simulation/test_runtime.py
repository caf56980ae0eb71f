"""The real Flower runtime with Ray. Faults are injected by an app bundle that carries a faulty module."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from emgup_model.evaluation.results import ResultRow, read_results
from emgup_model.processes import free_port
from emgup_model.provenance import code_hash
from emgup_server.ledger import Ledger
from emgup_server.transcript import read_transcript
from emgup_simulation import launch
from emgup_simulation.client_app import app
from emgup_simulation.guardian import descendants
from emgup_simulation.local import LocalGrid
from emgup_simulation.report import read_run_info
from emgup_simulation.server_app import serve
from emgup_simulation.simulate import simulate
from tests.federation import FAST, Toy, copy_of, make_toy
from tests.simulation.test_federation import CANARY, decode, everything_the_server_has

pytestmark = pytest.mark.flower

CLIENT = """
import os, signal, time
from pathlib import Path
from emgup_client import app as real
from emgup_simulation import client_app

adapt = real.personalize
marks = Path({marks!r})

def personalize(path, *rest):
    user = path.stem
    {fault}
    return adapt(path, *rest)

def settings_from_context(context):  # pickled by name: importing this module is what injects the fault
    real.personalize = personalize
    return client_app.settings_from_context(context)

app = real.make_app(settings_from_context)
"""
SERVER = """
from flwr.serverapp import ServerApp
app = ServerApp()

@app.main()
def main(grid, context):
    raise RuntimeError("the server app failed on purpose")
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return make_toy(tmp_path_factory.mktemp("runtime"), federation={"supernodes": 3, "attempts": 3})


@pytest.fixture
def toy(prepared: Toy, tmp_path: Path) -> Toy:
    return copy_of(prepared, tmp_path / "run")


@pytest.fixture
def flower_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the Flower home as it was when the run had ended."""
    copy, homes = tmp_path / "flower_home", []
    environment, end = launch._environment, launch._end

    def keep(guardian: subprocess.Popen[bytes]) -> None:
        shutil.copytree(homes[-1], copy, ignore=lambda *_: ["sockets"])
        end(guardian)
        assert not homes[-1].exists()

    monkeypatch.setattr(launch, "_environment", lambda home: environment(home) if homes.append(home) is None else {})
    monkeypatch.setattr(launch, "_end", keep)
    return copy


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the runtime run an app with a fault in one of its components."""

    def inject(fault: str = "", component: str = "client") -> Path:
        folder = tmp_path / "app"
        folder.mkdir()
        marks = tmp_path / "marks"
        marks.mkdir()
        source = CLIENT.format(marks=str(marks), fault=fault) if component == "client" else SERVER
        (folder / "faulty.py").write_text(source)
        text = (launch.app_folder() / "pyproject.toml").read_text()
        text = text.replace('["pyproject.toml"]', '["pyproject.toml", "faulty.py"]')
        text = text.replace(f"emgup_simulation.{component}_app:app", "faulty:app")
        (folder / "pyproject.toml").write_text(text)
        monkeypatch.setattr(launch, "app_folder", lambda: folder)
        return marks

    return inject


def run(toy: Toy, **federation: object) -> tuple[int, str]:
    """`emgup simulate`, in this process: exit status and what it printed."""
    out = io.StringIO()
    changed = toy.experiment.federation.model_copy(update=federation)
    experiment = toy.experiment.model_copy(update={"federation": changed})
    status = simulate(experiment, toy.run, Console(file=out, width=120))
    assert descendants(os.getpid()) == []
    return status, out.getvalue()


def table(rows: tuple[ResultRow, ...]) -> list[ResultRow]:
    return [r.model_copy(update={"adapt_seconds": 0.0}) for r in rows]


def undisturbed(prepared: Toy, folder: Path) -> list[ResultRow]:
    toy = copy_of(prepared, folder)
    serve(LocalGrid(app, 1, toy.run_config), toy.experiment, toy.run, FAST)
    return table(read_results(toy.run.results))


def test_a_failing_client_harms_nobody_and_its_words_stay_with_it(
    toy: Toy, flower_home: Path, faulty: Callable[..., Path], prepared: Toy, tmp_path: Path
) -> None:
    marks = faulty("if user == 'u2': text = (marks / 'canary').read_text(); print(text); raise ValueError(text)")
    (marks / "canary").write_text(CANARY)
    status, printed = run(toy)
    assert status == 1
    assert "user u2: internal" in printed
    rows = read_results(toy.run.results)
    assert {(r.user, r.status) for r in rows} == {("u0", "ok"), ("u1", "ok"), ("u2", "internal"), ("u3", "ok")}
    expected = [r for r in undisturbed(prepared, tmp_path / "local") if r.user != "u2"]
    assert [r for r in table(rows) if r.user != "u2"] == expected

    assert CANARY in (toy.run.client_home / "client.log").read_text()
    assert CANARY not in everything_the_server_has(toy)  # the transcript, the runtime's log, the results
    assert CANARY not in printed
    files = [path for path in flower_home.rglob("*") if path.is_file()]
    assert any(path.read_bytes().startswith(b"SQLite format 3") for path in files)
    assert [path for path in files if CANARY.encode() in path.read_bytes()] == []  # Flower's database, logs, Ray's logs
    for line in read_transcript(toy.run.transcript):
        decode(line)


def test_a_failing_server_app_is_a_failed_run(toy: Toy, faulty: Callable[..., Path]) -> None:
    faulty(component="server")
    status, printed = run(toy)
    assert status == 1
    assert "8 of 8 cells have no result" in printed
    assert "finished:failed" in printed
    assert "attempt 2" not in printed  # nobody was asked: trying again is pointless


def test_two_source_seeds_of_a_synthetic_cohort(tmp_path: Path) -> None:
    """Cohort, source training and federation through the command, from an empty folder."""
    plain = {
        "name": "seeds",
        "synthetic": {"users": 3, "gestures": 2, "repetitions": 2, "seconds": 3.0},
        "windows": {"length": 52, "hop": 20, "sequence_length": 4},
        "backbone": {"kind": "cnn", "width": 8, "embedding_dim": 8},
        "pretrain": {"epochs": 1, "batch_windows": 32, "seeds": [0, 1]},
        "folds": {"count": 3},
        "only_folds": [1],
        "methods": ["adabn"],
    }
    (tmp_path / "seeds.yaml").write_text(yaml.safe_dump(plain))
    out, log = tmp_path / "run", tmp_path / "log"

    def emgup(*overrides: str) -> int:
        command = [sys.executable, "-m", "emgup_simulation.cli", "simulate", str(tmp_path / "seeds.yaml"), *overrides]
        with log.open("wb") as output:
            return subprocess.run([*command, "--out", str(out)], stdout=output, stderr=output).returncode

    assert emgup() == 0, log.read_text()
    rows = read_results(out / "results.csv")
    assert [(r.fold, r.source_seed, r.seed, r.status) for r in rows] == [(1, 0, 0, "ok"), (1, 1, 0, "ok")]
    entries = [json.loads(path.read_text()) for path in (out / "cells").iterdir()]
    assert len({entry["release_id"] for entry in entries}) == len(entries) == 2
    assert len({path.read_bytes() for path in (out / "releases").glob("*/weights.safetensors")}) == 2
    info = read_run_info(out, rows)
    assert info.unsure is None
    assert [(m.cells, m.origin.code) for m in info.made_by] == [(2, code_hash())]
    assert f"code {code_hash()[:12]}" in (out / "report.html").read_text()
    before = (out / "results.csv").read_bytes()
    assert emgup("pretrain.seeds=[1]") == 2
    assert "pretrain.seeds was [0, 1], is now [1]" in log.read_text()
    assert (out / "results.csv").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [1, 5])
def test_any_number_of_nodes_gives_the_same_table(toy: Toy, prepared: Toy, tmp_path: Path, nodes: int) -> None:
    assert run(toy, supernodes=nodes)[0] == 0
    assert table(read_results(toy.run.results)) == undisturbed(prepared, tmp_path / "local")


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [1, 2], ids=["one worker", "every worker"])
def test_a_killed_ray_worker_changes_nothing(
    toy: Toy, prepared: Toy, tmp_path: Path, faulty: Callable[..., Path], deaths: int
) -> None:
    marks = faulty(
        f"""
    mark = marks / str(len(list(marks.iterdir())))
    if user == "u1" and len(list(marks.iterdir())) < {deaths}:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)"""
    )
    assert run(toy)[0] == 0
    assert len(list(marks.iterdir())) == deaths
    assert table(read_results(toy.run.results)) == undisturbed(prepared, tmp_path / "local")


@pytest.mark.slow
def test_a_user_that_always_kills_its_worker_is_given_up_and_the_others_are_done(
    tmp_path: Path, faulty: Callable[..., Path]
) -> None:
    toy = make_toy(tmp_path, methods=["adabn"])
    faulty("if user == 'u1': os.kill(os.getpid(), signal.SIGKILL)")
    status, printed = run(toy, attempts=6)
    assert status == 1
    statuses = {(r.user, r.status) for r in read_results(toy.run.results)}
    assert statuses == {("u0", "ok"), ("u1", "crashed"), ("u2", "ok"), ("u3", "ok")}, printed


@pytest.mark.slow
def test_a_client_that_hangs_times_out_and_the_run_ends(
    toy: Toy, faulty: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "HANG_S", 3.0)
    faulty("if user == 'u1': time.sleep(3600)")
    status, _ = run(toy, reply_timeout_s=15.0, attempts=1)
    assert status == 1
    timeouts = {(r.user, r.method) for r in read_results(toy.run.results) if r.status == "timeout"}
    assert {user for user, _ in timeouts} >= {"u1"}


def start(toy: Toy, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "emgup_simulation.cli", "simulate", toy.run_config["experiment"]]
    with log.open("wb") as output:
        return subprocess.Popen(
            [*command, "--out", str(toy.run.path)],
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=listen_to_ctrl_c,
        )


def listen_to_ctrl_c() -> None:
    """A shell's background jobs, and so what they start, ignore SIGINT: undo that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


def gone(pids: list[int]) -> bool:
    for pid in pids:
        with contextlib.suppress(OSError):
            if not (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0].startswith("Z"):
                return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_driver_stopped_in_the_middle_leaves_no_process_and_is_continued(
    tmp_path: Path, kind: signal.Signals
) -> None:
    prepared = make_toy(tmp_path / "toy", methods=["source_only", "emgup_paper"], seeds=list(range(8)))
    toy = copy_of(prepared, tmp_path / "run")
    driver = start(toy, tmp_path / "driver.log")
    try:
        assert wait_until(lambda: len(list(toy.run.cells.glob("*.json"))) >= 3, 90), (
            tmp_path / "driver.log"
        ).read_text()
        family = descendants(driver.pid)
        assert len(family) > 4
        driver.send_signal(kind)
        driver.wait(30)
        assert wait_until(lambda: gone(family), 20), [p for p in family if not gone([p])]
    finally:
        driver.kill()
    ledger = Ledger(toy.run.cells)
    done = {
        c.key: (toy.run.cells / f"{c.key}.json").read_bytes() for c in toy.cells if c not in ledger.missing(toy.cells)
    }
    assert 0 < len(done) < len(toy.cells), "the run was not stopped in its middle"

    assert start(toy, tmp_path / "again.log").wait(180) == 0, (tmp_path / "again.log").read_text()
    assert all((toy.run.cells / f"{key}.json").read_bytes() == data for key, data in done.items())
    assert table(read_results(toy.run.results)) == undisturbed(prepared, tmp_path / "local")


@pytest.mark.slow
def test_flwr_run_simulation_typed_literally(toy: Toy, tmp_path: Path) -> None:
    """The command of the README, in a Flower home of its own; the SuperLink it leaves running is ended here."""
    home = tmp_path / "flower"
    environment = {
        **launch._environment(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_port()),
        "RAY_TMPDIR": "/tmp",
    }
    values = f'experiment="{toy.run_config["experiment"]}" out="{toy.run.path}"'
    command = ["flwr", "run", "simulation", "--stream", "--run-config", values]
    command += ["--federation-config", "num-supernodes=5 client-resources-num-cpus=1"]
    # the guardian ends the SuperLink, which would otherwise stay
    guardian = [sys.executable, "-m", "emgup_simulation.guardian", str(home), *command]
    log, folder = tmp_path / "flwr.log", launch.app_folder().parent
    with (
        log.open("wb") as out,
        subprocess.Popen(
            guardian, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=out
        ) as process,
    ):
        assert process.wait(180) == 0
    assert {r.status for r in read_results(toy.run.results)} == {"ok"}, log.read_text()
    assert "8 cells done, 0 failed" in log.read_text()
