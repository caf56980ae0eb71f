from __future__ import annotations

import stat
from pathlib import Path
from typing import ClassVar

import keyring
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from typer.testing import CliRunner

from emgup_client.personalized import open_personalized
from emgup_client.saved import saved_models, under_way
from emgup_client.vault import ATTEMPTS, LOCK, VaultCell, locked_cell
from emgup_client.vault_cipher import MAGIC, SETTINGS, AesGcm, KeyPlace, Plain, read_settings, vault_cipher
from emgup_client.vault_encryption import encrypt_vault
from emgup_model.errors import ConfigError, VaultError
from emgup_model.wire import Status
from emgup_simulation.cli import app
from tests.client.homes import Home, make_home

CELL = "c" * 64


def key_file(tmp_path: Path) -> KeyPlace:
    return KeyPlace(kind="file", name=str(tmp_path / "keys" / "vault.key"))


def contents(home: Home) -> list[bytes]:
    vault = home.folder / "vault"
    files = [p for p in vault.rglob("*") if p.is_file() and p.name not in (LOCK, ATTEMPTS, SETTINGS)]
    return [p.read_bytes() for p in files]


@given(st.binary(max_size=200), st.text(max_size=20), st.integers(0, 227))
def test_sealed_bytes_open_unchanged_and_in_their_place_only(data: bytes, place: str, position: int) -> None:
    cipher = AesGcm(b"k" * 32)
    sealed = cipher.seal(data, place)
    assert cipher.open(sealed, place) == data
    assert sealed != cipher.seal(data, place)
    at = position % len(sealed)
    altered = sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :]
    for bytes_, where in ((altered, place), (sealed, place + "x"), (sealed[:-1], place), (sealed + b"0", place)):
        with pytest.raises(VaultError):
            cipher.open(bytes_, where)
    with pytest.raises(VaultError):
        AesGcm(b"j" * 32).open(sealed, place)


def test_a_vault_is_encrypted_now_and_from_now_on(tmp_path: Path) -> None:
    home = make_home(tmp_path, users=2)
    home.personalize("u0")
    before = [saved.contents for saved in saved_models(home.folder, "u0")]
    assert encrypt_vault(home.folder, key_file(tmp_path)) == 3
    assert [saved.contents for saved in saved_models(home.folder, "u0")] == before
    assert home.personalize("u1").status == Status.OK
    assert len(contents(home)) == 6
    assert all(data.startswith(MAGIC) for data in contents(home))
    assert open_personalized(home.folder, "u1").user == "u1"
    assert home.personalize("u0").status == Status.OK  # from the vault, without adapting
    assert encrypt_vault(home.folder, key_file(tmp_path)) == 0
    path = Path(key_file(tmp_path).name)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {stat.S_IMODE(p.stat().st_mode) for p in (home.folder / "vault").rglob("*") if p.is_file()} == {0o600}


