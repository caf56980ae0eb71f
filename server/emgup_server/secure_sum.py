"""The server's side of the secure sum: it collects masked vectors, and learns their sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import combinations, islice

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.secure_aggregation.crypto.shamir import combine_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, public_key_to_bytes

from emgup_model.errors import RunError
from emgup_model.report_wire import TOP
from emgup_model.secure_sum_wire import (
    MIN_COHORT,
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

MAX_TRIES = 50
"""Choices of helpers that are tried to open one secret."""


class SumServer:
    """One sum over the clients that advertised their keys; each later round goes on with those that answered well.

    Args:
        session: of the sum, a fresh random digest.
        advertised: what clients said in round 0, by the server's own number for each.
        remarks: where it is noted, by number, what was wrong with a client; its vector is in the sum all the same if
            it is in ``members``.

    Attributes:
        scalars: what is summed: those that most clients advertised.
        members: numbers of those whose vectors are in the sum, once that is known.

    Raises:
        RunError: too few clients can be summed. Every method raises it, and then there is no sum.
    """

    def __init__(self, session: str, advertised: Mapping[int, Advertise], remarks: dict[int, str]) -> None:
        self.remarks = remarks
        self.members: list[int] = []
        self._session = session
        sound = self._with_own_keys(advertised)
        self.scalars = _most_common(sound.values())
        self._cohort = {n: a for n, a in sorted(sound.items()) if a.scalars == self.scalars}
        self._remark(sound.keys() - self._cohort.keys(), "its policy names other scalars")
        if len(self._cohort) < MIN_COHORT:
            raise RunError(f"{len(self._cohort)} clients can be summed, {MIN_COHORT} at least are needed")
        self.needed = threshold(len(self._cohort))
        self._commitments: dict[int, bytes] = {}
        self._masked: dict[int, list[int]] = {}

    def cohorts(self) -> dict[int, Cohort]:
        """Round 1: what each client is told."""
        numbers, said = list(self._cohort), self._cohort.values()
        seal_keys, mask_keys = [a.seal_key for a in said], [a.mask_key for a in said]
        return {
            n: Cohort(session=self._session, you=n, members=numbers, seal_keys=seal_keys, mask_keys=mask_keys)
            for n in numbers
        }

    def inboxes(self, shares: Mapping[int, Shares]) -> dict[int, Inbox]:
        """Round 2: every sender's shares, to every sender."""
        senders = {
            n: dict(zip(s.members, s.sealed, strict=True))
            for n, s in sorted(shares.items())
            if n in self._cohort and set(s.members) == self._cohort.keys() - {n}
        }
        self._remark(shares.keys() - senders.keys(), "its shares are not for the cohort")
        self._enough(len(senders), "shares")
        self._commitments = {n: shares[n].commitment for n in senders}
        out = {}
        for n in senders:
            sealed = {sender: of[n] for sender, of in senders.items() if sender != n}
            out[n] = Inbox(session=self._session, members=list(sealed), sealed=list(sealed.values()))
        return out

    def survivors(self, masked: Mapping[int, Masked]) -> Survivors:
        """Round 3: whose vectors are in the sum."""
        length = len(self.scalars)
        self._masked = {
            n: m.values for n, m in sorted(masked.items()) if n in self._commitments and len(m.values) == length
        }
        self._remark(masked.keys() - self._masked.keys(), "its vector has another length")
        self._enough(len(self._masked), "vectors")
        self.members = list(self._masked)
        return Survivors(session=self._session, members=self.members)

    def total(self, unmasked: Mapping[int, Unmask]) -> dict[str, int]:
        """The sum of the survivors' levels, by scalar."""
        helpers = _Helpers(list(self._cohort), self.needed, self.remarks)
        gone = self._commitments.keys() - self._masked.keys()
        for n, said in unmasked.items():
            if n not in self._masked or not set(said.own_of) <= set(self.members) or not set(said.keys_of) <= gone:
                self._remark({n}, "it sent shares that were not asked for")
                continue
            helpers.add(n, zip([*said.own_of, *said.keys_of], [*said.own, *said.keys], strict=True))
        self._enough(len(helpers), "shares of masks")
        total = [0] * len(self.scalars)
        for n, vector in self._masked.items():
            own = helpers.open(n, partial(self._is_own_mask, n))
            total = add(add(total, vector), mask(own, self._session, len(total)), -1)
        for n in sorted(gone):
            key = mask_key_of(helpers.open(n, partial(self._is_key_secret, n)))
            for other in self._masked:
                secret = generate_shared_key(key, bytes_to_public_key(self._cohort[other].mask_key))
                total = add(total, mask(secret, self._session, len(total)), -1 if other < n else 1)
        if any(v > TOP * len(self._masked) for v in total):
            raise RunError("the sum is out of range: a client sent something else than levels, and none can say which")
        return dict(zip(self.scalars, total, strict=True))

    def _with_own_keys(self, advertised: Mapping[int, Advertise]) -> dict[int, Advertise]:
        sound = {n: a for n, a in advertised.items() if all(_is_key(k) for k in (a.seal_key, a.mask_key))}
        self._remark(advertised.keys() - sound.keys(), "its keys are no keys")
        uses = Counter(k for a in sound.values() for k in (a.seal_key, a.mask_key))
        single = {n: a for n, a in sound.items() if uses[a.seal_key] == uses[a.mask_key] == 1}
        self._remark(sound.keys() - single.keys(), "its keys are another client's, too")
        return single

    def _is_own_mask(self, n: int, secret: bytes) -> bool:
        return commitment(secret, self._session) == self._commitments[n]

    def _is_key_secret(self, n: int, secret: bytes) -> bool:
        return public_key_to_bytes(mask_key_of(secret).public_key()) == self._cohort[n].mask_key

    def _enough(self, count: int, what: str) -> None:
        if count < self.needed:
            raise RunError(f"{what} of {count} of {len(self._cohort)} clients, {self.needed} are needed")

    def _remark(self, numbers: Iterable[int], text: str) -> None:
        self.remarks |= dict.fromkeys(numbers, text)


