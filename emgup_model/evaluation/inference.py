"""Interval and tests for means over users.

Intervals are 95 % intervals of the mean over users, from the expanded percentile bootstrap: users are resampled
with replacement and the quantiles of the resampled means are taken at Φ(∓√(n/(n−1)) t₀.₉₇₅,ₙ₋₁) (T. Hesterberg, "What
Teachers Should Know About the Bootstrap", The American Statistician 69:371, 2015). Why: accuracies are bounded and
skewed to the left, so a t interval is symmetric where the data are not and can leave [0, 1]; the plain percentile
bootstrap is too narrow at the 10 to 40 users of EMG sets (it covers 90 % instead of 95 % at 10 normal values); the
expanded one stays within the data's range and is as wide as a t interval. Resampling is seeded, so the same rows give
the same numbers. The intervals speak about new users like these; users that share a fold share a source model, and the
spread that training new source models would add is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 10_000
SEED = 0
EXACT_UP_TO = 200
"""More differences than this get the normal approximation of the signed-rank test."""

Floats = NDArray[np.float64]


def bootstrap_interval(values: Floats, resamples: int = RESAMPLES, seed: int = SEED) -> tuple[float, float] | None:
    """95 % expanded percentile bootstrap interval of the mean of ``values`` (n,); None for fewer than two values."""
    n = len(values)
    if n < 2:
        return None
    rng = np.random.default_rng(seed)
    block = max(1, 1_000_000 // n)  # bounds memory to some 16 MB whatever the number of users
    means = np.concatenate(
        [values[rng.integers(0, n, (min(block, resamples - i), n))].mean(axis=1) for i in range(0, resamples, block)]
    )
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    # A sum of equal numbers can miss their mean by one rounding; the mean itself never leaves the data's range.
    low, high = np.clip(np.quantile(means, [tail, 1 - tail]), values.min(), values.max())
    return float(low), float(high)


def wilcoxon_p(differences: Floats) -> float | None:
    """Two-sided Wilcoxon signed-rank p-value of ``differences`` (n,); zeros are left out, ties share their mean rank.

    Exact up to 200 differences that are not zero: the null distribution is counted over all sign assignments, so that
    a handful of users cannot look significant by a normal approximation. 1 when all are zero, None without any.
    """
    if len(differences) == 0:
        return None
    nonzero = differences[differences != 0]
    if len(nonzero) == 0:
        return 1.0
    if len(nonzero) > EXACT_UP_TO:
        return float(stats.wilcoxon(nonzero).pvalue)  # SciPy too takes the normal approximation above 50
    ranks = np.round(2 * stats.rankdata(np.abs(nonzero))).astype(int)  # doubled: mean ranks are halves
    total = int(ranks.sum())
    null = np.zeros(total + 1)  # null[w] = P(doubled rank sum of the positive differences = w)
    null[0] = 1.0
    for rank in ranks:
        null[rank:] = (null[rank:] + null[: total + 1 - rank]) / 2
        null[:rank] /= 2
    observed = int(ranks[nonzero > 0].sum())
    tail = min(null[: observed + 1].sum(), null[observed:].sum())
    return float(min(1.0, 2 * tail))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction, in the order given (Holm, Scand. J. Statist. 6:65, 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted
