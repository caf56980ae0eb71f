"""The sandbox on a real deployment: hostile code in the ClientApp's process gets nowhere, and the work is done."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emgup_client.sandbox.support import look
from tests.client.sandbox.attack import World, found, world
from tests.deployment.stage import Stage, emgup, stage, toy_user, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.flower,
    pytest.mark.skipif(not look().complete, reason=f"no whole sandbox here: {look()}"),
]
PROGRAMS = {"gate", "supernode", "superexec"}
TASK = "emgup_client.deployment.task"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stage, World]]:
    """One user whose ClientApp processes run hostile code before anything else, after one run."""
    folder = tmp_path_factory.mktemp("sandbox")
    with stage(folder) as made, pytest.MonkeyPatch.context() as patch:
        user = made.add_user("anna", toy_user(0))
        with world(folder / "world", user.home) as around:
            for name, value in around.environment(TASK).items():
                patch.setenv(name, value)
            user.start()
            assert user.running is not None
            user.running.wait_until_up()
            assert wait_until(lambda: set(user.running.children()) == PROGRAMS, 60)
            around.aim({**user.running.children(), "neighbour": around.neighbour})
            made.run("--method", "adabn", "--clients", 1, "--name", "attacked")
            yield made, around


def test_the_work_is_done_in_the_sandbox(attacked: tuple[Stage, World]) -> None:
    made, _ = attacked
    user = made.users[0]
    assert made.answers("attacked")["anna"].status == "reported"
    assert (user.cells[0] / "weights.safetensors").stat().st_size > 1000
    assert "sandbox: files, sockets, TCP ports" in (made.folder / "anna.log").read_text()
    assert "sandbox  files, sockets, TCP ports" in emgup("client", "status", "--home", user.home).stdout


def test_hostile_code_in_the_client_app_reaches_nothing(attacked: tuple[Stage, World]) -> None:
    made, around = attacked
    attacks = found(made.users[0].home / "tmp" / "task")
    assert len(attacks) > 40
    harmless = {"tcp", "tcp to another address"}  # they reach the SuperNode, whatever was asked for
    got = {name: what for name, what in attacks.items() if not what.startswith("refused") and name not in harmless}
    assert got == {}
    assert around.reached == []
