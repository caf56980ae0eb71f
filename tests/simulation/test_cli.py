"""Bad input of each kind ends in one clear line, exit status 2, and nothing half-written."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.torch import load_file

from emgup_model.config import dump_yaml
from emgup_model.data.store import write_user
from emgup_model.keys import public_key, write_trusted
from emgup_simulation.cli import main
from tests.toy import make_release, toy_experiment, toy_info, toy_recordings

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of four good users, an experiment over it, a release and the key that signed it."""
    for i in range(4):
        write_user(tmp_path / "store" / f"u{i}.h5", toy_info(f"u{i}"), toy_recordings(i))
    (tmp_path / "toy.yaml").write_text(dump_yaml(toy_experiment(tmp_path / "store")))
    make_release(KEY).write(tmp_path / "release")
    write_trusted(tmp_path / "trusted", [public_key(KEY)])
    return tmp_path


def emgup(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["emgup", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


def files(folder: Path) -> set[Path]:
    return {p.relative_to(folder) for p in folder.rglob("*") if p.is_file()}


def break_store(folder: Path, kind: str) -> str:
    store = folder / "store"
    if kind == "missing folder":
        shutil.rmtree(store)
        return "no store at"
    if kind == "empty store":
        shutil.rmtree(store)
        store.mkdir()
        return "is empty"
    if kind == "one gesture":
        write_user(store / "u1.h5", toy_info("u1"), [r for r in toy_recordings(1) if r.label == 0])
        return "user 'u1'"
    if kind == "too short":
        write_user(store / "u1.h5", toy_info("u1"), toy_recordings(1, seconds=0.5))
        return "one sequence"
    if kind == "other channels":
        three = [replace(r, emg=r.emg[:, :3]) for r in toy_recordings(1)]
        write_user(store / "u1.h5", toy_info("u1", channels=3), three)
        return "mixes users: channels"
    (store / "u1.h5").write_bytes((store / "u1.h5").read_bytes()[:-2000])
    return "u1.h5"


@pytest.mark.parametrize("command", ["pretrain", "simulate", "tune"])
@pytest.mark.parametrize(
    "kind", ["missing folder", "empty store", "one gesture", "too short", "other channels", "truncated file"]
)
def test_an_unusable_store_stops_a_simulation_before_it_writes_anything(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str, command: str
) -> None:
    message = break_store(folder, kind)
    before = files(folder)
    status = emgup(monkeypatch, command, folder / "toy.yaml", "--out", folder / "run")
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert files(folder) == before
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pretrian=1"], "unknown key 'pretrian'"),
        (["pretrain.epochs=many"], "pretrain.epochs"),
        (["methods.adabn.share=1"], "share"),
        (["pretrain"], "not of the form"),
    ],
)
def test_a_wrong_config_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    status = emgup(monkeypatch, "simulate", folder / "toy.yaml", *arguments, "--out", folder / "run")
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (folder / "run").exists()


@pytest.mark.parametrize(
    ("folds", "message"),
    [("0,3", "fold 3 does not exist; the experiment has the folds 0 to 2"), ("all", "numbers separated by commas")],
)
def test_tune_refuses_folds_that_do_not_exist(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folds: str, message: str
) -> None:
    before = files(folder)
    status = emgup(monkeypatch, "tune", folder / "toy.yaml", "--folds", folds, "--out", folder / "run")
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert files(folder) == before


def personalize(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str, recording: str = "u0.h5", method: str = "adabn"
) -> int:
    options = ["--release", folder / "release", "--trusted", folder / "trusted", "--home", folder / "home"]
    options += ["--method", method]
    return emgup(monkeypatch, "client", "personalize", folder / "store" / recording, *options, *more)


def test_personalize_works_without_a_server_and_keeps_the_weights_private(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert personalize(folder, monkeypatch) == 0
    assert "accuracy" in capsys.readouterr().out
    (weights,) = (folder / "home" / "vault").rglob("weights.safetensors")
    assert weights.stat().st_mode & 0o777 == 0o600
    assert weights.parent.stat().st_mode & 0o777 == 0o700
    assert "head.bias" in load_file(weights)


def test_personalize_streams(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert personalize(folder, monkeypatch, "--protocol", "streaming") == 0
    assert "174 test windows" in capsys.readouterr().out


def test_personalize_takes_a_scenario(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert personalize(folder, monkeypatch, "--scenario", "subset") == personalize(folder, monkeypatch) == 0
    one, other = (folder / "home" / "vault").rglob("weights.safetensors")
    assert one.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("option", ["protocol", "scenario"])
def test_personalize_names_the_choices(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert personalize(folder, monkeypatch, f"--{option}", "busy") == 2
    assert f"unknown {option} 'busy'; choose one of " in capsys.readouterr().err


def flip_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("kind", ["flipped bit", "other key", "no release", "channels", "no recording", "no method"])
def test_personalize_refuses_bad_input_and_writes_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    method, message = "adabn", ""
    if kind == "flipped bit":
        flip_bit(folder / "release" / "weights.safetensors")
        message = "do not match their signed hash"
    elif kind == "other key":
        write_trusted(folder / "trusted", [bytes(range(32))])
        message = "not signed by a trusted key"
    elif kind == "no release":
        shutil.rmtree(folder / "release")
        message = "no release at"
    elif kind == "channels":
        three = [replace(r, emg=r.emg[:, :3]) for r in toy_recordings(1)]
        write_user(folder / "store" / "u0.h5", toy_info("u0", channels=3), three)
        message = "3 channels, the release expects 4"
    elif kind == "no recording":
        (folder / "store" / "u0.h5").unlink()
        message = "u0.h5"
    else:
        method, message = "magic", "unknown method 'magic'"
    status = personalize(folder, monkeypatch, method=method)
    error = capsys.readouterr().err
    assert status == 2
    assert message in error
    assert error.count("\n") == 1
    assert not list((folder / "home" / "vault").rglob("reply.json"))
    assert (folder / "home").exists() == (kind == "channels")  # that is found when the release and the file are open