def test_what_was_half_encrypted_when_killed_works_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = make_home(tmp_path)
    home.personalize("u0")
    count = 0

    def killed(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        path.write_bytes(data)

    with monkeypatch.context() as patch:
        patch.setattr("emgup_client.vault_encryption.write_private", killed)
        with pytest.raises(KeyboardInterrupt):
            encrypt_vault(home.folder, key_file(tmp_path))
    assert {data.startswith(MAGIC) for data in contents(home)} == {True, False}
    assert len(saved_models(home.folder, "u0")) == 1
    assert encrypt_vault(home.folder, key_file(tmp_path)) == 2
    settings = read_settings(home.folder / "vault")
    assert settings is not None
    assert not settings.converting
    assert len(saved_models(home.folder, "u0")) == 1


def test_a_plain_file_planted_in_an_encrypted_vault_is_not_used(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    home.personalize("u0")
    planted = {p.name: p.read_bytes() for p in (home.folder / "vault" / "u0" / CELL).iterdir() if p.name != LOCK}
    encrypt_vault(home.folder, key_file(tmp_path))
    for name, data in planted.items():
        (home.folder / "vault" / "u0" / CELL / name).write_bytes(data)
    assert saved_models(home.folder, "u0") == []


def test_another_users_files_are_not_used(tmp_path: Path) -> None:
    home = make_home(tmp_path, users=2)
    encrypt_vault(home.folder, key_file(tmp_path))
    home.personalize("u0")
    (home.folder / "vault" / "u1").mkdir()
    (home.folder / "vault" / "u0" / CELL).rename(home.folder / "vault" / "u1" / CELL)
    assert saved_models(home.folder, "u1") == []


def test_checkpoints_are_sealed_too(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    encrypt_vault(home.folder, key_file(tmp_path))
    with locked_cell(home.folder, "u0", CELL) as cell:
        cell.begin()
        cell.save("ssa", b"tensors")
        assert cell.load("ssa") == b"tensors"
        assert cell.load("ssp") is None
    assert under_way(home.folder, "u0") == {CELL: ["ssa"]}
    assert (home.folder / "vault" / "u0" / CELL / "checkpoint-ssa.safetensors").read_bytes().startswith(MAGIC)


def damage_key(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "readable":
        path.chmod(0o644)
    elif how == "another":
        path.write_text("0" * 64)
    else:
        path.write_bytes(b"\xff\xfe no key")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "no vault key"),
        ("readable", "chmod 600"),
        ("another", "does not open"),
        ("nonsense", "no vault key"),
    ],
)
def test_without_its_key_a_vault_stays_closed_and_as_it_is(tmp_path: Path, how: str, message: str) -> None:
    home = make_home(tmp_path)
    encrypt_vault(home.folder, key_file(tmp_path))
    home.personalize("u0")
    before = contents(home)
    damage_key(Path(key_file(tmp_path).name), how)
    for act in (lambda: open_personalized(home.folder), lambda: home.personalize("u0")):
        with pytest.raises(VaultError, match=message) as e:
            act()
        assert "\n" not in str(e.value)
    assert contents(home) == before


def test_lost_or_damaged_settings_are_told(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    encrypt_vault(home.folder, key_file(tmp_path))
    home.personalize("u0")
    path = home.folder / "vault" / SETTINGS
    path.write_text("{}")
    with pytest.raises(VaultError, match="damaged"):
        vault_cipher(home.folder / "vault")
    path.unlink()
    with pytest.raises(VaultError, match="is encrypted, but"):
        VaultCell(home.folder / "vault" / "u0" / CELL, Plain()).read("reply.json")


def test_a_second_key_and_a_key_inside_the_vault_are_refused(tmp_path: Path) -> None:
    home = make_home(tmp_path)
    with pytest.raises(VaultError, match="protects nothing"):
        encrypt_vault(home.folder, KeyPlace(kind="file", name=str(home.folder / "vault" / "k")))
    encrypt_vault(home.folder, key_file(tmp_path))
    with pytest.raises(VaultError, match="encrypted already"):
        encrypt_vault(home.folder, KeyPlace(kind="file", name=str(tmp_path / "second.key")))


class MemoryKeyring(KeyringBackend):
    """A keyring as an operating system offers one, for one process."""

    priority: ClassVar[float] = 1.0  # type: ignore[assignment]
    kept: ClassVar[dict[tuple[str, str], str]] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.kept[service, username]


@pytest.fixture
def system_keyring() -> MemoryKeyring:
    before, mine = keyring.get_keyring(), MemoryKeyring()
    keyring.set_keyring(mine)
    mine.kept.clear()
    yield mine  # type: ignore[misc]
    keyring.set_keyring(before)


def test_the_key_may_be_in_the_systems_keyring(tmp_path: Path, system_keyring: MemoryKeyring) -> None:
    home = make_home(tmp_path)
    home.personalize("u0")
    result = CliRunner().invoke(app, ["client", "encrypt", "--home", str(home.folder), "--keyring"])
    assert result.exit_code == 0, result.output
    assert "3 files" in result.output
    assert len(system_keyring.kept) == 1
    assert len(saved_models(home.folder, "u0")) == 1
    result = CliRunner().invoke(app, ["client", "forget", "--home", str(home.folder), "--all", "--key", "--yes"])
    assert "1 vault entries, 0 releases, the key" in result.output
    assert not system_keyring.kept


def test_a_keyring_that_fails_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from keyring.backends import fail

    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    try:
        with pytest.raises(VaultError, match="use a key file"):
            encrypt_vault(make_home(tmp_path).folder, KeyPlace(kind="keyring", name="x"))
    finally:
        keyring.set_keyring(before)


@pytest.mark.parametrize("options", [[], ["--keyring", "--key-file", "k"]])
def test_the_place_of_the_key_is_asked_for(tmp_path: Path, options: list[str]) -> None:
    with pytest.raises(ConfigError, match="where the key is kept"):
        CliRunner().invoke(app, ["client", "encrypt", "--home", str(tmp_path), *options], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []
