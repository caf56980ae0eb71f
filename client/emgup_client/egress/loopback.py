"""The gate's side towards the SuperNode: HTTPS on 127.0.0.1, for the owner of the SuperNode's key only."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    FLWR_PACKAGE_NAME_METADATA_KEY,
    FLWR_PACKAGE_VERSION_METADATA_KEY,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, verify_signature
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.version import package_name, package_version
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from emgup_client.egress.fleet import MAX_BODY_BYTES, PREFIX, Fleet
from emgup_client.egress.record import EgressError
from emgup_client.egress.upstream import Answer
from emgup_client.vault import private_dir, write_private

CERTIFICATE, KEY = "loopback.pem", "loopback.key"
_YEARS = datetime.timedelta(days=3650)
_RENEW = datetime.timedelta(days=60)


def loopback_certificate(home: Path) -> tuple[Path, Path]:
    """(certificate, key) below ``home/gate``, made where they are missing or expire soon.

    The SuperNode is started with the certificate as its ``--root-certificates``.
    """
    folder = private_dir(private_dir(home) / "gate")
    certificate, key = folder / CERTIFICATE, folder / KEY
    if not (key.exists() and _lasts(certificate)):
        private = ec.generate_private_key(ec.SECP256R1())
        write_private(key, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        write_private(certificate, _self_signed(private).public_bytes(Encoding.PEM))
    return certificate, key


def _lasts(certificate: Path) -> bool:
    try:
        end = x509.load_pem_x509_certificate(certificate.read_bytes()).not_valid_after_utc
    except (OSError, ValueError):
        return False
    return end - datetime.datetime.now(datetime.UTC) > _RENEW


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "emgup egress gate")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _YEARS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def check_caller(headers: Mapping[str, str], key: ec.EllipticCurvePublicKey) -> None:
    """Raise EgressError unless a call is of this Flower version and was signed with the SuperNode's key just now."""
    version = headers.get(FLWR_PACKAGE_NAME_METADATA_KEY), headers.get(FLWR_PACKAGE_VERSION_METADATA_KEY)
    if version != (package_name, package_version):
        raise EgressError("a SuperNode of another Flower version")
    try:
        public = b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        signature = b64decode(headers[FLEET_HTTP_SIGNATURE_HEADER], validate=True)
        stamp = headers[TIMESTAMP_HEADER]
        age = (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(stamp)).total_seconds()
        fresh = -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE
        known = public == public_key_to_bytes(key) and verify_signature(key, stamp.encode("ascii"), signature)
    except (KeyError, ValueError, TypeError):
        fresh = known = False
    if not (fresh and known):
        raise EgressError("a caller that does not hold the SuperNode's key")


def make_app(fleet: Fleet, key: ec.EllipticCurvePublicKey) -> Starlette:
    """The web application that the SuperNode takes for its SuperLink."""

    async def endpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                break
        answer = await run_in_threadpool(_answer, fleet, key, dict(request.headers), request.url.path, bytes(body))
        return Response(answer.body, status_code=answer.status, media_type=PROTOBUF_MEDIA_TYPE)

    return Starlette(routes=[Route(PREFIX + "{name:path}", endpoint, methods=["POST"])])


def _answer(fleet: Fleet, key: ec.EllipticCurvePublicKey, headers: Mapping[str, str], path: str, body: bytes) -> Answer:
    try:
        check_caller(headers, key)
    except EgressError as e:
        return fleet.refuse("caller", str(e))
    return fleet.call(path, body)


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS of the loopback side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