class _Helpers:
    """Shares of secrets, by whose secret it is and who sent it; a false one is found, and its sender is passed over."""

    def __init__(self, cohort: list[int], needed: int, remarks: dict[int, str]) -> None:
        self._place = {n: i + 1 for i, n in enumerate(cohort)}
        self._needed, self._remarks = needed, remarks
        self._shares: dict[int, dict[int, bytes]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._order)

    def add(self, helper: int, shares: Iterable[tuple[int, bytes]]) -> None:
        self._order.append(helper)
        for of, share in shares:
            if int.from_bytes(share[:4], "little") == self._place[helper]:
                self._shares.setdefault(of, {})[helper] = share

    def open(self, of: int, fits: Callable[[bytes], bool]) -> bytes:
        """The secret of a member. Raises RunError where its shares do not make it."""
        shares = self._shares.get(of, {})
        known = [h for h in self._order if h in shares]
        for tried, chosen in enumerate(islice(combinations(known, self._needed), MAX_TRIES)):
            if (secret := _combined([shares[h] for h in chosen], fits)) is None:
                continue
            if tried:
                self._sort_out(shares, list(chosen), fits)
            return secret
        self._remarks[of] = "its secrets cannot be opened: it, or too many others, sent false shares or none"
        raise RunError("a secret cannot be opened from the shares that came; see the clients' remarks")

    def _sort_out(self, shares: Mapping[int, bytes], good: list[int], fits: Callable[[bytes], bool]) -> None:
        for helper in [h for h in self._order if h in shares and h not in good]:
            if _combined([*(shares[h] for h in good[1:]), shares[helper]], fits) is None:
                self._remarks[helper] = "it sent a false share"
                self._order.remove(helper)


def _combined(shares: list[bytes], fits: Callable[[bytes], bool]) -> bytes | None:
    try:
        secret = combine_shares(shares)
    except (ValueError, ArithmeticError):
        return None
    return secret if fits(secret) else None


def _most_common(said: Iterable[Advertise]) -> list[str]:
    found = Counter(tuple(a.scalars) for a in said).most_common(1)
    return list(found[0][0]) if found else []


def _is_key(data: bytes) -> bool:
    """Whether these bytes are the one way to write a public key of the curve in use."""
    try:
        key = bytes_to_public_key(data)
        fits = isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)
        return fits and public_key_to_bytes(key) == data
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False
