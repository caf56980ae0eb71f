"""The egress gate: a process of its own between the SuperNode and the SuperLink.

    python -m emgup_client.egress.gate --home HOME --listen PORT --superlink HOST:PORT --root-certificates FILE \
        --supernode-key FILE --bundle SHA256

The SuperNode is started with ``--superlink 127.0.0.1:PORT --root-certificates HOME/gate/loopback.pem`` and that key.
Prints "listening on 127.0.0.1:PORT" once it serves. Any doubt ends it, and with it the way out: there is no other.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.version import package_name, package_version

from emgup_client.egress.audit import AuditLog, read_audit
from emgup_client.egress.fleet import Fleet
from emgup_client.egress.loopback import loopback_certificate, make_app
from emgup_client.egress.noise import check_noise
from emgup_client.egress.outbox import Outbox, Wire
from emgup_client.egress.policy import FILE as POLICY
from emgup_client.egress.policy import read_policy
from emgup_client.egress.ruling import REPORT, Ruling
from emgup_client.egress.sums import Sums
from emgup_client.egress.upstream import SuperLink, tls_context
from emgup_client.egress.use_ledger import UseLedger
from emgup_client.vault import private_dir
from emgup_model.errors import ConfigError, EmgupError

FLOWER = "1.41."


@dataclass(frozen=True)
class GateOptions:
    """Where the gate stands.

    Attributes:
        home: the client's private folder; holds policy.yaml, uses.jsonl, audit.jsonl.
        listen: port on 127.0.0.1; 0 takes a free one.
        superlink: HOST:PORT.
        root_certificates: PEM of the only authority that the SuperLink's certificate may come from.
        supernode_key: the SuperNode's private key (OpenSSH, ECDSA).
        bundle: SHA-256 of the only app bundle that is handed to the SuperNode.
    """

    home: Path
    listen: int
    superlink: str
    root_certificates: Path
    supernode_key: Path
    bundle: str


def serve(options: GateOptions) -> None:
    """Run the gate until it is told to end.

    Raises:
        EmgupError: another Flower, a policy that is not valid, a damaged log or ledger, a key that cannot be read.
    """
    if package_name != "flwr" or not package_version.startswith(FLOWER):
        raise ConfigError(f"the gate knows Flower {FLOWER}* only, this is {package_name} {package_version}")
    if not re.fullmatch(r"[0-9a-f]{64}", options.bundle):
        raise ConfigError("--bundle is the SHA-256 of the app bundle, 64 hexadecimal digits")
    home = private_dir(options.home)
    policy = read_policy(home / POLICY)
    check_noise(policy)
    key = read_supernode_key(options.supernode_key)
    try:
        context = tls_context(str(options.root_certificates))
    except (OSError, ssl.SSLError):
        raise ConfigError(f"no readable root certificate at {options.root_certificates}") from None
    audit = AuditLog(home)
    ledger = UseLedger(home, policy)
    check_ledger_is_whole(home, ledger)
    wire = Wire(SuperLink(options.superlink, context, key).post, audit)
    outbox = Outbox(wire, policy.limits.pad_s)
    public = key.public_key()
    ruling, sums = Ruling(policy, ledger, audit), Sums(policy, ledger)
    fleet = Fleet(wire, outbox, ruling, sums, audit, public_key_to_bytes(public), options.bundle)
    certificate, private = loopback_certificate(home)
    config = uvicorn.Config(
        make_app(fleet, public),
        ssl_certfile=certificate,
        ssl_keyfile=private,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=3,
        limit_concurrency=64,
    )
    try:
        with socket.create_server(("127.0.0.1", options.listen)) as listening:
            print(f"listening on 127.0.0.1:{listening.getsockname()[1]}", flush=True)
            uvicorn.Server(config).run(sockets=[listening])
    except OSError as e:
        raise ConfigError(f"cannot listen on port {options.listen}: {e.strerror}") from None
    finally:
        fleet.close()
        outbox.close()
        wire.close()
        audit.close()
        ledger.close()


def check_ledger_is_whole(home: Path, ledger: UseLedger) -> None:
    """Raise ConfigError where the audit log knows of more reports than the ledger: its limits were lost with it."""
    noted = sum(line["kind"] == REPORT for line in read_audit(home))
    if noted > ledger.reports:
        raise ConfigError(
            f"{home / 'audit.jsonl'} knows of {noted} reports, {home / 'uses.jsonl'} of {ledger.reports}; "
            "restore the ledger, or move both away if you mean to start over"
        )


def read_supernode_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The SuperNode's key. Raises ConfigError where there is none, or others may read it."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError(f"{path} can be read by others; make it 0600")
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"no readable SuperNode key at {path}") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} holds a key of another kind; SuperNodes sign with ECDSA")
    return key


def parse_options(arguments: Sequence[str]) -> GateOptions:
    """Command line of the gate."""
    parser = argparse.ArgumentParser(prog="emgup-gate", description="What leaves this machine passes here.")
    parser.add_argument("--home", type=Path, required=True, help="the client's private folder")
    parser.add_argument("--listen", type=int, required=True, help="port on 127.0.0.1 for the SuperNode; 0: any")
    parser.add_argument("--superlink", required=True, help="HOST:PORT")
    parser.add_argument("--root-certificates", type=Path, required=True, help="PEM of the SuperLink's authority")
    parser.add_argument("--supernode-key", type=Path, required=True, help="the SuperNode's private key")
    parser.add_argument("--bundle", required=True, help="SHA-256 of the only app bundle to hand down")
    return GateOptions(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 2 and one line for what a user can fix."""
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s gate %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        serve(parse_options(sys.argv[1:] if arguments is None else arguments))
    except EmgupError as e:
        print(f"gate: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
