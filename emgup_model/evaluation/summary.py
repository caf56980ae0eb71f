"""What summary.json holds: statistics over users, as data. :mod:`emgup_model.evaluation.statistics` computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from emgup_model.config import Frozen
from emgup_model.files import write_atomic


class Spread(Frozen):
    """How a score in [0, 1], averaged over a user's runs, is spread over users.

    SD has n−1 in its denominator and needs two users, the interval needs five. ``worst``: the lowest user's mean.
    """

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    p10: float
    worst: float
    worst_user: str


class Delta(Frozen):
    """Paired differences as fractions (0.01 = one point): per (user, run), averaged within a user, then over users.

    ``n_pairs`` (user, run) pairs are compared, ``n_dropped`` expected ones are not because a cell failed or is missing.

    ``wilcoxon_p`` is the two-sided p-value of `wilcoxon_p` over users, ``wilcoxon_p_holm`` the same after Holm's
    correction over the family, each score on its own: the methods of one table (one dataset, backbone, protocol and
    scenario) against Source Only, or the comparisons with one ``family``. Both are None where a method is compared with
    itself.
    """

    n_users: int
    n_pairs: int
    n_dropped: int
    mean: float
    ci95: tuple[float, float] | None
    wilcoxon_p: float | None = None
    wilcoxon_p_holm: float | None = None


class Harm(Frozen):
    """How far single runs fall below Source Only in accuracy: a person gets one run, not a mean of several.

    A run is worse when it loses more than a point; a user is counted when any of theirs is. ``worst`` is the lowest
    change of all runs, negative or not.
    """

    n_runs: int
    n_users: int
    share_runs_worse_1pt: float
    share_users_ever_worse_1pt: float
    worst: float
    worst_user: str
    worst_source_seed: int
    worst_seed: int


class CellProblem(Frozen):
    """A cell without a score: the status of its row, or "missing" where there is no row.

    Expected are all users that any method has under the protocol and scenario, each with every run that any method has.
    """

    user: str
    source_seed: int
    seed: int
    status: str


class MethodSummary(Frozen):
    """One method under one protocol and scenario. Statistics are over ``users``; users without any score are named.

    ``runs`` counts the (user, source seed, seed) cells with a score, ``runs_expected`` those there should be.
    """

    dataset: str
    backbone: str
    protocol: str
    scenario: str
    method: str
    users: int
    users_expected: int
    users_without_score: tuple[str, ...]
    runs: int
    runs_expected: int
    problems: tuple[CellProblem, ...]
    source_seeds: tuple[int, ...]
    seeds: tuple[int, ...]
    accuracy: Spread | None
    macro_f1: Spread | None
    source_accuracy: Spread | None
    source_macro_f1: Spread | None
    delta_accuracy: Delta | None
    delta_macro_f1: Delta | None
    harm: Harm | None
    adapt_seconds_mean: float | None


class Comparison(Frozen):
    """``method`` minus ``reference``, over the users that have both.

    ``family`` is the method that all comparisons share over which the p-values are corrected: the reference that
    others are compared with, or the method that is compared with all others.
    """

    dataset: str
    backbone: str
    protocol: str
    scenario: str
    family: str
    method: str
    reference: str
    delta_accuracy: Delta
    delta_macro_f1: Delta


class Absence(Frozen):
    """Users of the run with no row of any method under a protocol and scenario (it may not apply to them)."""

    dataset: str
    backbone: str
    protocol: str
    scenario: str
    users: tuple[str, ...]


class Summary(Frozen):
    """What summary.json holds."""

    format: Literal["emgup-summary"] = "emgup-summary"
    version: Literal[3] = 3
    interval: str = "95 % of the mean over users, Hall's transformed t, from five users on; runs averaged within a user"
    test: str = "two-sided Wilcoxon signed-rank test over users, Holm within a family and score"
    methods: tuple[MethodSummary, ...]
    comparisons: tuple[Comparison, ...]
    absent: tuple[Absence, ...]


def write_summary(path: str | Path, summary: Summary) -> None:
    """Write summary.json atomically."""
    write_atomic(path, json.dumps(summary.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")
