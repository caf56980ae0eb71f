"""The gate's own connection to the SuperLink: TLS, headers of its own making, bounded answers."""

from __future__ import annotations

import ssl
from base64 import b64encode
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata

MAX_ANSWER_BYTES = (256 + 8) << 20
"""A release's weights and a little more."""


@dataclass(frozen=True)
class Answer:
    """HTTP status and body; status 503 where the SuperLink could not be reached or said too much."""

    status: int
    body: bytes = b""


class SuperLink:
    """A SuperLink that is spoken to as one SuperNode.

    Args:
        address: HOST:PORT.
        context: TLS; :func:`tls_context` trusts one certificate authority only.
        key: the SuperNode's.
    """

    def __init__(self, address: str, context: ssl.SSLContext, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._public = b64encode(public_key_to_bytes(key.public_key())).decode("ascii")
        self._version = dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata())
        # trust_env: no proxy of the environment gets between; no redirects: nobody sends us elsewhere
        self._client = httpx.Client(
            base_url=f"https://{address}", verify=context, timeout=30, trust_env=False, follow_redirects=False
        )

    def post(self, path: str, body: bytes) -> Answer:
        """Send one request. Never raises for anything that the network or the server does."""
        stamp = now().isoformat(timespec="seconds")
        headers = {
            "content-type": PROTOBUF_MEDIA_TYPE,
            "accept": PROTOBUF_MEDIA_TYPE,
            "accept-encoding": "identity",
            "user-agent": "flwr",
            FLEET_HTTP_PUBLIC_KEY_HEADER: self._public,
            TIMESTAMP_HEADER: stamp,
            FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(self._key, stamp.encode("ascii"))).decode("ascii"),
            **self._version,
        }
        try:
            with self._client.stream("POST", path, content=body, headers=headers) as response:
                content = bytearray()
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        return Answer(502)
                return Answer(response.status_code, bytes(content))
        except (httpx.HTTPError, httpx.StreamError, ValueError):
            return Answer(503)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def tls_context(root_certificates: str) -> ssl.SSLContext:
    """TLS that trusts the certificate authority of one PEM file, and no other. Raises OSError, ssl.SSLError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=root_certificates)
    return context
