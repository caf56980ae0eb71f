"""`emgup tune`: validation users only, one adaptation where it can be shared, stops and goes on."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import psutil
import pytest
from rich.console import Console

from emgup_model.data.store import read_info
from emgup_model.errors import ConfigError, DataError, RunError
from emgup_model.evaluation.disturbance import UNDISTURBED, Disturbance
from emgup_model.evaluation.results import read_results
from emgup_model.personalize import Personalization, personalize
from emgup_model.release import Release
from emgup_model.task import Task
from emgup_simulation import tune as driver
from emgup_simulation import tune_worker as worker
from emgup_simulation.cells import expected_cells, validation_cells
from emgup_simulation.experiment import Experiment
from emgup_simulation.prepare import Prepared, check_user, prepare
from emgup_simulation.tune import tune
from emgup_simulation.tune_plan import TuneFolder, parse_folds, split_jobs
from tests.federation import Toy, make_sessions_store, make_toy


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return make_toy(tmp_path, federation={"pretrain_processes": 1})


def prepared(toy: Toy, folds: tuple[int, ...] = (0,)) -> Prepared:
    return prepare(toy.experiment, toy.run, only=folds)


def folder_of(toy: Toy) -> TuneFolder:
    folder = TuneFolder.of(toy.run.path, UNDISTURBED)
    folder.path.mkdir(exist_ok=True)
    return folder


def work(toy: Toy, experiment: Experiment | None = None) -> None:
    worker.work(experiment or toy.experiment, prepared(toy), folder_of(toy), UNDISTURBED)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=100)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def gut(path: Path) -> None:
    """Leave nothing of a user's file but its header."""
    with h5py.File(path, "r+") as file:
        for part in ("recordings", "labels"):
            del file[part]
        file.create_group("recordings")


def test_test_users_are_never_opened_or_evaluated(toy: Toy) -> None:
    fold = prepared(toy).folds[0]
    for user in fold.test:
        gut(file := Path(str(toy.experiment.store)) / f"{user}.h5")
        read_info(file)
        with pytest.raises(DataError):  # opening it any further would end the tuning
            check_user(worker.Store(file.parent), user, toy.experiment)
    before, console = toy.run.experiment.read_bytes(), quiet()
    assert tune(toy.experiment, toy.run, (0,), console) == 0
    rows = read_results(toy.run.path / "tune" / "results.csv")
    assert {r.user for r in rows} == set(fold.validation)
    assert {r.fold for r in rows} == {0}
    assert (toy.run.path / "tune" / "users.txt").read_text().split() == list(fold.validation)
    for name in ("results.csv", "users.txt", "choice.md"):
        assert str(toy.run.path / "tune" / name) in printed(console)
    assert toy.run.experiment.read_bytes() == before
    assert not toy.run.results.exists()
    assert not toy.run.cells.exists()


def test_cells_are_the_validation_users_with_the_release_of_their_fold(toy: Toy) -> None:
    made = prepared(toy, (0, 2))
    cells = validation_cells(toy.experiment, made)
    assert {(c.fold, c.user) for c in cells} == {(f.index, u) for f in made.folds for u in f.validation}
    assert {f.index for f in made.folds} == {0, 2}
    releases = {c.fold: c.release_id for c in toy.cells}
    assert all(c.release_id == releases[c.fold] for c in cells)
    tested = expected_cells(toy.experiment, prepare(toy.experiment, toy.run))
    assert not {c.key for c in cells} & {c.key for c in tested}


def test_the_accuracies_are_those_of_the_clients_function(toy: Toy) -> None:
    work(toy)
    made = prepared(toy)
    for cell in validation_cells(toy.experiment, made):
        release = worker.load_release(made.releases[0, 0], made.trusted)
        task = worker.Task(cell.config, cell.protocol, cell.scenario, cell.seed)
        evaluation = personalize(worker.Store(made.store).path(cell.user), release, task).evaluation
        entry = folder_of(toy).ledger.read(cell.key)
        assert evaluation is not None
        assert entry is not None
        assert entry.row.accuracy == pytest.approx(evaluation.accuracy, abs=1e-6)


def counted(monkeypatch: pytest.MonkeyPatch, before: Callable[[int], None] = lambda _: None) -> list[Personalization]:
    done: list[Personalization] = []

    def counting(*arguments: object) -> Personalization:
        before(len(done))
        done.append(personalize(*arguments))  # type: ignore[arg-type]
        return done[-1]

    monkeypatch.setattr(worker, "personalize", counting)
    return done


def test_cells_of_two_source_models_are_never_one_job(toy: Toy) -> None:
    """A job loads one release."""
    cells = validation_cells(toy.experiment, prepared(toy))
    again = [replace(c, source_seed=1, release_id="1" * 64) for c in cells]
    jobs = split_jobs([*cells, *again])
    assert len(jobs) == 2 * len(split_jobs(cells))
    assert all(len({c.release_id for c in job}) == 1 for job in jobs)


def test_protocols_that_differ_in_their_test_windows_share_one_adaptation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_sessions_store(tmp_path / "store")
    protocols = ["transductive", "inductive", "later_sessions", "streaming"]
    toy = make_toy(tmp_path, methods=["adabn"], protocols=protocols)
    done = counted(monkeypatch)
    work(toy)
    (users,) = (f.validation for f in prepared(toy).folds)
    assert len(done) == 4 * len(users)
    assert len({id(d.adaptation) for d in done}) == 3 * len(users)
    assert len(split_jobs(validation_cells(toy.experiment, prepared(toy)))) == 2 * len(users)


