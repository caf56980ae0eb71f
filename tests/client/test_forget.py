"""What is forgotten is nowhere in the folder any more."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load
from typer.testing import CliRunner

from emgup_client.forget import Forgotten, forget
from emgup_client.saved import saved_models
from emgup_client.vault import VaultCell, locked_cell
from emgup_model.errors import ConfigError, DataError, VaultError
from emgup_model.methods import load_method
from emgup_model.signal_statistics import PREFIX
from emgup_simulation.cli import app
from tests.client.homes import KEY, Home, lively_model, make_home
from tests.toy import make_release

ADABN, SOURCE = load_method("adabn"), load_method("source_only")
CHECKPOINT = b"a checkpoint's bytes, which are as private as the weights"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Two users; u0 has a model of each of two releases and an adaptation under way."""
    home = make_home(tmp_path, users=2)
    home.personalize("u0", cell="a" * 64)
    home.personalize("u1", cell="a" * 64)
    first = home.files
    home.files = make_release(KEY, lively_model(1))
    home.add_release(home.files)
    home.personalize("u0", cell="b" * 64)
    home.files = first
    with locked_cell(home.folder, "u0", "d" * 64) as cell:
        cell.begin()
        cell.save("ssa", CHECKPOINT)
    (home.folder / "audit.jsonl").write_text("{}\n")
    (home.folder / "uses.jsonl").write_text("{}\n")
    return home


def traces(home: Home, user: str, cell: str) -> list[bytes]:
    """Pieces of a personalized model that its release does not hold."""
    contents = VaultCell(home.folder / "vault" / user / (cell * 64)).contents()
    assert contents is not None
    sources = b"".join(p.read_bytes() for p in (home.folder / "releases").rglob("weights.safetensors"))
    tensors = [t.numpy().tobytes() for k, t in load(contents.weights).items() if not k.startswith(PREFIX)]
    return [t for t in tensors if len(t) >= 16 and t not in sources]


def found(home: Home, pieces: list[bytes]) -> list[bytes]:
    everything = [p.read_bytes() for p in home.folder.rglob("*") if p.is_file()]
    return [piece for piece in pieces if any(piece in data for data in everything)]


def names(home: Home) -> set[str]:
    return {part for p in home.folder.rglob("*") for part in p.relative_to(home.folder).parts}


def test_a_user_is_forgotten_and_nobody_else(home: Home) -> None:
    mine, others = [*traces(home, "u0", "a"), *traces(home, "u0", "b"), CHECKPOINT], traces(home, "u1", "a")
    assert len(mine) > 4
    assert found(home, mine) == mine
    assert forget(home.folder, "u0", None, releases=False, key=False) == Forgotten(3, 0, False)
    assert found(home, mine) == []
    assert found(home, others) == others
    assert "u0" not in names(home)
    assert {"audit.jsonl", "uses.jsonl", home.files.id} <= names(home)


def test_a_release_is_forgotten_and_no_other(home: Home) -> None:
    mine, kept = [*traces(home, "u0", "a"), CHECKPOINT], traces(home, "u0", "b")
    gone = forget(home.folder, "u0", home.files.id[:12], releases=True, key=False)
    assert gone == Forgotten(2, 1, False)  # what is unfinished does not say which release it is of, and goes too
    assert found(home, mine) == []
    assert found(home, kept) == kept
    assert home.files.id not in names(home)
    assert len(saved_models(home.folder, "u1")) == 1


def test_everything_is_forgotten(home: Home) -> None:
    mine = [*traces(home, "u0", "a"), *traces(home, "u1", "a"), CHECKPOINT]
    assert forget(home.folder, None, None, releases=True, key=True) == Forgotten(4, 2, False)
    assert found(home, mine) == []
    assert names(home) == {"vault", "releases", "audit.jsonl", "uses.jsonl", "trusted_release_keys.txt"}


def test_what_is_being_written_is_not_deleted(home: Home) -> None:
    with locked_cell(home.folder, "u0", "a" * 64), pytest.raises(VaultError, match="running adaptation"):
        forget(home.folder, "u0", None, releases=False, key=False)
    assert len(saved_models(home.folder, "u0")) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say whose"),
        (["--user", "u0", "--all"], "say whose"),
        (["--user", "u0", "--key"], "--key goes with --all"),
        (["--user", "nobody", "--yes"], "holds nothing of user 'nobody'"),
        (["--user", "u1", "--release", "zz", "--yes"], "was made from a release zz"),
    ],
)
def test_unclear_wishes_delete_nothing(home: Home, arguments: list[str], message: str) -> None:
    before = names(home)
    with pytest.raises((ConfigError, DataError), match=message):
        CliRunner().invoke(app, ["client", "forget", "--home", str(home.folder), *arguments], catch_exceptions=False)
    assert names(home) == before


def test_the_command_asks_first(home: Home) -> None:
    before = names(home)
    command = ["client", "forget", "--home", str(home.folder), "--user", "u0"]
    assert CliRunner().invoke(app, command, input="n\n").exit_code == 1
    assert names(home) == before
    result = CliRunner().invoke(app, command, input="y\n")
    assert "deleted: 3 vault entries, 0 releases" in result.output
    assert "u0" not in names(home)
