"""A client's side of the secure sum: the server learns the sum of a cohort's levels, and nobody's own.

The client itself counts the cohort, in every round, and sends nothing to one below its floor. It cannot tell real
members from invented ones: against a server that makes up a cohort only the noise of the policy helps.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping

from cryptography.fernet import InvalidToken
from flwr.common.secure_aggregation.crypto.shamir import create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import decrypt, encrypt, generate_shared_key
from flwr.supercore.primitives.asymmetric import (
    bytes_to_public_key,
    generate_key_pairs,
    private_key_to_bytes,
    public_key_to_bytes,
)

from emgup_client.egress.record import EgressError
from emgup_model.report_wire import check_levels
from emgup_model.secure_sum_wire import (
    Advertise,
    Cohort,
    Inbox,
    Masked,
    Shares,
    Survivors,
    Unmask,
    add,
    mask,
    threshold,
)

MIN_FLOOR = 3
"""Of two, each knows the other's value from the sum."""
_HEAD = struct.Struct("<HHH")


class SumClient:
    """One sum, from the client's side. The rounds go in order, each once; after an error there is no way on.

    Args:
        levels: what is summed, by name; noise has been added where the policy asks for it.
        floor: the smallest cohort that the client takes part in, at least 3.

    Every method raises EgressError, and then the client has sent its last message of this sum.
    """

    def __init__(self, levels: Mapping[str, int], floor: int) -> None:
        if floor < MIN_FLOOR:
            raise EgressError(f"a cohort has at least {MIN_FLOOR} members")
        self._values, self._floor = list(check_levels(levels).values()), floor
        self._seal, self._mask = generate_key_pairs(), generate_key_pairs()
        self._own_mask = os.urandom(32)
        self._next = "advertise"
        self._cohort: Cohort | None = None
        self._shares: dict[int, tuple[bytes, bytes]] = {}

    def advertise(self) -> Advertise:
        """Round 0."""
        self._enter("advertise", "share")
        return Advertise(seal_key=public_key_to_bytes(self._seal[1]), mask_key=public_key_to_bytes(self._mask[1]))

    def share(self, cohort: Cohort) -> Shares:
        """Round 1: the cohort is known; share both secrets with it."""
        self._enter("share", "")
        self._count(len(cohort.members))
        keys = [k for m in cohort.members.values() for k in (m.seal_key, m.mask_key)]
        if len(set(keys)) != len(keys):
            raise EgressError("two members of the cohort have one key")
        mine = cohort.members.get(cohort.you)
        if mine is None or mine.mask_key != public_key_to_bytes(self._mask[1]):
            raise EgressError("this client is not a member of the cohort")
        self._cohort = cohort
        n = len(cohort.members)
        own = create_shares(self._own_mask, threshold(n), n)
        keys = create_shares(private_key_to_bytes(self._mask[0]), threshold(n), n)
        sealed = {}
        for number, a, b in zip(sorted(cohort.members), own, keys, strict=True):
            if number == cohort.you:
                self._shares[number] = (a, b)
            else:
                head = _HEAD.pack(cohort.you, number, len(a))
                sealed[number] = encrypt(self._seal_with(number), head + a + b)
        self._next = "masked"
        return Shares(sealed=sealed)

    def masked(self, inbox: Inbox) -> Masked:
        """Round 2: everybody's shares are here; send the vector under its masks."""
        self._enter("masked", "")
        cohort = self._joined()
        if cohort.you in inbox.sealed or not set(inbox.sealed) <= set(cohort.members):
            raise EgressError("shares of somebody who is not in the cohort")
        self._count(len(inbox.sealed) + 1)
        for number, sealed in inbox.sealed.items():
            self._shares[number] = self._open(number, sealed)
        total = add(self._values, mask(self._own_mask, cohort.session, len(self._values)))
        for number in inbox.sealed:
            secret = generate_shared_key(self._mask[0], bytes_to_public_key(cohort.members[number].mask_key))
            sign = 1 if cohort.you < number else -1
            total = add(total, mask(secret, cohort.session, len(total)), sign)
        self._next = "unmask"
        return Masked(values=total)

    def unmask(self, survivors: Survivors) -> Unmask:
        """Round 3: of each member one share, never both: of its own mask if it stayed, of its key if it left."""
        self._enter("unmask", "")
        alive = set(survivors.members)
        if len(alive) != len(survivors.members) or not alive <= set(self._shares):
            raise EgressError("survivors that did not share")
        self._count(len(alive))
        if len(alive) < threshold(len(self._joined().members)):
            raise EgressError("too few of the cohort are left to open the sum")
        self._next = "done"
        return Unmask(
            own={n: a for n, (a, _) in self._shares.items() if n in alive},
            keys={n: b for n, (_, b) in self._shares.items() if n not in alive},
        )

    def _enter(self, round_name: str, following: str) -> None:
        """A round that is entered and fails leaves no next one."""
        if self._next != round_name:
            raise EgressError("a round out of order")
        self._next = following

    def _count(self, members: int) -> None:
        if members < self._floor:
            raise EgressError(f"a cohort below the floor of {self._floor}")

    def _joined(self) -> Cohort:
        assert self._cohort is not None
        return self._cohort

    def _seal_with(self, number: int) -> bytes:
        try:
            return generate_shared_key(self._seal[0], bytes_to_public_key(self._joined().members[number].seal_key))
        except (ValueError, TypeError):
            raise EgressError("a member's key is no key") from None

    def _open(self, number: int, sealed: bytes) -> tuple[bytes, bytes]:
        try:
            plain = decrypt(self._seal_with(number), sealed)
            source, destination, length = _HEAD.unpack_from(plain)
        except (InvalidToken, struct.error):
            raise EgressError("shares that were not sealed for this client") from None
        if (source, destination) != (number, self._joined().you):
            raise EgressError("shares of another member")
        body = plain[_HEAD.size :]
        return body[:length], body[length:]
