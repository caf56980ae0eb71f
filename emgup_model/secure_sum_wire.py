"""Messages and masks of the secure sum: what both sides of it must agree on. No Flower in here.

The sum is that of Bonawitz et al. 2017 (10.1145/3133956.3133982): every client adds to its vector one mask per other
client, which cancel in the sum, and one of its own, which the others help to remove for those who stayed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Annotated

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from pydantic import BaseModel, ConfigDict, Field

from emgup_model.report_wire import MAX_SCALARS, TOP

MAX_COHORT = 1000
MODULUS_BITS = 32
MODULUS = 1 << MODULUS_BITS
assert MAX_COHORT * TOP < MODULUS


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)


Member = Annotated[int, Field(ge=0, lt=MAX_COHORT)]
PublicKey = Annotated[bytes, Field(min_length=1, max_length=512)]
Sealed = Annotated[bytes, Field(min_length=1, max_length=2048)]
Share = Annotated[bytes, Field(min_length=20, max_length=1024)]


class Advertise(_Strict):
    """Client, round 0: two fresh public keys, one to seal shares, one for masks."""

    seal_key: PublicKey
    mask_key: PublicKey


class Cohort(_Strict):
    """Server, round 1: who takes part, by number, and which number the client has."""

    session: str = Field(pattern=r"^[0-9a-f]{64}$")
    you: Member
    members: dict[Member, Advertise] = Field(max_length=MAX_COHORT)


class Shares(_Strict):
    """Client, round 1: for each other member a share of both secrets, sealed for that member."""

    sealed: dict[Member, Sealed] = Field(max_length=MAX_COHORT)


class Inbox(_Strict):
    """Server, round 2: the shares sealed for this client, by sender. Only senders belong to the sum from here on."""

    sealed: dict[Member, Sealed] = Field(max_length=MAX_COHORT)


class Masked(_Strict):
    """Client, round 2: the vector under its masks; integers modulo 2**32."""

    values: list[Annotated[int, Field(ge=0, lt=MODULUS)]] = Field(min_length=1, max_length=MAX_SCALARS)


class Survivors(_Strict):
    """Server, round 3: whose masked vectors arrived."""

    members: list[Member] = Field(max_length=MAX_COHORT)


class Unmask(_Strict):
    """Client, round 3: of each survivor the share of its own mask, of each other sender that of its key for masks."""

    own: dict[Member, Share] = Field(max_length=MAX_COHORT)
    keys: dict[Member, Share] = Field(max_length=MAX_COHORT)


def threshold(cohort: int) -> int:
    """Shares that open a secret: over two thirds, so that two parts of a cohort cannot be told different things."""
    return 2 * cohort // 3 + 1


def mask(secret: bytes, session: str, length: int) -> list[int]:
    """Integers modulo 2**32 from a secret: a ChaCha20 key stream under the hash of secret and session.

    Flower's ``pseudo_rand_gen`` folds its seed to 32 bits, which a server can try out; this keeps all 256.
    """
    key = hashlib.sha256(b"emgup secure sum\0" + session.encode() + b"\0" + secret).digest()
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(4 * length))
    return list(struct.unpack(f"<{length}I", stream))


def add(a: Sequence[int], b: Sequence[int], sign: int = 1) -> list[int]:
    """Elementwise a + b or, with sign -1, a - b, modulo 2**32."""
    return [(x + sign * y) % MODULUS for x, y in zip(a, b, strict=True)]
