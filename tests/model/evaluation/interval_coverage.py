"""How often candidates for a 95 % interval of a mean hold it: ``python -m tests.model.evaluation.interval_coverage``.

Prints the tables of docs/method.md and decision 0050. Every sample is drawn from a distribution whose mean is known;
with 10,000 samples a standard error of 0.2 points is left at 95 %. ``reported`` is the interval that the reports give,
by the function that they call; the others are what it was chosen among.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emgup_model.evaluation.inference import mean_interval

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]

SIZES = (2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 37, 40)


def _losses(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Changes: nine of ten people gain some points, the tenth loses 15 on average."""
    return np.where(rng.random(shape) < 0.1, rng.normal(-0.15, 0.08, shape), rng.normal(0.05, 0.02, shape))


def _mostly_unchanged(rng: np.random.Generator, shape: tuple[int, int]) -> Floats:
    """Changes: nine of ten people keep the source model but for some windows, the tenth loses 15 points on average."""
    kept = np.round(rng.normal(0, 0.0015, shape), 3)
    return np.where(rng.random(shape) < 0.1, rng.normal(-0.15, 0.08, shape), kept)


DISTRIBUTIONS: Mapping[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.normal(0.8, 0.05, shape), 0.8),
    "skewed (accuracies, mean 81 %, SD 15)": (lambda rng, shape: rng.beta(5, 1.2, shape), 5 / 6.2),
    "ceiling (accuracies, mean 96 %, SD 4)": (lambda rng, shape: rng.beta(18, 0.75, shape), 18 / 18.75),
    "losses (changes: one of ten loses, the others gain)": (_losses, 0.9 * 0.05 - 0.1 * 0.15),
    "few changes (one of ten loses, the others keep theirs)": (_mostly_unchanged, -0.1 * 0.15),
}
"""Name → (sampler, true mean)."""


def reported(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    """What the reports give; NaN where they give none."""
    ends = np.array([mean_interval(sample) or (np.nan, np.nan) for sample in x])
    return ends[:, 0], ends[:, 1]


def t_interval(x: Floats, _: Floats) -> tuple[Floats, Floats]:
    """Mean ± t · SD/√n. All candidates: samples ``x`` (R, n), their resamples (R, B, n) → two arrays (R,)."""
    n = x.shape[1]
    half = stats.t.ppf(0.975, n - 1) * x.std(axis=1, ddof=1) / np.sqrt(n)
    return x.mean(axis=1) - half, x.mean(axis=1) + half


def expanded(x: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Percentile bootstrap at the levels that make it as wide as t (Hesterberg 2015), the data's range its limit."""
    n = x.shape[1]
    tail = float(stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf(0.025, n - 1)))
    low, high = np.quantile(drawn.mean(axis=2), [tail, 1 - tail], axis=1)
    return low, high


def bca(x: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Bias-corrected and accelerated bootstrap (Efron, JASA 82:171, 1987)."""
    means, mean = np.sort(drawn.mean(axis=2), axis=1), x.mean(axis=1, keepdims=True)
    below = ((means < mean).mean(axis=1) + (means <= mean).mean(axis=1)) / 2
    resamples = means.shape[1]
    bias = stats.norm.ppf(np.clip(below, 1 / resamples, 1 - 1 / resamples))
    left_out = mean - x  # jackknife means of a mean, up to a factor that cancels
    spread = (left_out**2).sum(axis=1)
    a = np.divide((-(left_out**3)).sum(axis=1), 6 * spread**1.5, out=np.zeros(len(x)), where=spread > 0)
    ends = []
    for z in stats.norm.ppf([0.025, 0.975]):
        level = stats.norm.cdf(bias + (bias + z) / (1 - a * (bias + z)))
        index = np.clip(np.round(level * (resamples - 1)).astype(int), 0, resamples - 1)
        ends.append(means[np.arange(len(x)), index])
    return ends[0], ends[1]


def bootstrap_t(x: Floats, drawn: Floats) -> tuple[Floats, Floats]:
    """Studentised bootstrap; a resample without spread counts as infinitely far."""
    n = x.shape[1]
    mean, error = x.mean(axis=1), x.std(axis=1, ddof=1) / np.sqrt(n)
    distance = drawn.mean(axis=2) - mean[:, None]
    errors = drawn.std(axis=2, ddof=1) / np.sqrt(n)
    t = np.where(errors > 1e-12, distance / np.maximum(errors, 1e-12), np.sign(distance) * 1e9)
    high, low = np.quantile(t, [0.025, 0.975], axis=1)
    return mean - low * error, mean - high * error


CANDIDATES: Mapping[str, Callable[[Floats, Floats], tuple[Floats, Floats]]] = {
    "reported": reported,
    "t": t_interval,
    "BCa": bca,
    "bootstrap-t": bootstrap_t,
    "expanded percentile": expanded,
}


def coverage(
    n: int, draw: Draw, mean: float, samples: int, resamples: int, seed: int
) -> dict[str, tuple[float, float, float]]:
    """Candidate → share of samples of ``n`` whose interval holds ``mean``, median and 95th percentile of the width."""
    rng = np.random.default_rng(seed)
    kept: dict[str, list[Any]] = {name: [] for name in CANDIDATES}
    block = max(1, 4_000_000 // (resamples * n))
    for start in range(0, samples, block):
        x = draw(rng, (min(block, samples - start), n))
        index = rng.integers(0, n, (len(x), resamples, n))
        drawn = x[np.arange(len(x))[:, None, None], index]
        for name, interval in CANDIDATES.items():
            low, high = interval(x, drawn)
            kept[name].append(np.stack([(low <= mean) & (mean <= high), high - low]))
    joined = {name: np.concatenate(parts, axis=1) for name, parts in kept.items()}
    return {
        name: (float(held.mean()), *(float(w) for w in np.quantile(width, [0.5, 0.95])))
        for name, (held, width) in joined.items()
    }


def _shown(held: float, width: float, wide: float) -> str:
    if np.isnan(width):
        return "none"
    return f"{100 * held:.1f} ({' / '.join(f'{100 * w:.1f}' if w < 10 else '>1000' for w in (width, wide))})"


def main() -> None:
    """Print one Markdown table per distribution: coverage in %, in brackets median and 95th percentile of the width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--resamples", type=int, default=1000)
    given = parser.parse_args()
    for title, (draw, mean) in DISTRIBUTIONS.items():
        print(f"\n{title}\n\n| n | {' | '.join(CANDIDATES)} |\n|---:|{'---:|' * len(CANDIDATES)}")
        for n in SIZES:
            found = coverage(n, draw, mean, given.samples, given.resamples, seed=n)
            print(f"| {n} | {' | '.join(_shown(*numbers) for numbers in found.values())} |", flush=True)


if __name__ == "__main__":
    main()
