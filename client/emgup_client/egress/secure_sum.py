"""A client's side of the secure sum: the server learns the sum of a cohort's levels, and nobody's own.

The client itself counts the cohort, in every round, and sends nothing to one below its floor. It cannot tell real
members from invented ones: against a server that makes up a cohort only the noise of the policy helps.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, generate_key_pairs, public_key_to_bytes

from emgup_client.egress.record import EgressError
from emgup_model.report_wire import check_levels
from emgup_model.secure_sum_wire import (
    MIN_COHORT,
    SECRET_BYTES,
    SHARE_BYTES,
    Advertise,
    Cohort,
    Inbox,
    Masked,
    Shares,
    Survivors,
    Unmask,
    add,
    commitment,
    mask,
    mask_key_of,
    threshold,
)

_HEAD = struct.Struct("<HH")


class SumClient:
    """One sum, from the client's side. The rounds go in order, each once; after an error there is no way on.

    Args:
        session: of the sum.
        levels: what is summed, by name; noise has been added where the policy asks for it.
        floor: the smallest cohort that the client takes part in, at least 3.

    Every method raises EgressError, and then the client has sent its last message of this sum.
    """

    def __init__(self, session: str, levels: Mapping[str, int], floor: int) -> None:
        if floor < MIN_COHORT:
            raise EgressError(f"a cohort has at least {MIN_COHORT} members")
        self._session, self._floor = session, floor
        self._levels = check_levels(levels)
        self._seal = generate_key_pairs()[0]
        self._key_secret, self._own_mask = os.urandom(SECRET_BYTES), os.urandom(SECRET_BYTES)
        self._mask_key = mask_key_of(self._key_secret)
        self._next = "advertise"
        self._you, self._keys = 0, dict[int, tuple[bytes, bytes]]()
        self._senders: set[int] = set()
        self._shares: dict[int, tuple[bytes, bytes]] = {}

    @property
    def over(self) -> bool:
        """Whether no round can follow."""
        return self._next in ("", "done")

    def advertise(self) -> Advertise:
        """Round 0."""
        self._enter("advertise", "share")
        keys = (public_key_to_bytes(k.public_key()) for k in (self._seal, self._mask_key))
        return Advertise(seal_key=next(keys), mask_key=next(keys), scalars=list(self._levels))

    def share(self, cohort: Cohort) -> Shares:
        """Round 1: the cohort is known; share both secrets with it."""
        self._enter("share", "")
        n = self._count(len(cohort.members))
        self._you = cohort.you
        self._keys = dict(zip(cohort.members, zip(cohort.seal_keys, cohort.mask_keys, strict=True), strict=True))
        if len({k for pair in self._keys.values() for k in pair}) != 2 * n:
            raise EgressError("two members of the cohort have one key")
        if self._you not in self._keys or self._keys[self._you][1] != public_key_to_bytes(self._mask_key.public_key()):
            raise EgressError("this client is not a member of the cohort")
        own = create_shares(self._own_mask, threshold(n), n)
        keys = create_shares(self._key_secret, threshold(n), n)
        sealed = {}
        for number, a, b in zip(sorted(self._keys), own, keys, strict=True):
            if number == self._you:
                self._shares[number] = (a, b)
            else:
                sealed[number] = encrypt(self._seal_with(number), _HEAD.pack(self._you, number) + a + b)
        self._next = "masked"
        fits = commitment(self._own_mask, self._session)
        return Shares(members=list(sealed), sealed=list(sealed.values()), commitment=fits)

    def masked(self, inbox: Inbox) -> Masked:
        """Round 2: everybody's shares are here; send the vector under its masks.

        Shares that do not open are left out: whoever sent such shares only keeps the sum from being opened.
        """
        self._enter("masked", "")
        if self._you in inbox.members or not set(inbox.members) <= set(self._keys):
            raise EgressError("shares of somebody who is not in the cohort")
        self._count(len(inbox.members) + 1)
        self._senders = {self._you, *inbox.members}
        for number, sealed in zip(inbox.members, inbox.sealed, strict=True):
            if (opened := self._open(number, sealed)) is not None:
                self._shares[number] = opened
        values = list(self._levels.values())
        total = add(values, mask(self._own_mask, self._session, len(values)))
        for number in inbox.members:
            secret = _agree(self._mask_key, self._keys[number][1])
            total = add(total, mask(secret, self._session, len(total)), 1 if self._you < number else -1)
        self._next = "unmask"
        return Masked(values=total)

    def unmask(self, survivors: Survivors) -> Unmask:
        """Round 3: of each member one share, never both: of its own mask if it stayed, of its key if it left."""
        self._enter("unmask", "")
        alive = set(survivors.members)
        if not alive <= self._senders:
            raise EgressError("survivors that did not share")
        self._count(len(alive))
        if len(alive) < threshold(len(self._keys)):
            raise EgressError("too few of the cohort are left to open the sum")
        self._next = "done"
        own = {n: a for n, (a, _) in self._shares.items() if n in alive}
        keys = {n: b for n, (_, b) in self._shares.items() if n not in alive}
        return Unmask(own_of=list(own), own=list(own.values()), keys_of=list(keys), keys=list(keys.values()))

    def _enter(self, round_name: str, following: str) -> None:
        """A round that is entered and fails leaves no next one."""
        if self._next != round_name:
            raise EgressError("a round out of order")
        self._next = following

    def _count(self, members: int) -> int:
        if members < self._floor:
            raise EgressError(f"a cohort of {members}, below the floor of {self._floor}")
        return members

    def _seal_with(self, number: int) -> bytes:
        return _agree(self._seal, self._keys[number][0])

    def _open(self, number: int, sealed: bytes) -> tuple[bytes, bytes] | None:
        try:
            plain = decrypt(self._seal_with(number), sealed)
        except InvalidToken:
            return None
        body = plain[_HEAD.size :]
        if len(body) != 2 * SHARE_BYTES or _HEAD.unpack_from(plain) != (number, self._you):
            return None
        return body[:SHARE_BYTES], body[SHARE_BYTES:]


def _agree(private: ec.EllipticCurvePrivateKey, public: bytes) -> bytes:
    try:
        return generate_shared_key(private, bytes_to_public_key(public))
    except (ValueError, TypeError, AttributeError, UnsupportedAlgorithm):
        raise EgressError("a member's key is no key") from None
