"""A real SuperLink with TLS and node authentication, a gate, and a SuperNode behind it, all on 127.0.0.1."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from flwr.cli.build import build_fab_from_disk

from emgup_model.processes import free_port

BIN = Path(sys.executable).parent


def make_certificates(folder: Path) -> tuple[Path, Path, Path]:
    """(authority, certificate, key) of a server on 127.0.0.1."""
    folder.mkdir(parents=True, exist_ok=True)
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
    now = datetime.datetime.now(datetime.UTC)

    def signed(subject: x509.Name, key: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
        )
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    ca, pem, key = folder / "ca.crt", folder / "server.pem", folder / "server.key"
    ca.write_bytes(signed(issuer, authority, True))
    pem.write_bytes(signed(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), server, False))
    key.write_bytes(
        server.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return ca, pem, key


def make_node_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A SuperNode's key at ``path``, its public half beside it (.pub)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    openssh = serialization.PrivateFormat.OpenSSH
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, openssh, serialization.NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b"\n")
    return key


def bundle_hash(app: Path) -> str:
    return hashlib.sha256(build_fab_from_disk(app)).hexdigest()


@dataclass
class Deployment:
    """Everything that runs, and where it writes."""

    folder: Path
    home: Path
    superlink: int
    environment: dict[str, str]

    @property
    def database(self) -> Path:
        return self.folder / "state.db"

    def flwr(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(BIN / "flwr"), *arguments],
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, app: Path, config: str, deadline_s: float) -> str:
        """Run an app; its final status."""
        started = json.loads(self.flwr("run", str(app), "here", "--format", "json", "--run-config", config))
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            listed = json.loads(self.flwr("list", "here", "--run-id", str(started["run-id"]), "--format", "json"))
            status = str(listed["runs"][0]["status"])
            if status.startswith("finished"):
                return status
            time.sleep(1)
        return "timeout"

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


@contextlib.contextmanager
def deployment(folder: Path, policy: str, bundle: str) -> Iterator[Deployment]:
    """SuperLink, gate and one SuperNode; they are ended with the context."""
    ca, pem, key = make_certificates(folder / "certificates")
    node_key = folder / "keys" / "node"
    make_node_key(node_key)
    home = folder / "home"
    home.mkdir(mode=0o700)
    (home / "policy.yaml").write_text(policy)
    port, listen = free_port(), free_port()
    flwr_home = folder / "flwr"
    flwr_home.mkdir()
    (flwr_home / "config.toml").write_text(
        f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{port}"\nroot-certificates = "{ca}"\n'
    )
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ.get('PATH', '')}",
        "FLWR_HOME": str(flwr_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
    }
    made = Deployment(folder, home, port, environment)
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        with (folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
        started.append(process)
        return process

    def wait_for(port: int, process: subprocess.Popen[bytes], name: str) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.2)
        raise AssertionError(f"{name} does not listen:\n{made.log(name)}")

    try:
        superlink = start(
            "superlink",
            *(str(BIN / "flower-superlink"), "--ssl-ca-certfile", str(ca), "--ssl-certfile", str(pem)),
            *("--ssl-keyfile", str(key), "--enable-supernode-auth", "--host", "127.0.0.1", "--port", str(port)),
            *("--database", str(made.database), "--disable-runtime-dependency-installation"),
        )
        wait_for(port, superlink, "superlink")
        made.flwr("supernode", "register", str(node_key.with_suffix(".pub")), "here")
        process = start(
            "gate",
            *(sys.executable, "-m", "emgup_client.egress.gate", "--home", str(home), "--listen", str(listen)),
            *("--superlink", f"127.0.0.1:{port}", "--root-certificates", str(ca)),
            *("--supernode-key", str(node_key), "--bundle", bundle),
        )
        wait_for(listen, process, "gate")
        start(
            "supernode",
            *(str(BIN / "flower-supernode"), "--superlink", f"127.0.0.1:{listen}"),
            *("--root-certificates", str(home / "gate" / "loopback.pem"), "--port", str(free_port())),
            *("--auth-supernode-private-key", str(node_key)),
        )
        yield made
    finally:
        for process in reversed(started):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 15)
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()
