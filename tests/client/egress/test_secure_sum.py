"""The secure sum, with real clients and a real server in one process; every message goes over its wire form."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

import pytest
from flwr.app import ConfigRecord
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_client.egress.record import EgressError
from emgup_client.egress.secure_sum import SumClient
from emgup_model.errors import RunError
from emgup_model.report_wire import TOP
from emgup_model.secure_sum_wire import (
    MAX_COHORT,
    MODULUS,
    Advertise,
    Cohort,
    FromClient,
    FromServer,
    Inbox,
    Invite,
    Masked,
    Shares,
    Survivors,
    Unmask,
    add,
    decode,
    mask,
    threshold,
)
from emgup_model.wire import WireError
from emgup_server.secure_sum import SumServer

M = TypeVar("M", bound=FromClient | FromServer)
Change = Callable[[int, Any], Any]
SESSION = "5" * 64


def wire(message: M) -> M:
    """Through Flower's record and back, as strictly as a receiver reads."""
    record = ConfigRecord.inflate(ConfigRecord(message.model_dump()).deflate())
    return decode(type(message), dict(record))


def levels(value: int) -> dict[str, int]:
    return {"predictions_changed": value % (TOP + 1), "confidence": TOP - value % (TOP + 1)}


def expected(members: Collection[int]) -> dict[str, int]:
    said = [levels(7 * i + 1) for i in members]
    return {name: sum(v[name] for v in said) for name in said[0]}


def same(_: int, message: Any) -> Any:
    return message


class Play:
    """A sum in one process: ``change`` may replace what a client sends (None: nothing comes)."""

    def __init__(self, count: int, floor: int = 3, change: Change = same) -> None:
        self.clients = [SumClient(SESSION, levels(7 * i + 1), floor) for i in range(count)]
        self._change = change
        self.server = SumServer(SESSION, self._hear({i: c.advertise() for i, c in enumerate(self.clients)}), {})

    def inboxes(self) -> dict[int, Inbox]:
        shares = self._hear({i: self.clients[i].share(wire(c)) for i, c in self.server.cohorts().items()})
        return self.server.inboxes(shares)

    def masked(self) -> dict[int, Masked]:
        return self._hear({i: self.clients[i].masked(wire(box)) for i, box in self.inboxes().items()})

    def total(self) -> dict[str, int]:
        survivors = self.server.survivors(self.masked())
        return self.server.total(self._hear({i: self.clients[i].unmask(wire(survivors)) for i in survivors.members}))

    def _hear(self, messages: dict[int, M]) -> dict[int, M]:
        changed = {i: self._change(i, m) for i, m in messages.items()}
        return {i: wire(m) for i, m in changed.items() if m is not None}


def without(gone: dict[type, Collection[int]]) -> Change:
    """Some clients send nothing in some rounds."""
    return lambda i, message: None if i in gone.get(type(message), ()) else message


def test_the_sum_is_the_sum() -> None:
    play = Play(5)
    assert play.total() == expected(range(5))
    assert play.server.members == list(range(5))
    assert play.server.remarks == {}


@pytest.mark.parametrize(
    ("silent", "gone", "last"), [((2,), (), ()), ((), (0,), ()), ((), (6,), ()), ((), (), (3,)), ((1,), (4,), ())]
)
def test_those_who_drop_out_are_left_out(silent: tuple[int], gone: tuple[int], last: tuple[int]) -> None:
    play = Play(7, change=without({Shares: silent, Masked: gone, Unmask: last}))
    assert play.total() == expected(set(range(7)) - set(silent) - set(gone))


def test_too_many_dropouts_end_in_a_clear_error() -> None:
    with pytest.raises(RunError, match="vectors of 4 of 7 clients, 5 are needed"):
        Play(7, change=without({Masked: (0, 1, 2)})).total()


def test_nothing_of_a_vector_is_readable_under_its_masks() -> None:
    first, second = Play(4).masked(), Play(4).masked()
    assert all(v > TOP for found in (first, second) for m in found.values() for v in m.values)  # 1 in 4 million
    assert not {v for m in first.values() for v in m.values} & {v for m in second.values() for v in m.values}