def test_a_stopped_run_goes_on_where_it_was(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment = toy.experiment.model_copy(update={"protocols": ("transductive", "inductive"), "seeds": (0, 1)})

    def stop(done: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    counted(monkeypatch, stop)
    with pytest.raises(KeyboardInterrupt):
        work(toy, experiment)
    cells, ledger = validation_cells(experiment, prepared(toy)), folder_of(toy).ledger
    assert len(ledger.missing(cells)) == len(cells) - 3
    kept = {p: p.stat().st_mtime_ns for p in ledger.folder.iterdir()}
    done = counted(monkeypatch)
    work(toy, experiment)
    assert len(done) == len(cells) - 3
    assert not ledger.missing(cells)
    assert kept.items() <= {p: p.stat().st_mtime_ns for p in ledger.folder.iterdir()}.items()
    monkeypatch.setattr(driver, "_start", None)  # nothing is left for a worker
    assert tune(experiment, toy.run, (0,), quiet()) == 0


def test_a_failed_cell_is_in_the_table_and_is_tried_again_by_the_next_run(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = len(prepared(toy).folds[0].validation)

    def fail(done: int) -> None:
        if done == users:
            raise DataError("adaptation diverged")

    def in_process(*_: object) -> subprocess.Popen[bytes]:
        work(toy)
        return subprocess.Popen(["true"], stdin=subprocess.PIPE)

    monkeypatch.setattr(driver, "_start", in_process)
    done, console = counted(monkeypatch, fail), quiet()
    assert tune(toy.experiment, toy.run, (0,), console) == 1
    assert "data_error" in printed(console)
    assert "cells without a score" in (toy.run.path / "tune" / "choice.md").read_text()
    before = len(done)
    counted_again = counted(monkeypatch)
    assert tune(toy.experiment, toy.run, (0,), quiet()) == 0
    assert len(counted_again) == 2 * users - before
    assert "cells without a score" not in (toy.run.path / "tune" / "choice.md").read_text()


def test_a_worker_that_dies_is_reported_with_its_log(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def broken(command: list[str], **rest: object) -> subprocess.Popen[bytes]:
        return real([command[0], "-c", "import os; os.kill(os.getpid(), 9)"], **rest)  # type: ignore[call-overload, no-any-return]

    prepared(toy)
    monkeypatch.setattr("emgup_simulation.tune.subprocess.Popen", broken)
    with pytest.raises(RunError, match="signal 9"):
        tune(toy.experiment, toy.run, (0,), quiet())


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Toy, subprocess.Popen[bytes]]]:
    """A tuning that would take a while, in a process of its own, with its first cells done."""
    toy = make_toy(tmp_path, seeds=list(range(2000)), federation={"pretrain_processes": 2})
    command = [sys.executable, "-m", "emgup_simulation.cli", "tune", toy.run_config["experiment"], "--folds", "0"]
    process = subprocess.Popen([*command, "--out", str(toy.run.path)], stdout=subprocess.PIPE)
    try:
        end = time.monotonic() + 120
        while len(list((toy.run.path / "tune" / "cells").glob("*.json"))) < 5 and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.1)
        yield toy, process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_stops_it_no_process_stays_and_what_was_done_is_kept(
    running: tuple[Toy, subprocess.Popen[bytes]], kind: signal.Signals
) -> None:
    toy, process = running
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) == 2
    process.send_signal(kind)
    status = process.wait(30)
    assert status == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[kind]
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    if kind == signal.SIGINT:
        assert process.stdout is not None
        assert b"the same command goes on from here" in process.stdout.read()
    cells = validation_cells(toy.experiment, prepared(toy))
    assert len(cells) > len(folder_of(toy).ledger.missing(cells)) > 0


@pytest.mark.parametrize(("text", "folds"), [(None, (0, 1, 2, 3, 4)), ("0", (0,)), ("3,1", (1, 3)), ("9, 0,9", (0, 9))])
def test_folds_are_numbers_and_by_default_the_first_half(text: str | None, folds: tuple[int, ...]) -> None:
    assert parse_folds(text, 10) == folds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "fold 10 does not exist; the experiment has the folds 0 to 9"),
        ("0,-1", "fold -1 does not exist"),
        ("", "numbers separated by commas"),
        ("first", "numbers separated by commas"),
    ],
)
def test_other_folds_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_folds(text, 10)


def test_planted_difficulty_has_a_folder_of_its_own_and_reaches_every_task(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Disturbance(turned=2)
    assert tune(toy.experiment, toy.run, (0,), quiet(), planted) == 0
    folder = TuneFolder.of(toy.run.path, planted)
    assert folder.path == toy.run.path / "tune_turned+2"
    assert "turned: 2" in folder.disturbance.read_text()
    assert read_results(folder.results)
    assert not (toy.run.path / "tune").exists()
    told: list[Disturbance] = []
    real = worker.personalize

    def watched(user: Path, release: Release, task: Task, *rest: Any) -> Any:
        told.append(task.disturbance)
        return real(user, release, task, *rest)

    monkeypatch.setattr(worker, "personalize", watched)
    worker.work(toy.experiment, prepared(toy), folder_of(toy), planted)
    assert told
    assert set(told) == {planted}
