"""Messages and masks of the secure sum: what both sides of it must agree on. No Flower in here.

The sum is that of Bonawitz et al. 2017 (10.1145/3133956.3133982): every client adds to its vector one mask per other
client, which cancel in the sum, and one of its own, which the others help to remove for those who stayed. A message is
flat, ready for a config record: what belongs to members are columns beside a column of their numbers.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from emgup_model.report_wire import CATALOGUE, MAX_SCALARS, TOP
from emgup_model.wire import Digest, WireError

MIN_COHORT = 3
"""Of two, each knows the other's value from the sum."""
MAX_COHORT = 100
"""A client's largest message (shares for every other member) then stays below the 64 KB that a SuperLink takes."""
MODULUS_BITS = 32
MODULUS = 1 << MODULUS_BITS
SECRET_BYTES = 32
SHARE_BYTES = 52
"""Of a secret: four of index, and 16 for each of three blocks, the last of which is padding."""
_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFC7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973
"""Of the group of P-384 (FIPS 186-5)."""
assert MAX_COHORT * TOP < MODULUS


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", hide_input_in_errors=True)

    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Fields that hold numbers of members, each with the fields that hold one value for each of them."""

    @model_validator(mode="after")
    def _fit(self) -> _Strict:
        for name, beside in self.columns.items():
            numbers = getattr(self, name)
            if len(set(numbers)) != len(numbers) or any(len(getattr(self, b)) != len(numbers) for b in beside):
                raise ValueError("a member twice, or a column of another length")
        return self


def _known(scalars: list[str]) -> list[str]:
    if scalars != [name for name in CATALOGUE if name in scalars]:
        raise ValueError("not scalars of the catalogue in its order")
    return scalars


Member = Annotated[int, Field(ge=0, lt=MAX_COHORT)]
Members = Annotated[list[Member], Field(max_length=MAX_COHORT)]
PublicKey = Annotated[bytes, Field(min_length=1, max_length=512)]
PublicKeys = Annotated[list[PublicKey], Field(max_length=MAX_COHORT)]
Sealed = Annotated[bytes, Field(min_length=1, max_length=512)]
AllSealed = Annotated[list[Sealed], Field(max_length=MAX_COHORT)]
Share = Annotated[bytes, Field(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
AllShares = Annotated[list[Share], Field(max_length=MAX_COHORT)]
Scalars = Annotated[list[str], Field(min_length=1, max_length=MAX_SCALARS), AfterValidator(_known)]


class Invite(_Strict):
    """Server, round 0: take part in a sum of the reports that were made on a release and cell."""

    session: Digest
    release_id: Digest
    cell: Digest


class Advertise(_Strict):
    """Client, round 0: two fresh public keys, one to seal shares, one for masks; and which scalars it would sum."""

    seal_key: PublicKey
    mask_key: PublicKey
    scalars: Scalars


class Cohort(_Strict):
    """Server, round 1: who takes part, by number, with their keys, and which number the client has."""

    session: Digest
    you: Member
    members: Members
    seal_keys: PublicKeys
    mask_keys: PublicKeys
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"members": ("seal_keys", "mask_keys")}


class Shares(_Strict):
    """Client, round 1: for each other member a share of both secrets, sealed for it; and what its own mask must fit."""

    members: Members
    sealed: AllSealed
    commitment: bytes = Field(min_length=32, max_length=32)
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"members": ("sealed",)}


class Inbox(_Strict):
    """Server, round 2: the shares sealed for this client, by sender. Only senders belong to the sum from here on."""

    session: Digest
    members: Members
    sealed: AllSealed
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"members": ("sealed",)}


class Masked(_Strict):
    """Client, round 2: the vector under its masks; integers modulo 2**32, in the order of the scalars."""

    values: list[Annotated[int, Field(ge=0, lt=MODULUS)]] = Field(min_length=1, max_length=MAX_SCALARS)


class Survivors(_Strict):
    """Server, round 3: whose masked vectors arrived."""

    session: Digest
    members: Members
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"members": ()}


class Unmask(_Strict):
    """Client, round 3: of survivors the share of their own mask, of other senders that of their key for masks."""

    own_of: Members
    own: AllShares
    keys_of: Members
    keys: AllShares
    columns: ClassVar[Mapping[str, tuple[str, ...]]] = {"own_of": ("own",), "keys_of": ("keys",)}


FromServer = Invite | Cohort | Inbox | Survivors
FromClient = Advertise | Shares | Masked | Unmask


class Round(NamedTuple):
    """What is asked and answered in one round."""

    asked: type[FromServer]
    answered: type[FromClient]


ADVERTISE, SHARE, MASK, UNMASK = (f"query.sum_{name}" for name in ("advertise", "share", "mask", "unmask"))
ROUNDS: Mapping[str, Round] = {
    ADVERTISE: Round(Invite, Advertise),
    SHARE: Round(Cohort, Shares),
    MASK: Round(Inbox, Masked),
    UNMASK: Round(Survivors, Unmask),
}
"""The rounds in their order, by the type of their Flower messages."""

M = TypeVar("M", bound=_Strict)


def decode(kind: type[M], values: Mapping[Any, Any]) -> M:
    """The message that flat values hold (``model_dump`` makes them). Raises WireError, which repeats no input."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError:
        raise WireError(f"no message of the secure sum ({kind.__name__.lower()})") from None


def threshold(cohort: int) -> int:
    """Shares that open a secret: over two thirds, so that two parts of a cohort cannot be told different things."""
    return 2 * cohort // 3 + 1


def mask_key_of(secret: bytes) -> ec.EllipticCurvePrivateKey:
    """The private key for masks that belongs to a secret of 32 bytes: shares of it are shorter than those of a key."""
    number = int.from_bytes(hashlib.sha512(b"emgup secure sum key\0" + secret).digest(), "big")
    return ec.derive_private_key(number % (_ORDER - 1) + 1, ec.SECP384R1())


def commitment(own_mask: bytes, session: str) -> bytes:
    """What tells a client's own mask from a false one, and tells nothing else: a hash of 32 random bytes."""
    return hashlib.sha256(b"emgup secure sum commitment\0" + session.encode() + b"\0" + own_mask).digest()


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
