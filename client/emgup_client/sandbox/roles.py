"""What the gate, the SuperNode, the starter of ClientApps and each ClientApp may touch."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emgup_client.deployment.config import ClientConfig, ClientHome
from emgup_client.sandbox import runtime
from emgup_client.sandbox.rules import Rules
from emgup_client.vault import VAULT, private_dir
from emgup_client.vault_cipher import KeyPlace, read_settings
from emgup_model.errors import ConfigError

SCRATCH = "tmp"
KEYRING_FILES = ("~/.config/python_keyring", "~/.local/share/python_keyring")
"""Where the keyring library keeps its settings, and backends of files their keys."""


def gate(home: ClientHome, config: ClientConfig, listen: int) -> Rules:
    """The client's folder; the SuperLink's port."""
    host, _, port = config.superlink.rpartition(":")
    names = not _is_address(host)
    return _python(
        *(runtime.NAMES if names else ()),
        write=(home.path,),
        connect=(int(port),),
        bind=(listen,),
        names_by_udp=names,
    )


def supernode(home: ClientHome, gate: int, listen: int) -> Rules:
    """Flower's folder and the keys that it signs and lets tasks in with; the gate's port."""
    keys = (home.supernode_key, home.supernode_public_key, home.superexec_secret)
    return _python(
        *(*keys, home.config_file, home.loopback_certificate),
        write=(home.flower_home, scratch(home, "supernode")),
        connect=(gate,),
        bind=(listen,),
    )


def superexec(home: ClientHome, config: ClientConfig, supernode: int) -> Rules:
    """All that a ClientApp may, the client's folder, the keyring if it has the vault's key; the SuperNode's port.

    Of the recordings it is given the folder: a file that is replaced while the client runs is another to the kernel.
    """
    read, gpus = _of_a_task(home, config)
    asks_keyring = _key(home, "keyring") is not None
    return _python(
        *(*read, config.recordings.parent, *(Path(p).expanduser() for p in KEYRING_FILES if asks_keyring)),
        write=(home.path,),
        connect=(supernode,),
        gpus=gpus,
        local_sockets=asks_keyring,
    )


def task(home: ClientHome, config: ClientConfig, supernode: int, token: Path) -> Rules:
    """The user's recordings, what says how they may be used, what is made of them; the SuperNode and nothing else."""
    from emgup_client.exporter import LOG  # Flower is not for the process that only starts the others

    read, gpus = _of_a_task(home, config)
    log = home.path / LOG
    log.touch(mode=0o600)
    made = [private_dir(home.path / name) for name in (VAULT, "releases")]
    return _python(
        *(*read, token, home.config_file, home.policy, home.trusted),
        write=(*made, log, scratch(home, "task")),
        only_to=supernode,
        gpus=gpus,
    )


def try_out(home: ClientHome) -> None:
    """Import what computes, in the sandbox of a ClientApp; temporary files of before are removed.

    Raises:
        ConfigError: it does not work.
    """
    shutil.rmtree(home.path / SCRATCH, ignore_errors=True)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        rules = _python(write=(scratch(home, "task"),), only_to=nobody.getsockname()[1])
        command = confined(rules, [sys.executable, "-c", "import torch, socket; socket.socket()"])
        variables = {**os.environ, **environment(home, "task")}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise ConfigError(f"the sandbox does not work here ({why}); to go without one: 'sandbox: off' in client.yaml")


def scratch(home: ClientHome, role: str) -> Path:
    """A process's folder for temporary files."""
    return private_dir(private_dir(home.path / SCRATCH) / role)


def confined(rules: Rules, command: Sequence[str], *options: str) -> list[str]:
    """The command line that runs ``command`` with no more than ``rules`` allow."""
    enter = [sys.executable, "-m", "emgup_client.sandbox.enter"]
    return [*enter, "--rules", rules.model_dump_json(exclude_defaults=True), *options, *command]


def environment(home: ClientHome, role: str) -> dict[str, str]:
    """Variables of a confined Python process: no code from where it was started, temporary files in its own folder."""
    return {"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(scratch(home, role))}


def _python(
    *read: Path | str,
    write: tuple[Path, ...],
    connect: tuple[int, ...] = (),
    bind: tuple[int, ...] = (),
    only_to: int | None = None,
    gpus: tuple[Path, ...] = (),
    names_by_udp: bool = False,
    local_sockets: bool = False,
) -> Rules:
    return Rules(
        execute=runtime.programs(),
        read=(*runtime.readable(), *map(Path, read), *map(Path, runtime.OF_GPUS if gpus else ())),
        names=runtime.listable(),
        write=write,
        devices=(*map(Path, runtime.DEVICES), *gpus),
        connect=connect,
        bind=bind,
        only_to=only_to,
        names_by_udp=names_by_udp,
        local_sockets=local_sockets,
    )


def _of_a_task(home: ClientHome, config: ClientConfig) -> tuple[list[Path], tuple[Path, ...]]:
    key = _key(home, "file")
    read = [config.recordings] if key is None else [config.recordings, Path(key.name)]
    return read, () if config.device == "cpu" else runtime.gpus()


def _key(home: ClientHome, kind: str) -> KeyPlace | None:
    """Where the vault's key is, if it is there."""
    settings = read_settings(home.path / VAULT)
    return settings.key if settings is not None and settings.key.kind == kind else None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
