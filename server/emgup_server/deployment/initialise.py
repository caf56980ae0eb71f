"""`emgup server init` and `sign`: make a server's folder; put the server's signature under a release."""

from __future__ import annotations

import secrets
from pathlib import Path

from emgup_model.config import dump_yaml
from emgup_model.errors import ConfigError, ReleaseError
from emgup_model.files import write_atomic
from emgup_model.keys import create_signing_key, public_key, read_signing_key, read_trusted, write_trusted
from emgup_model.release import ReleaseFiles, open_release
from emgup_server.deployment.certificates import new_authority, server_certificate
from emgup_server.deployment.folder import ServerConfig, ServerFolder


def init_server(folder: ServerFolder, config: ServerConfig) -> None:
    """Make the folder: certificate authority, TLS certificate, signing key, secrets, config. Config comes last.

    Raises:
        ConfigError: there is a server already, or a name that no certificate can hold.
    """
    if folder.config_file.exists():
        raise ConfigError(f"{folder.path} is a server's folder already; to start over, move it away first")
    ca, ca_key = new_authority()
    certificate, key = server_certificate(ca, ca_key, config.names)
    folder.path.mkdir(parents=True, exist_ok=True)
    for path in (folder.path, folder.ca_key.parent, folder.for_clients, folder.flower_home, folder.logs, folder.runs):
        path.mkdir(exist_ok=True)
        path.chmod(0o700)
    folder.for_clients.chmod(0o755)  # copied as it is to where another account reads it
    for file, data in ((folder.ca_key, ca_key), (folder.key, key)):
        write_atomic(file, data, mode=0o600)
    write_atomic(folder.ca, ca)
    write_atomic(folder.certificate, certificate)
    for file in (folder.superexec_secret, folder.operator_secret):
        write_atomic(file, secrets.token_hex(32), mode=0o600)
    write_trusted(folder.trusted, [create_signing_key(folder.signing_key)])
    folder.trusted.chmod(0o644)
    write_atomic(folder.config_file, dump_yaml(config), mode=0o600)


def sign(folder: ServerFolder, source: Path, trusted: Path | None) -> Path:
    """Verify a release, and keep it with the server's signature; returns its folder.

    Args:
        folder: of the server.
        source: folder of the release.
        trusted: keys that may have signed it; None for the list beside the run that trained it.

    Raises:
        ReleaseError: it is not signed by one of them, or damaged.
    """
    folder.config()
    files = ReleaseFiles.read(source)
    beside = source.resolve().parent.parent / "client" / "trusted_release_keys.txt"
    if trusted is None and not beside.is_file():
        raise ReleaseError(f"give --trusted: a file with the keys that may have signed {source}")
    open_release(files, read_trusted(trusted or beside))
    key = read_signing_key(folder.signing_key)
    signed = ReleaseFiles(files.manifest, key.sign(files.manifest), files.weights)
    open_release(signed, [public_key(key)])
    folder.releases.mkdir(exist_ok=True)
    folder.releases.chmod(0o700)
    out = folder.releases / files.id
    signed.write(out)
    return out
