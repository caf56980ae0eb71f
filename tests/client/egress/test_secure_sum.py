"""The secure sum, with real clients and a real server in one process; every message goes over its wire form."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from emgup_client.egress.record import EgressError
from emgup_client.egress.secure_sum import SumClient
from emgup_model.errors import RunError
from emgup_model.report_wire import TOP
from emgup_model.secure_sum_wire import (
    MODULUS,
    Cohort,
    Inbox,
    Masked,
    Survivors,
    Unmask,
    add,
    mask,
    threshold,
)
from emgup_server.secure_sum import SumServer

M = TypeVar("M", bound=BaseModel)


def wire(message: M) -> M:
    """To bytes and back, as strictly as a receiver reads."""
    return type(message).model_validate(message.model_dump())


def levels(value: int) -> dict[str, int]:
    return {"predictions_changed": value % (TOP + 1), "confidence": TOP - value % (TOP + 1)}


def begin(count: int, floor: int = 3) -> tuple[list[SumClient], SumServer]:
    clients = [SumClient(levels(7 * i + 1), floor) for i in range(count)]
    return clients, SumServer({i: wire(c.advertise()) for i, c in enumerate(clients)})


def run(
    count: int, floor: int = 3, silent: Collection[int] = (), gone: Collection[int] = (), last: Collection[int] = ()
) -> tuple[list[int], list[Masked]]:
    """A sum in which some clients share nothing, some send no vector, and some do not help to open it."""
    clients, server = begin(count, floor)
    cohorts = server.cohorts()
    shares = {i: wire(clients[i].share(wire(cohorts[i]))) for i in range(count) if i not in silent}
    inboxes = server.inboxes(shares)
    masked = {i: wire(clients[i].masked(wire(box))) for i, box in inboxes.items() if i not in gone}
    survivors = wire(server.survivors(masked))
    unmasked = {i: wire(clients[i].unmask(survivors)) for i in masked if i not in last}
    return server.total(unmasked), list(masked.values())


def expected(members: Collection[int]) -> list[int]:
    return [sum(v) for v in zip(*(levels(7 * i + 1).values() for i in members), strict=True)]


def test_the_sum_is_the_sum() -> None:
    total, _ = run(5)
    assert total == expected(range(5))


@pytest.mark.parametrize(
    ("silent", "gone", "last"), [((2,), (), ()), ((), (0,), ()), ((), (6,), ()), ((), (), (3,)), ((1,), (4,), ())]
)
def test_those_who_drop_out_are_left_out(silent: tuple[int], gone: tuple[int], last: tuple[int]) -> None:
    total, _ = run(7, silent=silent, gone=gone, last=last)
    assert total == expected(set(range(7)) - set(silent) - set(gone))


def test_too_many_dropouts_end_in_a_clear_error() -> None:
    with pytest.raises(RunError, match="vectors of 4 of 7 clients, 5 are needed"):
        run(7, gone=(0, 1, 2))


def test_nothing_of_a_vector_is_readable_under_its_masks() -> None:
    _, first = run(4)
    _, second = run(4)
    plain = [list(levels(7 * i + 1).values()) for i in range(4)]
    for masked in (first, second):
        assert all(v > TOP for m in masked for v in m.values)  # 1 in 8 million by chance
        assert [m.values for m in masked] != plain
    assert not {v for m in first for v in m.values} & {v for m in second for v in m.values}


@pytest.mark.parametrize("floor", [4, 5, 9])
def test_a_cohort_one_below_the_floor_is_refused_before_anything_is_shared(floor: int) -> None:
    clients, server = begin(floor - 1, floor)
    for number, cohort in server.cohorts().items():
        with pytest.raises(EgressError, match=f"below the floor of {floor}"):
            clients[number].share(cohort)
        with pytest.raises(EgressError, match="out of order"):
            clients[number].masked(Inbox(sealed={}))


def test_a_floor_below_three_is_no_floor() -> None:
    with pytest.raises(EgressError):
        SumClient(levels(1), 2)


def test_a_cohort_that_shrinks_below_the_floor_gets_no_vector() -> None:
    clients, server = begin(5, floor=5)
    shares = {i: clients[i].share(c) for i, c in server.cohorts().items()}
    inbox = server.inboxes(shares)[0]
    with pytest.raises(EgressError, match="below the floor"):
        clients[0].masked(Inbox(sealed=dict(list(inbox.sealed.items())[:3])))


def test_survivors_below_the_floor_are_not_unmasked() -> None:
    clients, server = begin(5, floor=5)
    inboxes = server.inboxes({i: clients[i].share(c) for i, c in server.cohorts().items()})
    clients[0].masked(inboxes[0])
    with pytest.raises(EgressError, match="below the floor"):
        clients[0].unmask(Survivors(members=[0, 1, 2, 3]))


def test_the_server_cannot_ask_twice() -> None:
    """Two different lists of survivors would give it a member's own mask and its key: the member's vector."""
    clients, server = begin(4)
    inboxes = server.inboxes({i: clients[i].share(c) for i, c in server.cohorts().items()})
    for i in range(4):
        clients[i].masked(inboxes[i])
    clients[0].unmask(Survivors(members=[0, 1, 2, 3]))
    with pytest.raises(EgressError, match="out of order"):
        clients[0].unmask(Survivors(members=[0, 1, 2]))


@given(st.integers(3, 1000))
def test_no_two_parts_of_a_cohort_can_be_told_different_things(count: int) -> None:
    assert 2 * threshold(count) > count + 1


def test_members_with_one_key_are_refused() -> None:
    clients, server = begin(4)
    cohort = server.cohorts()[0]
    twice = Cohort(session=cohort.session, you=0, members={**cohort.members, 3: cohort.members[2]})
    with pytest.raises(EgressError, match="one key"):
        clients[0].share(twice)


def test_shares_that_were_tampered_with_are_refused() -> None:
    clients, server = begin(4)
    inboxes = server.inboxes({i: clients[i].share(c) for i, c in server.cohorts().items()})
    swapped = dict(inboxes[0].sealed)
    swapped[1], swapped[2] = swapped[2], swapped[1]
    with pytest.raises(EgressError, match="not sealed for this client"):
        clients[0].masked(Inbox(sealed=swapped))


@given(st.binary(min_size=1, max_size=64), st.integers(1, 8))
@settings(max_examples=50)
def test_masks_are_a_function_of_secret_and_session(secret: bytes, length: int) -> None:
    a = mask(secret, "s", length)
    assert a == mask(secret, "s", length)
    assert a != mask(secret, "t", length) or length == 0
    assert add(add([5] * length, a), a, -1) == [5] * length
    assert all(0 <= v < MODULUS for v in a)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Masked, {"values": [-1]}),
        (Masked, {"values": [1.5]}),
        (Masked, {"values": [0] * 9}),
        (Masked, {"values": [MODULUS]}),
        (Unmask, {"own": {0: b"short"}, "keys": {}}),
        (Survivors, {"members": [1000]}),
        (Inbox, {"sealed": {0: b"x" * 5000}}),
        (Inbox, {"sealed": {}, "more": 1}),
    ],
)
def test_messages_are_bounded(kind: type[BaseModel], values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        kind.model_validate(values)
