"""The server's folder: one place for its config, keys, database and runs. 0700, files with secrets 0600."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from emgup_model.config import Frozen, load_yaml, parse
from emgup_model.errors import ConfigError

EVERY_INTERFACE = ("0.0.0.0", "::")


class ServerConfig(Frozen):
    """What a server decides: ``server.yaml``.

    Attributes:
        host: address to listen on; 0.0.0.0 for every network interface.
        port: one port for everything, TLS only.
        names: DNS names and IP addresses that clients reach the server by; in its certificate.
    """

    host: str = Field("127.0.0.1", min_length=1)
    port: int = Field(8443, ge=1, le=65535)
    names: tuple[str, ...] = Field(("localhost", "127.0.0.1"), min_length=1)

    @property
    def local_address(self) -> str:
        """HOST:PORT by which this machine's own programs reach the server."""
        host = "127.0.0.1" if self.host in EVERY_INTERFACE else self.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


@dataclass(frozen=True)
class ServerFolder:
    """Where a server keeps what."""

    path: Path

    @property
    def config_file(self) -> Path:
        """Its settings."""
        return self.path / "server.yaml"

    @property
    def ca_key(self) -> Path:
        """Signs the server's certificate; needed again only for a new one."""
        return self.path / "tls" / "ca.key"

    @property
    def ca(self) -> Path:
        """The certificate authority that clients trust."""
        return self.for_clients / "root_certificates.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.path / "tls" / "server.pem"

    @property
    def key(self) -> Path:
        """Its key."""
        return self.path / "tls" / "server.key"

    @property
    def signing_key(self) -> Path:
        """Signs releases (Ed25519)."""
        return self.path / "release_key.pem"

    @property
    def trusted(self) -> Path:
        """Its public half, for clients."""
        return self.for_clients / "trusted_release_keys.txt"

    @property
    def for_clients(self) -> Path:
        """All that a user needs from the server; nothing in it is secret, but it must arrive unchanged."""
        return self.path / "for_clients"

    @property
    def superexec_secret(self) -> Path:
        """Shared by the SuperLink and the process that starts ServerApps, so that no other process takes them."""
        return self.path / "superexec.secret"

    @property
    def operator_secret(self) -> Path:
        """Who can read this may register clients and start runs."""
        return self.path / "operator.secret"

    @property
    def database(self) -> Path:
        """Flower's: registrations, runs, messages."""
        return self.path / "state.db"

    @property
    def flower_home(self) -> Path:
        """Flower's own folder."""
        return self.path / "flower"

    @property
    def logs(self) -> Path:
        """What the processes print."""
        return self.path / "logs"

    @property
    def releases(self) -> Path:
        """Releases signed by this server, one folder each."""
        return self.path / "releases"

    @property
    def runs(self) -> Path:
        """One folder for each run: what was asked, and the answers."""
        return self.path / "runs"

    def config(self) -> ServerConfig:
        """The settings. Raises ConfigError when there are none."""
        if not self.config_file.is_file():
            raise ConfigError(f"{self.path} is no server's folder; make one with: emgup server init {self.path}")
        return parse(ServerConfig, load_yaml(self.config_file), str(self.config_file))
