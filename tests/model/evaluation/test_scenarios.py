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
    user: Windows, scenario: Scenario, seed: int = 0, rest: int | None = REST, hop_s: float = HOP_S
) -> np.ndarray:
    keep = draw(*user, scenario, classes=8, seconds_per_window=hop_s, rest=rest, seed=seed)
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


def test_the_draw_of_experiments_already_made_stays() -> None:
    """A session of the Myo set; the sums of the kept indices are those that the first experiments had."""
    user = windows([(g, 48) for g in [*range(7)] * 4])
    got = {s: [int(np.flatnonzero(drawn(user, s, seed)).sum()) for seed in (0, 1)] for s in SCENARIOS}
    assert got == {
        "balanced": [902496, 902496],
        "rest60": [198162, 208242],
        "subset": [524928, 515712],
        "skew": [376254, 367518],
        "short": [175371, 203595],
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
