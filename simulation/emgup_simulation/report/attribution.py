"""How much of EMG-UP's gain is the refresh of BatchNorm statistics: one sentence per table, from the rows alone."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import accuracy_delta, expected_pairs, paired_difference, scores
from emgup_model.evaluation.summary import Delta
from emgup_simulation.report.text import Place, pairs, places, plural, points, points_interval

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
    """All numbers are over the same (user, run) pairs: those that have a score of every method compared."""
    of = {m: [r for r in rows if r.method == m] for m in (PAPER, NOGRAD, BNFROZEN)}
    gains = {m: found for m, own in of.items() if (found := scores(own, accuracy_delta))}
    if not {PAPER, NOGRAD} <= set(gains):
        return None
    common = set.intersection(*(set(found) for found in gains.values()))
    expected = len(expected_pairs(rows))
    zero = dict.fromkeys(common, 0.0)
    against_source = {m: paired_difference(found, zero, expected) for m, found in gains.items()}
    accuracy = {m: {p: a for p, a in scores(of[m], lambda r: r.accuracy).items() if p in common} for m in gains}
    difference = paired_difference(accuracy[PAPER], accuracy[NOGRAD], expected)
    if difference is None:
        return None
    parts = [
        f"as published, EMG-UP ({PAPER}) changes accuracy by {_number(against_source[PAPER])} points against "
        "Source Only",
        f"the same forward passes without any gradient step ({NOGRAD}) by {_number(against_source[NOGRAD])}",
    ]
    if BNFROZEN in gains:
        parts.append(f"the same schedule with BatchNorm frozen ({BNFROZEN}) by {_number(against_source[BNFROZEN])}")
    return (
        "; ".join(parts)
        + f"; the paired difference {PAPER} \u2212 {NOGRAD} is {_number(difference)} points over "
        + f"{plural(difference.n_users, 'user')} ({pairs(difference)} pairs of user and run), {_verdict(difference)}."
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
