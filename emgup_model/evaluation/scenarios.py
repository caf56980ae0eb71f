"""Calibration scenarios: what a user's unlabelled data looks like when nobody asked for a balanced set.

A scenario thins the windows that adapt the model; which windows test it is the protocol's business. Drawing needs the
labels, so it happens here, on the evaluator's side, before adaptation: the method sees only the windows that are left.
Whole runs of one held gesture are kept or cut at their end, so that what is left is still a stretch of a recording.
"""

from __future__ import annotations

import hashlib
import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from emgup_model.errors import DataError

Scenario = Literal["balanced", "rest60", "subset", "skew", "short"]
"""balanced: everything that the protocol gives. rest60: 60 % of the windows are rest. subset: half of the gestures,
rounded up. skew: shares fall geometrically from gesture to gesture, the rarest has a tenth of the commonest. short:
30 s, equally of every gesture. Which gestures are missing or rare is drawn for every person and seed
(``gesture_order``)."""

SCENARIOS: tuple[Scenario, ...] = get_args(Scenario)
REST_NAMES = frozenset({"rest", "neutral", "relax", "relaxed", "no_movement", "no_motion"})
REST_SHARE = 0.6
RAREST_SHARE = 0.1
SHORT_S = 30.0

Indices = NDArray[np.int64]


def rest_gesture(gestures: tuple[str, ...]) -> int | None:
    """Index of the gesture that is named like rest; None if there is none."""
    found = [i for i, name in enumerate(gestures) if name.lower() in REST_NAMES]
    return found[0] if found else None


def held_runs(labels: Indices, recording: Indices, position: Indices) -> list[Indices]:
    """Window indices of every run of consecutive windows of one recording that show one gesture."""
    cut = (np.diff(labels) != 0) | (np.diff(recording) != 0) | (np.diff(position) != 1)
    return np.split(np.arange(len(labels)), np.flatnonzero(cut) + 1) if len(labels) else []


def person_seed(person: str) -> int:
    """A number of the person's name alone, the same in every run, process and version."""
    return int.from_bytes(hashlib.sha256(person.encode()).digest()[:4], "big")


def gesture_order(present: Indices, person: str, seed: int) -> Indices:
    """The gestures (n,) that a person shows in the order in which a scenario keeps them; it leaves out the last ones.

    Every person has an order of its own, which the seed turns on by half: a pair of seeds with n even, or n seeds
    with n odd, leave out every gesture equally often, and then a new order begins. So over people and seeds each
    gesture is missing about equally often, whoever else takes part.
    """
    n = len(present)
    step = max(1, n // 2)
    cycle, turn = divmod(seed, n // math.gcd(n, step))
    return np.roll(np.random.default_rng([person_seed(person), cycle]).permutation(present), -turn * step)


def quotas(counts: Indices, scenario: Scenario, seconds_per_window: float, rest: int | None, order: Indices) -> Indices:
    """(K,) windows of each gesture to keep, from the (K,) windows there are and the order of those that are present.

    Raises:
        DataError: ``rest60`` where no gesture is rest, or the user has no rest.
    """
    present = np.flatnonzero(counts)
    keep = counts.copy()
    if scenario == "rest60":
        if rest is None or not counts[rest]:
            raise DataError("scenario rest60 needs a gesture named rest or neutral in the user's recordings")
        others = present[present != rest]
        each = counts[rest] * (1 - REST_SHARE) / REST_SHARE / max(len(others), 1)
        keep[others] = np.minimum(counts[others], max(1, round(each)))
        keep[rest] = min(counts[rest], round(keep[others].sum() * REST_SHARE / (1 - REST_SHARE)))
    elif scenario == "subset":
        keep[order[math.ceil(len(present) / 2) :]] = 0
    elif scenario == "skew":
        falling = RAREST_SHARE ** (np.arange(len(present)) / max(len(present) - 1, 1))
        keep[order] = np.maximum(1, np.round(falling * counts[present].min())).astype(np.int64)
    elif scenario == "short":
        keep[present] = np.minimum(counts[present], max(1, int(SHORT_S / seconds_per_window / len(present))))
    return keep


def draw(
    labels: Indices,
    recording: Indices,
    position: Indices,
    scenario: Scenario,
    *,
    classes: int,
    seconds_per_window: float,
    rest: int | None,
    person: str,
    seed: int,
) -> NDArray[np.bool_]:
    """(N,) windows of the scenario.

    Args:
        labels: (N,) gesture of each window, in recording order; of UNLABELLED ones only ``balanced`` keeps any.
        recording: (N,) recording of each window.
        position: (N,) index of each window in its recording.
        scenario: which one; ``balanced`` keeps all.
        classes: K.
        seconds_per_window: hop between windows.
        rest: index of the rest gesture.
        person: name of the user.
        seed: with the name, of the gestures and runs that are chosen.

    Raises:
        DataError: the scenario cannot be drawn from this user.
    """
    if scenario == "balanced":
        return np.ones(len(labels), bool)
    counts = np.bincount(labels[labels >= 0], minlength=classes)
    if not counts.any():
        raise DataError(f"scenario {scenario} is drawn with labels, and no window has one")
    order = gesture_order(np.flatnonzero(counts), person, seed)
    left = quotas(counts, scenario, seconds_per_window, rest, order)
    rng = np.random.default_rng([person_seed(person), seed, SCENARIOS.index(scenario)])
    keep = np.zeros(len(labels), bool)
    runs = [run for run in held_runs(labels, recording, position) if labels[run[0]] >= 0]
    for i in rng.permutation(len(runs)):
        gesture = labels[runs[i][0]]
        chosen = runs[i][: left[gesture]]
        keep[chosen] = True
        left[gesture] -= len(chosen)
    return keep
