"""How much of EMG-UP's gain is the refresh of BatchNorm statistics: one sentence per table, from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import accuracy_delta, paired_difference, per_user
from emgup_model.evaluation.summary import Delta
from emgup_simulation.report.text import Place, places, plural, points, points_interval

PAPER, NOGRAD, BNFROZEN = "emgup_paper", "emgup_nograd", "emgup_bnfrozen"


def attribution(rows: Sequence[ResultRow]) -> list[tuple[Place, str]]:
    """((protocol, scenario), sentence) wherever users have scores of both ``emgup_paper`` and ``emgup_nograd``.

    Args:
        rows: rows of one dataset and backbone.
    """
    found = []
    for place in places((r.protocol, r.scenario) for r in rows):
        here = [r for r in rows if (r.protocol, r.scenario) == place]
        if sentence := _sentence(here):
            found.append((place, sentence))
    return found


def _sentence(rows: Sequence[ResultRow]) -> str | None:
    """All numbers are over the same users: those that have a score of every method compared."""
    gains = {m: per_user((r for r in rows if r.method == m), accuracy_delta) for m in (PAPER, NOGRAD, BNFROZEN)}
    compared = [m for m in gains if gains[m]]
    if not {PAPER, NOGRAD} <= set(compared):
        return None
    common = set.intersection(*(set(gains[m]) for m in compared))
    against_source = {m: paired_difference(gains[m], dict.fromkeys(common, 0.0)) for m in compared}
    accuracy = {
        m: {u: a for u, a in per_user((r for r in rows if r.method == m), lambda r: r.accuracy).items() if u in common}
        for m in (PAPER, NOGRAD)
    }
    difference = paired_difference(accuracy[PAPER], accuracy[NOGRAD])
    if difference is None:
        return None
    parts = [
        f"as published, EMG-UP ({PAPER}) changes accuracy by {_number(against_source[PAPER])} points against "
        "Source Only",
        f"the same forward passes without any gradient step ({NOGRAD}) by {_number(against_source[NOGRAD])}",
    ]
    if BNFROZEN in compared:
        parts.append(f"the same schedule with BatchNorm frozen ({BNFROZEN}) by {_number(against_source[BNFROZEN])}")
    return (
        "; ".join(parts)
        + f"; the paired difference {PAPER} \u2212 {NOGRAD} is {_number(difference)} points over "
        + f"{plural(difference.n_users, 'user')}, {_verdict(difference)}."
    )


def _number(delta: Delta | None) -> str:
    if delta is None:
        return "an unknown number of"
    bounds = points_interval(delta.ci95, 2)
    return points(delta.mean, 2) + (f" {bounds}" if bounds else "")


def _verdict(difference: Delta) -> str:
    if difference.ci95 is None:
        return "too few for an interval"
    low, high = difference.ci95
    if low > 0:
        return "so here the gradient steps add to what the refresh of BatchNorm statistics does"
    if high < 0:
        return "so here the gradient steps take away from what the refresh of BatchNorm statistics does"
    return (
        "an interval that holds zero: this run shows no effect of the gradient steps beyond the refresh of BatchNorm "
        "statistics"
    )
