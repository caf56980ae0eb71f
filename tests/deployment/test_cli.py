"""The commands: what they print, and one line for what a user can fix."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.console import Console

from emgup_client.deployment.config import ClientHome
from emgup_client.sandbox import support
from emgup_model.data.store import write_user
from emgup_model.files import write_atomic
from emgup_server.deployment.answers import Answer
from emgup_server.deployment.control import Node, RunState
from emgup_server.deployment.run import Outcome
from emgup_server.deployment.tables import print_outcome
from emgup_simulation.cli import main
from tests.toy import toy_info, toy_recordings

GOOD = RunState("finished:completed", "")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["emgup", *map(str, arguments)])
    with pytest.raises(SystemExit) as raised:
        main()
    return int(raised.value.code or 0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A client's folder, made by the commands of docs/deploy.md."""
    server, home = tmp_path / "server", tmp_path / "home"
    write_user(tmp_path / "u.h5", toy_info("u"), toy_recordings(0))
    assert run(monkeypatch, "server", "init", server, "--port", 8444, "--name", "emgup.example.org") == 0
    handed = server / "for_clients"
    given = ["--root-certificates", handed / "root_certificates.pem", "--trusted", handed / "trusted_release_keys.txt"]
    command = ["client", "init", "--home", home, "--superlink", "emgup.example.org:8444", *given]
    assert run(monkeypatch, *command, "--recordings", tmp_path / "u.h5") == 0
    return home


def test_a_client_says_how_it_stands(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(monkeypatch, "client", "status", "--home", home) == 0
    said = capsys.readouterr().out
    assert "running  no" in said
    assert "server   emgup.example.org:8444" in said
    assert "of this version\n" in said
    assert "vault    0 personalized models" in said
    assert "sandbox  " in said
    config = ClientHome(home).config_file
    write_atomic(config, config.read_text().replace(ClientHome(home).config().bundle_sha256, "a" * 64))
    assert run(monkeypatch, "client", "status", "--home", home) == 0
    assert "not of this version" in capsys.readouterr().out


def test_a_sandbox_that_is_required_and_missing_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ClientHome(home).config_file
    monkeypatch.setattr(support, "look", lambda: support.Support(0, False, "this is Darwin"))
    for mode, line in (("auto", "none: this is Darwin"), ("off", "off (client.yaml)"), ("required", "none: this is")):
        write_atomic(config, re.sub("(?m)^sandbox: .*", f"sandbox: {mode}", config.read_text()))
        assert run(monkeypatch, "client", "status", "--home", home) == 0
        assert f"sandbox  {line}" in capsys.readouterr().out
    assert run(monkeypatch, "client", "start", "--home", home) == 2
    error = capsys.readouterr().err
    assert error.startswith("emgup: client.yaml requires a sandbox")
    assert error.count("\n") == 1
    assert not ClientHome(home).state.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("server", "start", "NOWHERE"),
        ("server", "register", "NOWHERE", "key.pub"),
        ("server", "nodes", "NOWHERE"),
        ("server", "sign", "NOWHERE", "release"),
        ("server", "run", "NOWHERE", "--release", "release"),
        ("client", "start", "--home", "NOWHERE"),
        ("client", "status", "--home", "NOWHERE"),
    ],
)
def test_a_folder_that_is_none_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("emgup: ")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_run_is_one_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = home.parent / "server"
    assert run(monkeypatch, "server", "nodes", server) == 2
    assert "no SuperLink answers" in capsys.readouterr().err
    assert run(monkeypatch, "server", "register", server, home / "client.yaml") == 2
    assert "holds no public key" in capsys.readouterr().err


def answer(label: str, **changes: object) -> Answer:
    fields = {"cell": "c", "node": 1, "label": label, "method": "adabn", "status": "reported", "state": "complete"}
    return Answer.model_validate({**fields, "report": {"confidence": 63}, **changes})


def test_an_outcome_is_good_only_if_everybody_answered() -> None:
    node = Node(2, "bela", "offline")
    assert Outcome((answer("anna"),), (), GOOD).good
    assert not Outcome((), (), GOOD).good
    assert not Outcome((answer("anna"),), (node,), GOOD).good
    assert not Outcome((answer("anna"),), (), RunState("finished:failed", "")).good
    failed = answer("bela", status="data_error", state="failed", report=None)
    outcome = Outcome((answer("anna"), failed), (Node(3, "cleo", "offline"),), GOOD)
    assert outcome.partial
    out = io.StringIO()
    print_outcome(outcome, Console(file=out, width=100))
    assert [line.split() for line in out.getvalue().splitlines()] == [
        ["client", "method", "status"],
        ["anna", "adabn", "reported"],
        ["bela", "adabn", "data_error"],
        ["cleo", "no", "answer", "(offline)"],
        [],
        ["method", "scalar", "clients", "mean", "median"],
        ["adabn", "confidence", "1", "1.000", "1.000"],
    ]
