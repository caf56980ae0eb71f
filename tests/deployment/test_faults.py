"""The last table of the privacy document, row by row, on real processes: kill, cut, fill, corrupt; nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.torch import save as save_safetensors

from emgup_client.deployment.config import choose_device
from emgup_client.vault import LOCK, private_dir
from emgup_model.data.store import Recording, write_user
from emgup_model.keys import read_trusted
from emgup_model.lock import exclusive
from emgup_model.methods import load_method
from emgup_model.personalize import personalize
from emgup_model.release import load_release, state_tensors
from emgup_model.task import Task
from tests.deployment.stage import PATIENCE_S, Stage, User, stage, toy_user, wait_until
from tests.toy import toy_info

pytestmark = [pytest.mark.slow, pytest.mark.flower]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with stage(tmp_path_factory.mktemp("faults")) as made:
        for number, name in enumerate(("dina", "emil")):
            made.add_user(name, toy_user(number, seconds=120.0))
        made.users[0].configure(device="cuda")
        for user in made.users:
            user.start()
        for user in made.users:
            assert user.running is not None
            user.running.wait_until_up()
        yield made


@pytest.fixture
def dina(two: Stage) -> User:
    return two.users[0]


def again(two: Stage, *arguments: object) -> None:
    """The same command until it is done; three times at most, as a supervisor would."""
    for _ in range(3):
        if two.run(*arguments, ok=False).returncode == 0:
            return
    raise AssertionError(two.run(*arguments, ok=False).stdout)


def reference(two: Stage, user: User, seed: int) -> bytes:
    """The weights that an undisturbed adaptation makes."""
    release = load_release(two.release, read_trusted(user.home / "trusted_release_keys.txt"))
    task = Task(load_method("emgup_paper"), "transductive", seed=seed)
    return save_safetensors(state_tensors(personalize(user.recordings, release, task).adaptation.model))


def test_a_killed_client_app_changes_nothing_in_the_end(two: Stage, dina: User) -> None:
    arguments = ("--method", "emgup_paper", "--seed", 1, "--clients", 2, "--name", "task-killed")
    assert dina.running is not None
    run = two.start_run(*arguments)
    cell = two.wait_until_adapting(dina, "task-killed")
    os.kill(dina.running.task(), signal.SIGKILL)
    assert run.wait(PATIENCE_S) == 1
    assert two.answers("task-killed")["emil"].status == "reported"
    again(two, *arguments)
    assert (cell / "weights.safetensors").read_bytes() == reference(two, dina, 1)
    assert dina.uses("report") == 1


@pytest.mark.parametrize(("program", "seed"), [("supernode", 2), ("gate", 7)])
def test_a_killed_program_is_back_and_the_result_is_told_without_training_again(
    two: Stage, dina: User, program: str, seed: int
) -> None:
    name = f"{program}-killed"
    arguments = ("--method", "emgup_paper", "--seed", seed, "--clients", 2, "--name", name)
    assert dina.running is not None
    run = two.start_run(*arguments)
    cell = two.wait_until_adapting(dina, name)
    killed = dina.running.children()[program]
    os.kill(killed, signal.SIGKILL)
    assert wait_until((cell / "reply.json").exists, PATIENCE_S)
    made = (cell / "reply.json").stat().st_mtime_ns
    run.wait(PATIENCE_S)
    again(two, *arguments)
    assert two.answers(name)["dina"].status == "reported"
    assert (cell / "reply.json").stat().st_mtime_ns == made
    assert dina.running.children()[program] != killed


def test_a_killed_superlink_is_back_and_the_next_run_collects(two: Stage, dina: User) -> None:
    arguments = ("--method", "emgup_paper", "--seed", 3, "--clients", 2, "--name", "superlink-killed")
    assert two.server is not None
    run = two.start_run(*arguments)
    cell = two.wait_until_adapting(dina, "superlink-killed")
    os.kill(two.server.children()["superlink"], signal.SIGKILL)
    assert wait_until((cell / "reply.json").exists, PATIENCE_S)
    made = (cell / "reply.json").stat().st_mtime_ns
    used = dina.uses("report")
    run.wait(PATIENCE_S)
    again(two, *arguments)
    assert {a.status for a in two.answers("superlink-killed").values()} == {"reported"}
    assert (cell / "reply.json").stat().st_mtime_ns == made
    assert dina.uses("report") <= used + 1


@pytest.mark.parametrize("seconds", [20, 75])
def test_a_cut_network_costs_one_report_and_the_cohort_without_it_is_called_partial(
    two: Stage, dina: User, seconds: int
) -> None:
    name = f"cut-{seconds}"
    arguments = ("--method", "emgup_paper", "--seed", seconds, "--clients", 2, "--name", name)
    used = dina.uses("report")
    run = two.start_run(*arguments)
    cell = two.wait_until_adapting(dina, name)
    with dina.relay.cut():
        time.sleep(seconds)
    status = run.wait(PATIENCE_S)
    assert run.stdout is not None
    assert ("partial" in run.stdout.read()) == (status == 1)
    assert two.answers(name)["emil"].status == "reported"
    again(two, *arguments)
    assert two.answers(name)["dina"].status == "reported"
    assert dina.uses("report") == used + 1
    assert (cell / "weights.safetensors").read_bytes() == reference(two, dina, seconds)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="makes a small file system")
def test_a_full_disk_keeps_the_old_files_and_the_next_run_has_the_new(two: Stage, dina: User) -> None:
    vault = dina.home / "vault" / "me"
    vault.mkdir(parents=True, exist_ok=True)
    arguments = ("--method", "adabn", "--seed", 4, "--clients", 2, "--name", "disk-full")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k,mode=0700", "emgup-test", vault], check=False)
    if mounted.returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        assert two.run(*arguments, ok=False).returncode == 1
        assert two.answers("disk-full")["dina"].status == "storage_error"
        assert two.answers("disk-full")["emil"].status == "reported"
        left = [p.name for p in vault.rglob("*") if p.is_file() and p.name not in (".lock", ".attempts")]
        assert left == []
        subprocess.run(["mount", "-o", "remount,size=4m", vault], check=True)
        again(two, *arguments)
        assert two.answers("disk-full")["dina"].status == "reported"
        assert (vault / two.cell("disk-full") / "reply.json").exists()
    finally:
        subprocess.run(["umount", vault], check=True)


@pytest.mark.parametrize(
    ("damage", "seed"), [("truncated", 5), ("flipped", 10), ("nan", 11), ("silent", 12), ("short", 13)]
)
def test_a_damaged_recording_is_a_coded_status_and_no_weight_changes(
    two: Stage, dina: User, damage: str, seed: int
) -> None:
    """Every method, without a server: tests/client/test_hard_users.py. Each seed is another cell to answer."""
    arguments = ("--method", "adabn", "--seed", seed, "--clients", 2, "--name", f"damaged-{damage}")
    kept = dina.recordings.read_bytes()
    before = {p: p.read_bytes() for c in dina.cells for p in c.iterdir() if p.suffix}
    try:
        if damage == "truncated":
            dina.recordings.write_bytes(kept[: len(kept) // 2])
        elif damage == "flipped":
            middle = len(kept) // 2
            flipped = bytes(b ^ 255 for b in kept[middle : middle + 4096])
            dina.recordings.write_bytes(kept[:middle] + flipped + kept[middle + 4096 :])
        elif damage == "nan":
            poison(dina.recordings)
        else:
            emg = np.zeros((1200, 4)) if damage == "silent" else toy_user(0)[0].emg[:80]
            write_user(dina.recordings, toy_info("dina"), [Recording("r", 0, 0, 0.0, emg.astype(np.float32), None)])
        assert two.run(*arguments, ok=False).returncode == 1
    finally:
        dina.recordings.write_bytes(kept)
    assert two.answers(f"damaged-{damage}")["dina"].status == "data_error"
    assert two.answers(f"damaged-{damage}")["emil"].status == "reported"
    assert {p: p.read_bytes() for c in dina.cells for p in c.iterdir() if p.suffix} == before
    if damage == "nan":
        again(two, *arguments)
        assert two.answers("damaged-nan")["dina"].status == "reported"


def poison(path: Path) -> None:
    """One sample of one recording is not a number."""
    with h5py.File(path, "r+") as file:
        found: list[h5py.Dataset] = []

        def look(_: str, item: object) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim == 2:
                found.append(item)

        file.visititems(look)
        found[0][3, 1] = np.nan


def test_a_user_of_whom_the_model_is_never_sure_keeps_the_released_weights(two: Stage, dina: User) -> None:
    """The release is of an untrained network: no sequence is confident, no gesture ever convinces it."""
    two.run("--method", "emgup", "--seed", 8, "--clients", 2, "--name", "unsure")
    answer = two.answers("unsure")["dina"]
    assert answer.status == "reported"
    assert answer.report is not None
    assert answer.report["decision"] == 0
    cell = dina.home / "vault" / "me" / two.cell("unsure")
    made, source = load_file(cell / "weights.safetensors"), load_file(two.release / "weights.safetensors")
    assert all(np.array_equal(weight, source[name]) for name, weight in made.items())
    evaluation = json.loads((cell / "evaluation.json").read_text())
    assert evaluation["log"]["decision"] == "source"
    assert evaluation["device"] == choose_device("cuda")  # a client that is set to CUDA, here without a GPU


def test_a_straggler_is_waited_for_only_so_long(two: Stage, dina: User) -> None:
    """Its ClientApp lives, and waits for a lock; the deadline leaves a busy machine time for the others' answers."""
    arguments = ("--method", "adabn", "--seed", 6, "--clients", 2, "--name", "straggler", "--timeout-s", 60)
    run = two.start_run(*arguments)
    cell = two.wait_for_cell(dina, "straggler")
    with exclusive(private_dir(cell) / LOCK):
        assert run.wait(PATIENCE_S) == 1
    assert run.stdout is not None
    assert "partial" in run.stdout.read()
    assert {n: a.status for n, a in two.answers("straggler").items()} == {"dina": "timeout", "emil": "reported"}
    again(two, *arguments)
    assert {a.status for a in two.answers("straggler").values()} == {"reported"}
