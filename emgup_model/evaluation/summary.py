"""What summary.json holds: statistics over users, as data. :mod:`emgup_model.evaluation.statistics` computes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from emgup_model.config import Frozen
from emgup_model.evaluation.inference import RESAMPLES, SEED
from emgup_model.files import write_atomic


class Spread(Frozen):
    """How a score in [0, 1] is spread over users. SD has n−1 in its denominator; SD and interval need two users."""

    mean: float
    sd: float | None
    ci95: tuple[float, float] | None
    p10: float
    worst: float
    worst_user: str


class Delta(Frozen):
    """Paired differences over users, as fractions (0.01 = one point).

    ``wilcoxon_p`` is the two-sided p-value of `wilcoxon_p`, ``wilcoxon_p_holm`` the same after Holm's correction
    over the methods of one table (one dataset, backbone, protocol and scenario), or over the comparisons of one family.
    Both are None where a method is compared with itself.
    """

    n_users: int
    mean: float
    ci95: tuple[float, float] | None
    share_worse: float
    share_worse_1pt: float
    worst: float
    worst_user: str
    wilcoxon_p: float | None = None
    wilcoxon_p_holm: float | None = None


class CellProblem(Frozen):
    """A cell without a score: the status of its row, or "missing" where there is no row.

    Expected are all users that any method has under the protocol and scenario, each with all seeds of this method.
    """

    user: str
    seed: int
    status: str


class MethodSummary(Frozen):
    """One method under one protocol and scenario. Statistics are over ``users``; users without any score are named."""

    dataset: str
    backbone: str
    protocol: str
    scenario: str
    method: str
    users: int
    users_expected: int
    users_without_score: tuple[str, ...]
    problems: tuple[CellProblem, ...]
    seeds: tuple[int, ...]
    accuracy: Spread | None
    macro_f1: Spread | None
    source_accuracy: Spread | None
    source_macro_f1: Spread | None
    delta_accuracy: Delta | None
    delta_macro_f1: Delta | None
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
    version: Literal[2] = 2
    interval: str = "95 % expanded percentile bootstrap of the mean over users; seeds averaged within a user"
    resamples: int = RESAMPLES
    seed: int = SEED
    methods: tuple[MethodSummary, ...]
    comparisons: tuple[Comparison, ...]
    absent: tuple[Absence, ...]


def write_summary(path: str | Path, summary: Summary) -> None:
    """Write summary.json atomically."""
    write_atomic(path, json.dumps(summary.model_dump(mode="json"), indent=2, allow_nan=False) + "\n")
