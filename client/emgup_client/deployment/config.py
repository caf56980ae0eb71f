"""The client's folder and settings: all that decides what happens with a user's recordings, on the user's machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from emgup_model.config import DEVICE, Frozen, load_yaml, parse
from emgup_model.errors import ConfigError
from emgup_model.wire import SafeName


class ClientConfig(Frozen):
    """``client.yaml``: what no message can change.

    Attributes:
        user: folder of the vault; never sent.
        recordings: the user's recording file.
        superlink: HOST:PORT of the server.
        bundle_sha256: the only app bundle that is answered; it carries no code.
        methods: shipped methods that may be run, each with the settings that this installation ships.
        device: where to adapt; ``auto`` takes a GPU if there is one. Without the one that is named the CPU is used.
        precision: of the backbone's arithmetic; bf16 is faster on most GPUs.
        threads: CPU threads torch may use; null leaves torch's own choice. More than one is faster on an idle machine
            and many times slower where other work keeps a core busy.
        sandbox: confines each process to the files and connections that it needs (docs/deploy.md). ``auto`` does what
            this machine's kernel offers, ``required`` refuses to start where that is not all of it.
    """

    user: SafeName = "me"
    recordings: Path
    superlink: str = Field(pattern=r"^[A-Za-z0-9._\-\[\]:]+:\d{1,5}$")
    bundle_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    methods: tuple[str, ...] = Field(("emgup", "adabn", "source_only"), min_length=1)
    device: str = Field("auto", pattern=DEVICE)
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int | None = Field(1, ge=1, le=1024)
    sandbox: Literal["required", "auto", "off"] = "auto"

    @field_validator("sandbox", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # that is how YAML reads an `off` without quotes


@dataclass(frozen=True)
class ClientHome:
    """Where a client keeps what; 0700, files 0600."""

    path: Path

    @property
    def config_file(self) -> Path:
        """The settings."""
        return self.path / "client.yaml"

    @property
    def policy(self) -> Path:
        """What may leave; the user's."""
        return self.path / "policy.yaml"

    @property
    def loopback_certificate(self) -> Path:
        """The gate's certificate, for the SuperNode."""
        return self.path / "gate" / "loopback.pem"

    @property
    def root_certificates(self) -> Path:
        """The authority that the server's certificate must come from."""
        return self.path / "keys" / "root_certificates.pem"

    @property
    def supernode_key(self) -> Path:
        """The private key that the server knows this client by."""
        return self.path / "keys" / "supernode"

    @property
    def supernode_public_key(self) -> Path:
        """Its public half, to be registered by the server."""
        return self.path / "keys" / "supernode.pub"

    @property
    def superexec_secret(self) -> Path:
        """Who can read this is given the SuperNode's tasks."""
        return self.path / "keys" / "superexec.secret"

    @property
    def trusted(self) -> Path:
        """Keys whose releases are accepted."""
        return self.path / "trusted_release_keys.txt"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder."""
        return self.path / "flower"

    @property
    def logs(self) -> Path:
        """What the processes print."""
        return self.path / "logs"

    @property
    def state(self) -> Path:
        """What the running client says about itself."""
        return self.path / "running.json"

    @property
    def lock(self) -> Path:
        """Held while a client runs."""
        return self.path / ".running.lock"

    def config(self) -> ClientConfig:
        """The settings. Raises ConfigError when there are none."""
        if not self.config_file.is_file():
            raise ConfigError(f"{self.path} is no client's folder; make one with: emgup client init --home {self.path}")
        return parse(ClientConfig, load_yaml(self.config_file), str(self.config_file))


def choose_device(wanted: str) -> str:
    """The torch device to adapt on: the wanted one if it works here, else the CPU."""
    from emgup_model.compute import resolve_device  # torch is not for the processes that only pass messages on

    try:
        return str(resolve_device(wanted))
    except ConfigError:
        return "cpu"
