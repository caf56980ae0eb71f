"""`emgup client init`: make a client's folder from what the server handed out and what the user decides."""

from __future__ import annotations

import hashlib
import secrets
import ssl
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from flwr.cli.build import build_fab_from_files

from emgup_client.deployment.config import ClientConfig, ClientHome
from emgup_client.egress.policy import read_policy
from emgup_client.vault import private_dir, write_private
from emgup_model.bundle import bundle_files
from emgup_model.config import dump_yaml, find_config, parse
from emgup_model.data.store import read_info
from emgup_model.errors import ConfigError
from emgup_model.keys import read_trusted, write_trusted
from emgup_model.methods import load_method


def init_client(
    home: ClientHome, recordings: Path, root_certificates: Path, trusted: Path, policy: str, **settings: object
) -> ClientConfig:
    """Make the folder: keys, certificates, config. The config comes last.

    Args:
        home: folder to make.
        recordings: the user's recording file; it is opened to see that it is one.
        root_certificates, trusted: files from the server; copied.
        policy: what may leave: a shipped policy's name or a YAML file; copied.
        settings: further keys of :class:`ClientConfig`.

    Raises:
        ConfigError: there is a client already, or a setting or file is wrong.
        DataError: the recording file is unusable.
        ReleaseError: the list of trusted keys is none.
    """
    if home.config_file.exists():
        raise ConfigError(f"{home.path} is a client's folder already; to start over, move it away first")
    read_info(recordings)
    keys = read_trusted(trusted)
    chosen = find_config("privacy", policy)
    read_policy(chosen)
    certificates = _read_certificates(root_certificates)
    settings = {k: v for k, v in settings.items() if v is not None}
    known = {"recordings": recordings.resolve(), "bundle_sha256": bundle_sha256()}
    config = parse(ClientConfig, known | settings, "the client's settings")
    for method in config.methods:
        load_method(method)
    for folder in (home.path, home.supernode_key.parent, home.flower_home, home.logs):
        private_dir(folder)
    write_private(home.root_certificates, certificates)
    write_trusted(home.trusted, keys)
    write_private(home.policy, chosen.read_bytes())
    write_private(home.superexec_secret, secrets.token_hex(32))
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(home.supernode_key, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n"
    write_private(home.supernode_public_key, public)
    write_private(home.config_file, dump_yaml(config))
    return config


def bundle_sha256() -> str:
    """Hash of the one app bundle that belongs to this installation."""
    return hashlib.sha256(build_fab_from_files(bundle_files())[0]).hexdigest()


def _read_certificates(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        ssl.create_default_context(cadata=data.decode("ascii"))
    except (OSError, ValueError, ssl.SSLError):
        raise ConfigError(f"{path} holds no PEM certificate; take for_clients/root_certificates.pem") from None
    return data
