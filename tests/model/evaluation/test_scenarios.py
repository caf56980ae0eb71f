"""Calibration scenarios: what each one keeps of any user's windows."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emgup_model.errors import DataError
from emgup_model.evaluation.scenarios import SCENARIOS, Scenario, draw, held_runs, rest_gesture

REST = 0
HOP_S = 0.1
Windows = tuple[np.ndarray, np.ndarray, np.ndarray]


def windows(held: list[tuple[int, int]]) -> Windows:
    """(labels, recording, position) of one recording per (gesture, number of windows)."""
    counts = [n for _, n in held]
    labels = np.repeat([g for g, _ in held], counts)
    return labels, np.repeat(np.arange(len(held)), counts), np.concatenate([np.arange(n) for n in counts])


def drawn(
    user: Windows,
    scenario: Scenario,
    seed: int = 0,
    rest: int | None = REST,
    hop_s: float = HOP_S,
    person: str = "somebody",
) -> np.ndarray:
    keep = draw(*user, scenario, classes=8, seconds_per_window=hop_s, rest=rest, person=person, seed=seed)
    assert keep.shape == user[0].shape
    assert keep.dtype == bool
    return keep


def kept(user: Windows, scenario: Scenario, **more: object) -> np.ndarray:
    """(8,) windows kept of each gesture."""
    return np.bincount(user[0][drawn(user, scenario, **more)], minlength=8)  # type: ignore[arg-type]


users = st.lists(st.tuples(st.integers(0, 7), st.integers(1, 60)), min_size=1, max_size=24).map(windows)
seeds = st.integers(0, 2**63)
scenarios = st.sampled_from(SCENARIOS)
able = settings(max_examples=60, deadline=None)


def with_rest(user: Windows) -> Windows:
    """The same user after two recordings of rest."""
    more = windows([(REST, 40), (REST, 30)])
    return (
        np.concatenate([more[0], user[0]]),
        np.concatenate([more[1], user[1] + 2]),
        np.concatenate([more[2], user[2]]),
    )


@able
@given(users, seeds)
def test_balanced_keeps_all(user: Windows, seed: int) -> None:
    assert drawn(user, "balanced", seed, rest=None).all()


@able
@given(users, seeds)
def test_rest_is_60_percent_within_rounding(user: Windows, seed: int) -> None:
    user = with_rest(user)
    counts = np.bincount(user[0], minlength=8)
    got = kept(user, "rest60", seed=seed)
    rest, others = got[REST], got.sum() - got[REST]
    # With all the rest there is, the others' equal parts of the 40 % are rounded, to at least one window each.
    part = counts[REST] / 1.5 / max(np.count_nonzero(counts) - 1, 1)
    assert abs(rest - 1.5 * others) <= 0.5 + 1e-9 or rest == counts[REST]
    assert (got[1:] <= max(1, part + 0.5)).all()
    assert ((got > 0) == (counts > 0)).all() or not others


def test_rest60_by_hand() -> None:
    got = kept(windows([(REST, 48), (1, 48), (2, 48), (REST, 48), (1, 48), (2, 10)]), "rest60")
    assert got.tolist()[:3] == [96, 32, 32]  # 96 of 160


@pytest.mark.parametrize("rest", [None, 5])
def test_rest60_without_rest_is_one_line(rest: int | None) -> None:
    with pytest.raises(DataError, match="needs a gesture named rest or neutral") as error:
        drawn(windows([(0, 9), (1, 9)]), "rest60", rest=rest)
    assert "\n" not in str(error.value)


@able
@given(users, seeds)
def test_a_subset_is_all_windows_of_half_the_gestures(user: Windows, seed: int) -> None:
    counts = np.bincount(user[0], minlength=8)
    got = kept(user, "subset", seed=seed, rest=None)
    assert np.count_nonzero(got) == math.ceil(np.count_nonzero(counts) / 2)
    assert set(got[got > 0]) <= set(counts)
    assert (got[got > 0] == counts[got > 0]).all()


@able
@given(users, seeds)
def test_skewed_shares_fall_to_a_tenth_and_no_gesture_is_lost(user: Windows, seed: int) -> None:
    counts = np.bincount(user[0], minlength=8)
    got = np.sort(kept(user, "skew", seed=seed, rest=None)[counts > 0])
    commonest = counts[counts > 0].min()
    expected = [max(1, round(commonest * 0.1 ** (i / max(len(got) - 1, 1)))) for i in range(len(got))]
    assert got.tolist() == sorted(expected)


@able
@given(users, seeds, st.sampled_from([0.05, 0.1, 0.25, 1.0]))
def test_short_is_30_seconds_at_most_equally_of_every_gesture(user: Windows, seed: int, hop_s: float) -> None:
    counts = np.bincount(user[0], minlength=8)
    got = kept(user, "short", seed=seed, rest=None, hop_s=hop_s)
    assert got.sum() * hop_s <= 30 + 1e-9
    each = got.max()
    assert (got == np.minimum(counts, each)).all()  # equal, as far as the user has that many


@able
@given(users, seeds, scenarios)
def test_what_is_kept_of_a_run_is_its_beginning(user: Windows, seed: int, scenario: Scenario) -> None:
    user = with_rest(user)
    keep = drawn(user, scenario, seed)
    runs = held_runs(*user)
    assert np.concatenate(runs).tolist() == list(range(len(user[0])))
    for run in runs:
        assert len(set(user[0][run])) == len(set(user[1][run])) == 1
        assert (np.diff(keep[run].astype(int)) <= 0).all()


@able
@given(users, seeds, scenarios)
def test_the_same_seed_draws_the_same(user: Windows, seed: int, scenario: Scenario) -> None:
    user = with_rest(user)
    assert (drawn(user, scenario, seed) == drawn(user, scenario, seed)).all()


@pytest.mark.parametrize("scenario", ["subset", "skew", "short", "rest60"])
def test_another_seed_draws_others(scenario: Scenario) -> None:
    user = windows([(g, 48) for g in [*range(7)] * 4])
    assert len({drawn(user, scenario, seed).tobytes() for seed in range(5)}) > 1


@pytest.mark.parametrize("scenario", ["subset", "skew", "short", "rest60"])
def test_another_person_is_drawn_others(scenario: Scenario) -> None:
    user = windows([(g, 48) for g in [*range(7)] * 4])
    assert len({drawn(user, scenario, person=person).tobytes() for person in ("ann", "ben", "cem", "dot")}) > 1


def missing(person: str, seed: int, gestures: int) -> np.ndarray:
    """(gestures,) whether ``subset`` leaves each one out."""
    keep = kept(windows([(g, 5) for g in range(gestures)]), "subset", seed=seed, rest=None, person=person)
    return keep[:gestures] == 0


@able
@given(st.text(max_size=30), st.integers(0, 999), st.integers(1, 8))
def test_over_a_persons_seeds_every_gesture_is_missing_equally_often(person: str, cycle: int, gestures: int) -> None:
    seeds = 2 if gestures % 2 == 0 else gestures
    times = sum(missing(person, cycle * seeds + i, gestures).astype(int) for i in range(seeds))
    assert times.tolist() == [seeds * (gestures // 2) // gestures] * gestures


def test_over_people_and_few_seeds_every_gesture_is_missing_about_equally_often() -> None:
    times = sum(missing(f"person {i}", seed, 7).astype(int) for i in range(37) for seed in range(3))
    assert times.sum() == 37 * 3 * 3
    # each person leaves each gesture out once or twice in three seeds, twice with probability 2/7: 47.6 ± 2.7
    assert abs(times - 37 * 3 * 3 / 7).max() <= 3.5 * math.sqrt(37 * 2 / 7 * 5 / 7)
    first = sum(missing(f"person {i}", 0, 7).astype(int) for i in range(37))
    assert abs(first - 37 * 3 / 7).max() <= 3.5 * math.sqrt(37 * 3 / 7 * 4 / 7)


def test_in_skewed_data_every_gesture_takes_every_place_over_the_seeds() -> None:
    user = windows([(g, 200) for g in range(7)])
    shares = np.stack([kept(user, "skew", seed=seed, rest=None)[:7] for seed in range(7)])
    assert (np.sort(shares, axis=0) == np.sort(shares[0])[:, None]).all()
    assert len(set(shares[0])) == 7


@able
@given(users, seeds, scenarios.filter(lambda s: s not in ("balanced", "rest60")), st.data())
def test_a_window_without_a_gesture_is_never_drawn(
    user: Windows, seed: int, scenario: Scenario, data: st.DataObject
) -> None:
    labels, recording, position = user
    some = data.draw(st.lists(st.integers(0, len(labels) - 1), max_size=9))
    labels = labels.copy()
    labels[some] = -1
    if (labels < 0).all():
        with pytest.raises(DataError, match="no window has one"):
            drawn((labels, recording, position), scenario, seed, rest=None)
        return
    keep = drawn((labels, recording, position), scenario, seed, rest=None)
    assert not keep[labels < 0].any()
    assert keep.any()


def test_the_draw_of_experiments_already_made_stays() -> None:
    """A session of the Myo set; the sums of the kept indices are those that docs/results rests on."""
    user = windows([(g, 48) for g in [*range(7)] * 4])
    got = {s: [int(np.flatnonzero(drawn(user, s, seed)).sum()) for seed in (0, 1)] for s in SCENARIOS}
    assert got == {
        "balanced": [902496, 902496],
        "rest60": [180018, 193122],
        "subset": [515712, 497280],
        "skew": [363966, 408990],
        "short": [203595, 133035],
    }


def test_a_gap_in_a_recording_ends_a_run() -> None:
    labels, recording, position = np.zeros(6, int), np.zeros(6, int), np.array([0, 1, 2, 5, 6, 7])
    assert [r.tolist() for r in held_runs(labels, recording, position)] == [[0, 1, 2], [3, 4, 5]]
    assert held_runs(labels[:0], recording[:0], position[:0]) == []


@pytest.mark.parametrize(
    ("gestures", "index"), [(("fist", "Rest"), 1), (("neutral", "rest"), 0), (("no_motion",), 0), (("fist",), None)]
)
def test_rest_is_found_by_its_name(gestures: tuple[str, ...], index: int | None) -> None:
    assert rest_gesture(gestures) == index
