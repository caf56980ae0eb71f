"""A registered client that runs no gate and answers what it likes, against the real server, beside an honest one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from emgup_model.processes import end_with_parent, flower_environment, free_port
from emgup_server.deployment.answers import Answer, Answers
from emgup_server.deployment.tables import cohort
from tests.conftest import REPOSITORY
from tests.deployment.stage import Stage, stage, toy_user, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.flower]

APP = """
from pathlib import Path
from flwr.app import Message
from flwr.clientapp import ClientApp
from tests.server.hostile import BAD_CONTENTS, metrics

KINDS = {kinds!r}
app = ClientApp()

@app.query("offer")
def offer(message, context):
    return Message(metrics({{"status": 1}}), reply_to=message)

@app.train()
def train(message, context):
    marks = Path({marks!r})
    kind = KINDS[len(list(marks.iterdir()))]
    (marks / kind).touch()
    return Message(BAD_CONTENTS[kind], reply_to=message)
"""
KINDS = ("nan", "infinity", "text", "extra value", "long key", "list")
METHODS = ("source_only", "adabn", "emgup", "emgup_paper", "adabn_half", "tent")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("hostile")
    with stage(folder) as made:
        honest, hostile = made.add_user("honest", toy_user(0)), made.add_user("hostile", toy_user(1))
        honest.start()
        assert honest.running is not None
        honest.running.wait_until_up()
        package = folder / "evil" / "emgup_client" / "deployment"
        package.mkdir(parents=True)
        (folder / "marks").mkdir()
        for path in (package.parent / "__init__.py", package / "__init__.py"):
            path.touch()
        (package / "client_app.py").write_text(APP.format(kinds=KINDS, marks=str(folder / "marks")))
        code = "from flwr.supernode.cli import flower_supernode; flower_supernode()"
        command = [sys.executable, "-c", code, "--superlink", f"127.0.0.1:{made.port}", "--port", str(free_port())]
        command += ["--root-certificates", str(hostile.home / "keys" / "root_certificates.pem")]
        command += ["--auth-supernode-private-key", str(hostile.home / "keys" / "supernode")]
        environment = flower_environment(folder / "evil-home")
        path = f"{folder / 'evil'}:{REPOSITORY}:{environment.get('PYTHONPATH', '')}"
        with (folder / "evil.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                env={**environment, "PYTHONPATH": path},
                stdout=log,
                stderr=log,
                preexec_fn=end_with_parent if sys.platform == "linux" else None,
            )
        try:
            assert wait_until(lambda: b"SuperNode ID" in (folder / "evil.log").read_bytes(), 90)
            yield made
        finally:
            process.terminate()
            process.wait(30)


def test_a_hostile_client_is_listed_and_the_honest_one_counts_alone(both: Stage) -> None:
    methods = [argument for method in METHODS for argument in ("--method", method)]
    done = both.run(*methods, "--clients", 2, "--name", "hostile", "--timeout-s", 120, ok=False)
    assert done.returncode == 1
    assert "partial" in done.stdout
    answers = Answers(both.server_folder / "runs" / "hostile" / "answers").all()
    by: dict[str, list[Answer]] = {}
    for answer in answers:
        by.setdefault(answer.label, []).append(answer)
    assert {a.status for a in by["honest"]} == {"reported"}
    said = [a.status.split()[0] for a in by["hostile"]]
    assert said.count("rejected") == 4
    # the guard of the SuperLink takes no 64 KB: such replies were announced and never came whole
    assert set(said) - {"rejected"} <= {"client_error", "timeout"}
    assert all(a.report is None for a in by["hostile"])
    assert all(len(values) == 1 for _, _, values in cohort(answers))
    text = "".join(p.read_text() for p in Path(both.server_folder / "runs" / "hostile" / "answers").iterdir())
    assert "alice" not in text
    assert "alice" not in done.stdout
