"""Hostile code in a process with the rules of each part of a client: what it reaches, and what it does not."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from emgup_client.deployment.config import ClientConfig, ClientHome
from emgup_client.deployment.initialise import init_client
from emgup_client.sandbox import roles, runtime
from emgup_client.sandbox.rules import Rules
from emgup_client.sandbox.support import look
from emgup_client.vault import write_private
from emgup_model.data.store import write_user
from emgup_model.errors import ConfigError
from emgup_model.keys import public_key, write_trusted
from emgup_model.processes import free_port
from tests.client.egress.runtime import make_certificates
from tests.client.sandbox.attack import World, found, world
from tests.toy import toy_info, toy_recordings

pytestmark = pytest.mark.skipif(not look().complete, reason=f"no whole sandbox here: {look()}")
MODULE = "this"  # of the standard library; the attacker runs before it
OWN_FILES = ("policy.yaml", "client.yaml", "trusted_release_keys.txt", "uses.jsonl", "audit.jsonl")
READ = ("keys/supernode", "keys/superexec.secret", "audit.jsonl", "uses.jsonl", "gate/loopback.key")
OF_THE_HOME = {f"{verb} {name}" for verb in ("write", "truncate", "replace") for name in OWN_FILES}
OF_THE_HOME |= {f"read {name}" for name in READ}


@pytest.fixture
def around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A client's folder, and a world for it to be attacked from."""
    home = tmp_path / "home"
    recordings = tmp_path / "recordings" / "u.h5"
    recordings.parent.mkdir()
    write_user(recordings, toy_info("u"), toy_recordings(0))
    ca, _, _ = make_certificates(tmp_path / "tls")
    write_trusted(tmp_path / "trusted.txt", [public_key(Ed25519PrivateKey.generate())])
    superlink = f"127.0.0.1:{free_port()}"
    init_client(ClientHome(home), recordings, ca, tmp_path / "trusted.txt", "default", superlink=superlink)
    for name in ("uses.jsonl", "audit.jsonl", "gate/loopback.key"):
        (home / name).parent.mkdir(exist_ok=True)
        write_private(home / name, "x")
    with world(tmp_path / "world", home) as made:
        monkeypatch.syspath_prepend(made.packages)  # the rules let a process read what Python reads
        yield made


def attacks(around: World, rules: Rules) -> tuple[set[str], dict[str, str]]:
    """Names of the attacks that succeeded, and what came of each."""
    around.aim({"neighbour": around.neighbour})
    scratch = roles.scratch(ClientHome(around.home), "attacker")
    rules = rules.model_copy(update={"write": (*rules.write, scratch)})
    environment = {**os.environ, **around.environment(MODULE), "PYTHONSAFEPATH": "1", "TMPDIR": str(scratch)}
    command = roles.confined(rules, [sys.executable, "-m", MODULE])
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    came = found(scratch)
    assert len(came) > 35
    return {name for name, what in came.items() if not what.startswith("refused")}, came


def parts(around: World) -> tuple[ClientHome, ClientConfig]:
    home = ClientHome(around.home)
    return home, home.config()


def test_a_client_app_reaches_the_supernode_and_its_own_files_only(around: World) -> None:
    home, config = parts(around)
    token = home.flower_home / "token"
    write_private(token, "secret")
    with socket.create_server(("127.0.0.1", 0)) as supernode:
        arrived: list[bytes] = []
        threading.Thread(target=collect, args=(supernode, arrived), daemon=True).start()
        got, _ = attacks(around, roles.task(home, config, supernode.getsockname()[1], token))
    assert got == {"tcp", "tcp to another address"}
    assert around.reached == []
    assert arrived == [b"CANARY", b"CANARY"]  # meant for others, it came to the SuperNode


def collect(listening: socket.socket, arrived: list[bytes]) -> None:
    for _ in range(2):
        with listening.accept()[0] as connection:
            arrived.append(connection.recv(100))


def test_a_supernode_reaches_neither_the_vault_nor_the_logs_of_the_gate(around: World) -> None:
    home, _ = parts(around)
    got, _ = attacks(around, roles.supernode(home, free_port(), free_port()))
    assert got == {"read keys/supernode", "read keys/superexec.secret", "listen"}
    assert around.reached == []


