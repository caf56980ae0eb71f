"""Interval and tests for means over users.

Intervals are 95 % intervals of the mean over users by Hall's transformation (P. Hall, "On the removal of skewness by
transformation", J. R. Statist. Soc. B 54:221, 1992): a t interval after a cubic transformation that takes the
skewness out of the t statistic. Why: accuracies near the ceiling and changes of which a few are large losses are
skewed, and there a t interval and bootstrap intervals hold the mean less often than they say (decision 0050;
docs/method.md has the coverage by number of users). It needs no random numbers. Below five users none is given. The
intervals speak about new users like these; users that share a fold share a source model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

FEWEST = 5
"""With fewer values there is no interval: the skewness of a handful of people says nothing."""
EXACT_UP_TO = 200
"""More differences than this get the normal approximation of the signed-rank test."""

Floats = NDArray[np.float64]


def mean_interval(values: Floats, bounds: tuple[float, float] = (-np.inf, np.inf)) -> tuple[float, float] | None:
    """95 % interval of the mean of ``values`` (n,), Hall's transformation with quantiles of t; None below `FEWEST`.

    Equal values have an interval without width. Otherwise the mean is inside, and the longer side is the one of the
    longer tail.

    Args:
        values: one value per user.
        bounds: what a mean can be at least and at most, such as 0 and 1 for an accuracy; the interval is cut there.
    """
    n = len(values)
    if n < FEWEST:
        return None
    mean, sd = float(values.mean()), float(values.std(ddof=1))
    if sd < 1e-12:  # what rounding leaves of equal values
        equal = float(np.clip(mean, values.min(), values.max()))
        return equal, equal
    skewness = float(np.mean(((values - mean) / values.std()) ** 3)) * np.sqrt(n * (n - 1)) / (n - 2)
    reach = float(special.stdtrit(n - 1, 0.975) / np.sqrt(n))
    low, high = (mean - sd * _without_skewness(y, skewness, n) for y in (reach, -reach))
    return float(np.clip(low, *bounds)), float(np.clip(high, *bounds))


def _without_skewness(y: float, skewness: float, n: int) -> float:
    """The studentised mean, over √n, whose transform is ``y``: the inverse of Hall's cubic, increasing in ``y``."""
    if abs(skewness) < 1e-6:
        return y
    return float(3 / skewness * (np.cbrt(1 + skewness * (y - skewness / (6 * n))) - 1))


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
