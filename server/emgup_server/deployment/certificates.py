"""A certificate authority of the server's own, and a TLS certificate for the names that clients reach it by."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from emgup_model.errors import ConfigError

CA_DAYS = 3650
SERVER_DAYS = 397
CLOCK_SKEW = datetime.timedelta(hours=1)


def new_authority() -> tuple[bytes, bytes]:
    """(certificate, private key) of a new certificate authority, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("EMG-UP certificate authority")
    builder = _builder(name, name, key.public_key(), CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(certificate=True), critical=True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), _private(key)


def server_certificate(ca_certificate: bytes, ca_key: bytes, names: Sequence[str]) -> tuple[bytes, bytes]:
    """(certificate, private key) for a server that is reached by ``names``, PEM.

    Raises:
        ConfigError: a name that no certificate can hold, or a key that is none.
    """
    try:
        issuer, signer = x509.load_pem_x509_certificate(ca_certificate), load_pem_private_key(ca_key, None)
    except (ValueError, TypeError):
        raise ConfigError("the certificate authority's files are damaged; make a new server folder") from None
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError("the certificate authority's key is of another kind; make a new server folder")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder(_name("EMG-UP server"), issuer.subject, key.public_key(), SERVER_DAYS)
    for extension, critical in (
        (x509.SubjectAlternativeName([_alternative(n) for n in names]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(certificate=False), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ):
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.PEM), _private(key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        return x509.DNSName(name)
    except ValueError:
        raise ConfigError(f"'{name}' is neither a DNS name (ASCII) nor an IP address") from None


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _usage(certificate: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificate,
        key_cert_sign=certificate,
        crl_sign=certificate,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