@pytest.mark.parametrize("role", ["gate", "superexec"])
def test_the_gate_and_the_starter_stay_in_the_clients_folder(around: World, role: str) -> None:
    home, config = parts(around)
    rules = roles.gate(home, config, free_port()) if role == "gate" else roles.superexec(home, config, free_port())
    got, _ = attacks(around, rules)
    assert got == OF_THE_HOME | {"listen"}
    assert around.reached == []


def test_a_recording_that_was_replaced_meanwhile_is_read(around: World) -> None:
    home, config = parts(around)
    token = home.flower_home / "token"
    write_private(token, "secret")
    read = f"print(open({str(config.recordings)!r}, 'rb').read(3))"
    with socket.create_server(("127.0.0.1", 0)) as supernode:
        port = supernode.getsockname()[1]
        task = roles.confined(roles.task(home, config, port, token), [sys.executable, "-c", read])
        starter = f"import subprocess; print(flush=True); input(); subprocess.run({task!r})"
        command = roles.confined(roles.superexec(home, config, port), [sys.executable, "-c", starter])
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env={**os.environ, **roles.environment(home, "task")}, **pipes) as one:
            assert one.stdout is not None
            one.stdout.readline()
            fresh = config.recordings.with_suffix(".new")
            fresh.write_bytes(b"new")
            fresh.replace(config.recordings)
            said, _ = one.communicate("\n", timeout=60)
    assert said == "b'new'\n"


def test_a_gate_that_looks_names_up_may_send_datagrams(around: World) -> None:
    home, config = parts(around)
    named = config.model_copy(update={"superlink": "emgup.example.org:8443"})
    got, _ = attacks(around, roles.gate(home, named, free_port()))
    assert "udp" in got
    assert not got & {"tcp", "unix", "raw socket", "read ssh"}


def test_a_port_that_is_allowed_is_allowed(around: World) -> None:
    home, config = parts(around)
    around_port = config.model_copy(update={"superlink": f"127.0.0.1:{around.tcp}"})
    got, _ = attacks(around, roles.gate(home, around_port, free_port()))
    assert {"tcp", "tcp to another address"} <= got  # ports are all that the kernel's rules know
    assert "tcp fast open" not in got


def test_the_attacks_work_without_a_sandbox(around: World) -> None:
    around.aim({"neighbour": around.neighbour})
    scratch = roles.scratch(ClientHome(around.home), "attacker")
    environment = {**os.environ, **around.environment(MODULE), "TMPDIR": str(scratch)}
    subprocess.run([sys.executable, "-m", MODULE], env=environment, capture_output=True, check=True)
    refused = {name for name, what in found(scratch).items() if what.startswith("refused")}
    of_root = {"raw socket", "packet socket", "ptrace neighbour", "memory of neighbour"}
    of_other_kernels = {"io_uring", "multipath tcp", "tcp fast open", "access list"}
    assert refused <= of_root | of_other_kernels
    assert {"tcp", "udp", "unix", "abstract"} <= set(around.reached)


def test_a_gate_with_noise_serves_in_its_sandbox(around: World) -> None:
    pytest.importorskip("opendp")
    home, config = parts(around)
    for name in ("uses.jsonl", "audit.jsonl"):
        (home.path / name).unlink()
    port = free_port()
    gate = [sys.executable, "-m", "emgup_client.egress.gate", "--home", str(home.path), "--listen", str(port)]
    gate += ["--superlink", config.superlink, "--root-certificates", str(home.root_certificates)]
    gate += ["--supernode-key", str(home.supernode_key), "--bundle", secrets.token_hex(32)]
    environment = {**os.environ, **roles.environment(home, "gate")}
    command = roles.confined(roles.gate(home, config, port), gate)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        assert one.stderr is not None
        said = one.stdout.readline()
        one.terminate()
        assert said == f"listening on 127.0.0.1:{port}\n", one.stderr.read()


def test_a_sandbox_that_does_not_work_is_one_line_before_anything_starts(
    around: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, _ = parts(around)
    left = roles.scratch(home, "task") / "left"
    left.touch()
    roles.try_out(home)
    assert not left.exists()
    monkeypatch.setattr(runtime, "readable", lambda: ())
    with pytest.raises(ConfigError, match=r"the sandbox does not work here \(.*\); to go without one"):
        roles.try_out(home)