@pytest.mark.parametrize("floor", [4, 5, 9])
def test_a_cohort_one_below_the_floor_is_refused_before_anything_is_shared(floor: int) -> None:
    play = Play(floor - 1, floor)
    for number, cohort in play.server.cohorts().items():
        with pytest.raises(EgressError, match=f"below the floor of {floor}"):
            play.clients[number].share(cohort)
        with pytest.raises(EgressError, match="out of order"):
            play.clients[number].masked(Inbox(session=SESSION, members=[], sealed=[]))


def test_a_floor_below_three_is_no_floor() -> None:
    with pytest.raises(EgressError):
        SumClient(SESSION, levels(1), 2)


def test_a_cohort_that_shrinks_below_the_floor_gets_no_vector() -> None:
    play = Play(5, floor=5)
    box = play.inboxes()[0]
    with pytest.raises(EgressError, match="below the floor"):
        play.clients[0].masked(Inbox(session=SESSION, members=box.members[:3], sealed=box.sealed[:3]))


def test_survivors_below_the_floor_are_not_unmasked() -> None:
    play = Play(5, floor=5)
    play.masked()
    with pytest.raises(EgressError, match="below the floor"):
        play.clients[0].unmask(Survivors(session=SESSION, members=[0, 1, 2, 3]))


def test_the_server_cannot_ask_twice() -> None:
    """Two different lists of survivors would give it a member's own mask and its key: the member's vector."""
    play = Play(4)
    play.masked()
    play.clients[0].unmask(Survivors(session=SESSION, members=[0, 1, 2, 3]))
    with pytest.raises(EgressError, match="out of order"):
        play.clients[0].unmask(Survivors(session=SESSION, members=[0, 1, 2]))


@given(st.integers(3, MAX_COHORT))
def test_no_two_parts_of_a_cohort_can_be_told_different_things(count: int) -> None:
    assert 2 * threshold(count) > count + 1


def test_members_with_one_key_are_refused() -> None:
    play = Play(4)
    cohort = play.server.cohorts()[0]
    twice = cohort.model_copy(update={"mask_keys": [*cohort.mask_keys[:3], cohort.mask_keys[2]]})
    with pytest.raises(EgressError, match="one key"):
        play.clients[0].share(twice)


@given(st.binary(min_size=1, max_size=64), st.integers(1, 8))
@settings(max_examples=50)
def test_masks_are_a_function_of_secret_and_session(secret: bytes, length: int) -> None:
    a = mask(secret, "s", length)
    assert a == mask(secret, "s", length)
    assert a != mask(secret, "t", length) or length == 0
    assert add(add([5] * length, a), a, -1) == [5] * length
    assert all(0 <= v < MODULUS for v in a)


# --- hostile members ---------------------------------------------------------------------------------------------

OTHER_KEYS = [public_key_to_bytes(generate_key_pairs()[1]) for _ in range(2)]


def by(member: int, kind: type, **changes: Any) -> Change:
    """One member's message of one round, changed."""

    def change(i: int, message: Any) -> Any:
        if i != member or not isinstance(message, kind):
            return message
        return message.model_copy(update={k: v(getattr(message, k)) for k, v in changes.items()})

    return change


