"""The noise is what its epsilon says: a statistical audit that a mechanism with half the noise does not pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import beta

from emgup_client.egress.noise import discrete_laplace, noisy_levels
from emgup_client.egress.policy import EgressPolicy
from tests.client.egress.stub import POLICY

TRIALS = 20_000
TOP = 15


def epsilon_at_least(mechanism: Callable[[int], int], trials: int = TRIALS, confidence: float = 0.999) -> float:
    """Lower bound on epsilon from the outputs of the two inputs that lie farthest apart (Clopper-Pearson).

    The event "output at or above a threshold" is chosen on the first half of the samples and bounded on the second.
    """
    low, high = (np.array([mechanism(v) for _ in range(trials)]) for v in (0, TOP))
    half = trials // 2

    def bound(first: slice, threshold: int) -> float:
        a, b = int((high[first] >= threshold).sum()), int((low[first] >= threshold).sum())
        alpha = (1 - confidence) / 2
        at_least = float(beta.ppf(alpha, a, half - a + 1)) if a else 0.0
        at_most = float(beta.ppf(1 - alpha, b + 1, half - b)) if b < half else 1.0
        return math.log(at_least / at_most) if at_least > 0 else 0.0

    best = max(range(-2 * TOP, 3 * TOP), key=lambda threshold: bound(slice(half), threshold))
    return bound(slice(half, None), best)


@pytest.mark.slow
def test_the_noise_keeps_its_epsilon_and_half_of_it_does_not() -> None:
    measure, epsilon = discrete_laplace(TOP, 1.0)
    assert epsilon == pytest.approx(1.0, rel=1e-6)
    bound = epsilon_at_least(measure)
    assert 0.7 < bound <= epsilon
    half, _ = discrete_laplace(TOP, 2.0)  # what a sensitivity or scale off by a factor of two would make
    assert epsilon_at_least(half) > epsilon


def _noisy(epsilon: float = 2.0) -> EgressPolicy:
    limits = {**POLICY["limits"], "epsilon_for_life": 4.0}
    return EgressPolicy.model_validate({**POLICY, "noise": {"kind": "laplace", "epsilon": epsilon}, "limits": limits})


def test_levels_with_noise_are_clipped_and_cost_the_policys_epsilon() -> None:
    policy = _noisy()
    seen = set()
    for _ in range(200):
        levels, epsilon = noisy_levels(policy, {"predictions_changed": 0, "confidence": 15})
        assert epsilon == pytest.approx(2.0, rel=1e-6)
        assert all(0 <= v <= 15 for v in levels.values())
        seen.add(levels["confidence"])
    assert len(seen) > 5


def test_the_noise_does_not_follow_the_experiments_seed() -> None:
    policy, drawn = _noisy(), []
    for _ in range(2):
        np.random.seed(0)
        drawn.append([noisy_levels(policy, {"predictions_changed": 8, "confidence": 8})[0] for _ in range(30)])
    assert drawn[0] != drawn[1]


def test_without_noise_levels_stay_and_nothing_is_promised() -> None:
    levels, epsilon = noisy_levels(EgressPolicy.model_validate(POLICY), {"predictions_changed": 3, "confidence": 4})
    assert levels == {"predictions_changed": 3, "confidence": 4}
    assert epsilon == math.inf
