"""What is said about the sandbox, and what a client does with a machine that has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emgup_client.deployment.config import ClientConfig
from emgup_client.sandbox import support
from emgup_client.sandbox.support import Support, in_words, look, sandbox_of
from emgup_client.vault_cipher import HANDED_KEY, KeyPlace, key_to_hand_over, make_key, write_settings
from emgup_model.config import dump_yaml, load_yaml, parse
from emgup_model.errors import ConfigError

FIELDS = {"recordings": "u.h5", "superlink": "localhost:1", "bundle_sha256": "a" * 64}


@pytest.mark.parametrize(
    ("found", "line"),
    [
        (Support(7, True), "files, sockets, TCP ports, signals (Landlock 7, seccomp)"),
        (Support(5, True), "files, sockets, TCP ports (Landlock 5, seccomp)"),
        (Support(3, True), "files, sockets (Landlock 3, seccomp); TCP ports of SuperNode and gate need Linux 6.7"),
        (Support(0, False, "this is Darwin"), "none: this is Darwin"),
    ],
)
def test_one_line_says_what_is_in_force(monkeypatch: pytest.MonkeyPatch, found: Support, line: str) -> None:
    monkeypatch.setattr(support, "look", lambda: found)
    assert in_words("auto") == in_words("required") == line
    assert in_words("off") == "off (client.yaml)"


@given(st.integers(0, 20), st.booleans())
def test_required_is_all_or_nothing_and_auto_takes_what_there_is(landlock: int, seccomp: bool) -> None:
    found = Support(landlock, seccomp, "missing")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "look", lambda: found)
        assert sandbox_of("off") is None
        assert sandbox_of("auto") == (found if landlock and seccomp else None)
        if landlock >= 4 and seccomp:
            assert sandbox_of("required") == found
        else:
            with pytest.raises(ConfigError, match="requires a sandbox"):
                sandbox_of("required")


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_another_system_is_named(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    assert not look().usable
    assert "Landlock is a part of Linux" in str(look())


@pytest.mark.parametrize("text", ["off", "'off'", "auto", "required"])
def test_the_setting_is_read_as_it_is_written(tmp_path: Path, text: str) -> None:
    path = tmp_path / "client.yaml"
    path.write_text("\n".join(f"{k}: {v}" for k, v in {**FIELDS, "sandbox": text}.items()))
    config = parse(ClientConfig, load_yaml(path), "client.yaml")
    assert config.sandbox == text.strip("'")
    path.write_text(dump_yaml(config))
    assert parse(ClientConfig, load_yaml(path), "client.yaml") == config


@pytest.mark.parametrize("value", ["on", True, "", None, 1])
def test_another_setting_is_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="sandbox"):
        parse(ClientConfig, {**FIELDS, "sandbox": value}, "client.yaml")


@pytest.mark.skipif(sys.platform != "linux", reason="files in memory are Linux's")
def test_a_process_without_the_keyring_is_handed_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    kept = tmp_path / "kept"
    key = make_key(KeyPlace(kind="file", name=str(kept)))
    place = KeyPlace(kind="keyring", name="anna")
    write_settings(vault, place, key, converting=False)
    monkeypatch.setattr("emgup_client.vault_cipher._from_keyring", lambda name: kept.read_text().strip())
    ask = (
        "import sys; from pathlib import Path; from emgup_client.vault_cipher import *;"
        "c = vault_cipher(Path(sys.argv[1])); print(c.open(c.seal(b'weights', 'x'), 'x'))"
    )
    with key_to_hand_over(vault) as fd:
        assert fd is not None
        environment = {**os.environ, HANDED_KEY: str(fd), "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring"}
        command = [sys.executable, "-c", ask, str(vault)]
        with_it = subprocess.run(command, env=environment, pass_fds=(fd,), capture_output=True, text=True, check=False)
    del environment[HANDED_KEY]
    without = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert with_it.stdout == "b'weights'\n", with_it.stderr
    assert "VaultError" in without.stderr


def test_a_key_in_a_file_is_not_handed_over(tmp_path: Path) -> None:
    write_settings(tmp_path, KeyPlace(kind="file", name=str(tmp_path / "gone")), bytes(32), converting=False)
    for vault in (tmp_path, tmp_path / "plain"):
        with key_to_hand_over(vault) as fd:
            assert fd is None