def false(shares: list[bytes]) -> list[bytes]:
    return [s[:4] + bytes(x ^ 255 for x in s[4:]) for s in shares]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (by(2, Advertise, seal_key=lambda _: b"no key"), "no keys"),
        (by(2, Advertise, mask_key=lambda k: k + b"\n"), "no keys"),
        (by(2, Advertise, mask_key=lambda _: OTHER_KEYS[0], seal_key=lambda _: OTHER_KEYS[0]), "another client's"),
        (by(2, Advertise, scalars=lambda _: ["decision"]), "other scalars"),
        (by(2, Shares, members=lambda m: [*m[:-1], 2]), "not for the cohort"),
        (by(2, Masked, values=lambda v: v[:1]), "another length"),
    ],
)
def test_a_hostile_member_is_left_out_and_the_sum_of_the_others_is_right(change: Change, remark: str) -> None:
    play = Play(5, change=change)
    assert play.total() == expected({0, 1, 3, 4})
    assert play.server.members == [0, 1, 3, 4]
    assert list(play.server.remarks) == [2]
    assert remark in play.server.remarks[2]


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (by(2, Unmask, own=false), "false share"),
        (by(0, Unmask, own=false, keys=false), "false share"),
        (by(1, Unmask, own=lambda s: [x[4:] + x[:4] for x in s]), None),
        (by(1, Unmask, own_of=lambda m: [9, *m[1:]]), "not asked for"),
    ],
)
def test_a_member_that_lies_in_the_last_round_changes_nothing(change: Change, remark: str | None) -> None:
    play = Play(6, change=change)
    assert play.total() == expected(range(6))
    assert all(remark in text for text in play.server.remarks.values() if remark)
    assert len(play.server.remarks) == (remark is not None)


def test_a_member_whose_shares_do_not_open_is_named_and_there_is_no_sum() -> None:
    """Its vector is under a mask that nobody can take off."""
    play = Play(5, change=by(3, Shares, sealed=lambda s: [b"garbage"] * len(s)))
    with pytest.raises(RunError, match="cannot be opened"):
        play.total()
    assert list(play.server.remarks) == [3]


def test_a_sum_that_no_levels_can_have_is_none() -> None:
    with pytest.raises(RunError, match="out of range"):
        Play(5, change=by(1, Masked, values=lambda v: [(x + 10**6) % MODULUS for x in v])).total()


def test_two_clients_are_no_cohort() -> None:
    with pytest.raises(RunError, match="2 clients can be summed, 3 at least"):
        Play(2)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Masked, {"values": [-1]}),
        (Masked, {"values": [1.5]}),
        (Masked, {"values": [True]}),
        (Masked, {"values": [float("nan")]}),
        (Masked, {"values": [0] * 9}),
        (Masked, {"values": [MODULUS]}),
        (Advertise, {"seal_key": b"a", "mask_key": b"b", "scalars": ["heart_rate"]}),
        (Advertise, {"seal_key": b"a", "mask_key": b"b", "scalars": ["decision", "confidence"]}),
        (Unmask, {"own_of": [0], "own": [b"short"], "keys_of": [], "keys": []}),
        (Unmask, {"own_of": [0, 1], "own": [bytes(52)], "keys_of": [], "keys": []}),
        (Unmask, {"own_of": [0, 0], "own": [bytes(52)] * 2, "keys_of": [], "keys": []}),
        (Survivors, {"session": SESSION, "members": [MAX_COHORT]}),
        (Survivors, {"session": SESSION, "members": [1, 1]}),
        (Survivors, {"session": "5", "members": [1]}),
        (Inbox, {"session": SESSION, "members": [0], "sealed": [b"x" * 5000]}),
        (Inbox, {"session": SESSION, "members": [], "sealed": [], "more": 1}),
        (Cohort, {"session": SESSION, "you": 0, "members": [0], "seal_keys": [], "mask_keys": [b"x"]}),
        (Invite, {"session": SESSION, "release_id": "a" * 64, "cell": "../etc"}),
    ],
)
def test_messages_are_bounded(kind: type[Any], values: dict[str, object]) -> None:
    with pytest.raises(WireError):
        decode(kind, values)


def test_the_largest_cohort_fits_what_a_superlink_takes() -> None:
    sealed = len(next(iter(Play(3).inboxes().values())).sealed[0])
    members = list(range(1, MAX_COHORT))
    largest = Shares(members=members, sealed=[bytes(sealed)] * len(members), commitment=bytes(32))
    assert len(ConfigRecord(largest.model_dump()).deflate()) < (1 << 16) - 4096
