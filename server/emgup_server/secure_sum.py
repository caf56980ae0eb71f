"""The server's side of the secure sum: it collects masked vectors, and learns their sum."""

from __future__ import annotations

import os
from collections.abc import Mapping

from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

from emgup_model.errors import RunError
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


class SumServer:
    """One sum over the clients that advertised their keys; each later round goes on with those that answered.

    Args:
        advertised: keys by the server's own number for a client.
    """

    def __init__(self, advertised: Mapping[int, Advertise]) -> None:
        self._members = dict(advertised)
        self._session = os.urandom(32).hex()
        self._masked: dict[int, list[int]] = {}
        self._senders: set[int] = set()

    def cohorts(self) -> dict[int, Cohort]:
        """Round 1: what each client is told."""
        return {n: Cohort(session=self._session, you=n, members=self._members) for n in self._members}

    def inboxes(self, shares: Mapping[int, Shares]) -> dict[int, Inbox]:
        """Round 2: every sender's shares, to every sender.

        Raises:
            RunError: too few sent any.
        """
        self._senders = {n for n, s in shares.items() if set(s.sealed) == set(self._members) - {n}}
        self._enough(len(self._senders), "shares")
        return {n: Inbox(sealed={s: shares[s].sealed[n] for s in self._senders if s != n}) for n in self._senders}

    def survivors(self, masked: Mapping[int, Masked]) -> Survivors:
        """Round 3: whose vectors are in the sum. Raises RunError where too few sent one, or they differ in length."""
        self._masked = {n: m.values for n, m in masked.items() if n in self._senders}
        self._enough(len(self._masked), "vectors")
        if len({len(v) for v in self._masked.values()}) != 1:
            raise RunError("the clients of a secure sum report different numbers of scalars; they need one policy")
        return Survivors(members=sorted(self._masked))

    def total(self, unmasked: Mapping[int, Unmask]) -> list[int]:
        """The sum of the survivors' vectors. Raises RunError where too few helped to open it."""
        self._enough(len(unmasked), "shares of masks")
        values = list(self._masked.values())
        length = len(values[0])
        total = [0] * length
        for vector in values:
            total = add(total, vector)
        for n in self._masked:
            own = self._secret([u.own[n] for u in unmasked.values() if n in u.own])
            total = add(total, mask(own, self._session, length), -1)
        for gone in self._senders - set(self._masked):
            key = bytes_to_private_key(self._secret([u.keys[gone] for u in unmasked.values() if gone in u.keys]))
            for n in self._masked:
                secret = generate_shared_key(key, bytes_to_public_key(self._members[n].mask_key))
                total = add(total, mask(secret, self._session, length), -1 if n < gone else 1)
        return total

    def _enough(self, count: int, what: str) -> None:
        needed = threshold(len(self._members))
        if count < needed:
            raise RunError(f"secure sum: {what} of {count} of {len(self._members)} clients, {needed} are needed")

    def _secret(self, shares: list[bytes]) -> bytes:
        needed = threshold(len(self._members))
        if len(shares) < needed:
            raise RunError("secure sum: a secret cannot be opened, too few shares came back")
        try:
            return combine_shares(shares[:needed])
        except ValueError:
            raise RunError("secure sum: a client sent a share that does not fit") from None
