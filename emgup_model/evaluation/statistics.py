"""Statistics of a run: per method, protocol and scenario over users, every user with equal weight.

A user's runs (source seed, seed) are averaged first, then users are summarised; folds play no role, so that a user of
a small fold does not weigh more than one of a large fold. Differences are paired by (user, run) before anything is
averaged: a cell that failed or is missing takes the other side's cell with it. Harm is counted per run
(:class:`~emgup_model.evaluation.summary.Harm`), because a mean over seeds hides the run that a person got.

Intervals and tests are those of :mod:`emgup_model.evaluation.inference`, which says why these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np

from emgup_model.evaluation.inference import holm, mean_interval, wilcoxon_p
from emgup_model.evaluation.results import ResultRow, sort_rows
from emgup_model.evaluation.summary import Absence, CellProblem, Comparison, Delta, Harm, MethodSummary, Spread, Summary

SOURCE_ONLY = "source_only"
POINT = 0.01
"""One percentage point of accuracy: a run below −1 point counts as clearly worse."""

REFERENCES: Mapping[str, tuple[str, ...] | None] = {
    "adabn": None,
    "emgup_nograd": ("emgup_paper",),
    "emgup_bnfrozen": ("emgup_paper",),
}
"""Methods that others are compared with besides Source Only, and which others (None: all)."""
CONTENDER = "emgup"
"""Method that is compared with every other one: ``emgup`` minus each yardstick."""

Pair = tuple[str, tuple[int, int]]
"""(user, run): what two methods are compared on."""
Scores = Mapping[Pair, float]
PerUser = Mapping[str, float]


def summarise(rows: Iterable[ResultRow], users: Iterable[str] = ()) -> Summary:
    """Summary of a run's rows.

    Args:
        rows: result rows, in any order.
        users: all users the run should have tested; users that no protocol has are then reported as absent. Without
            it, the users are those that appear in the rows.

    Raises:
        RunError: two rows of one cell.
    """
    methods: list[MethodSummary] = []
    comparisons: list[Comparison] = []
    absent: list[Absence] = []
    everyone = set(users)
    by_study = groupby(sort_rows(rows), key=lambda r: (r.dataset, r.backbone))
    for _, study in by_study:
        study_rows = list(study)
        expected = everyone | {r.user for r in study_rows}
        for protocol, scenario in sorted({(r.protocol, r.scenario) for r in study_rows}):
            here = [r for r in study_rows if (r.protocol, r.scenario) == (protocol, scenario)]
            if gone := tuple(sorted(expected - {r.user for r in here})):
                absent.append(Absence(**_place(here[0]), users=gone))
            methods += _methods(here)
            comparisons += _comparisons(here)
    return Summary(methods=tuple(methods), comparisons=tuple(comparisons), absent=tuple(absent))


def scores(rows: Iterable[ResultRow], score: Callable[[ResultRow], float | None]) -> dict[Pair, float]:
    """``score`` of every (user, run) of one method, protocol and scenario; cells without a score are left out."""
    return {(row.user, row.run): value for row in rows if row.ok and (value := score(row)) is not None}


def per_user(values: Scores) -> dict[str, float]:
    """Mean over the runs of each user, users sorted."""
    of: dict[str, list[float]] = {}
    for (user, _), value in sorted(values.items()):
        of.setdefault(user, []).append(value)
    return {user: float(np.mean(found)) for user, found in of.items()}


def accuracy_delta(row: ResultRow) -> float | None:
    """Accuracy of the personalized model minus that of the source release on the same windows."""
    return _difference(row.accuracy, row.source_accuracy)


def paired_difference(method: Scores, reference: Scores, expected: int) -> Delta | None:
    """Statistics of ``method − reference`` over the (user, run) pairs that both have; None without such a pair.

    Args:
        method: scores of one method.
        reference: scores that are subtracted.
        expected: pairs there should be; those that are not compared are counted as dropped.
    """
    return _delta({pair: method[pair] - reference[pair] for pair in method.keys() & reference.keys()}, expected)


def harm(rows: Iterable[ResultRow]) -> Harm | None:
    """Harm of one method's runs under one protocol and scenario; None without a score."""
    changes = {pair: round(change, 12) + 0.0 for pair, change in scores(rows, accuracy_delta).items()}
    if not changes:
        return None
    worse = {pair for pair, change in changes.items() if change < -POINT}
    users = {user for user, _ in changes}
    (user, (source_seed, seed)), worst = min(changes.items(), key=lambda found: (found[1], found[0]))
    return Harm(
        n_runs=len(changes),
        n_users=len(users),
        share_runs_worse_1pt=len(worse) / len(changes),
        share_users_ever_worse_1pt=len({user for user, _ in worse}) / len(users),
        worst=worst,
        worst_user=user,
        worst_source_seed=source_seed,
        worst_seed=seed,
    )


def _place(row: ResultRow) -> dict[str, str]:
    """What all rows of one table share."""
    return {name: getattr(row, name) for name in ("dataset", "backbone", "protocol", "scenario")}


def expected_pairs(rows: Iterable[ResultRow]) -> set[Pair]:
    """Every user with every run that any method has, for rows of one dataset, backbone, protocol and scenario."""
    users, runs = set(), set()
    for row in rows:
        users.add(row.user)
        runs.add(row.run)
    return {(user, run) for user in users for run in runs}


def _methods(rows: Sequence[ResultRow]) -> list[MethodSummary]:
    """Summaries of one dataset, backbone, protocol and scenario."""
    expected = expected_pairs(rows)
    names = sorted({r.method for r in rows})
    summaries = [_method([r for r in rows if r.method == name], expected) for name in names]
    accuracy = _corrected([s.delta_accuracy if s.method != SOURCE_ONLY else None for s in summaries])
    macro_f1 = _corrected([s.delta_macro_f1 if s.method != SOURCE_ONLY else None for s in summaries])
    return [
        s.model_copy(update={"delta_accuracy": a or s.delta_accuracy, "delta_macro_f1": f or s.delta_macro_f1})
        for s, a, f in zip(summaries, accuracy, macro_f1, strict=True)
    ]


def _method(rows: Sequence[ResultRow], expected: set[Pair]) -> MethodSummary:
    first = rows[0]
    users = {user for user, _ in expected}
    accuracy = scores(rows, lambda r: r.accuracy)
    status = {(r.user, r.run): r.status for r in rows}
    problems = [(pair, status.get(pair, "missing")) for pair in sorted(expected - accuracy.keys())]
    scored = {user for user, _ in accuracy}
    seconds = per_user(scores(rows, lambda r: r.adapt_seconds))
    itself = first.method == SOURCE_ONLY
    delta_f1 = scores(rows, lambda r: _difference(r.macro_f1, r.source_macro_f1))
    return MethodSummary(
        **_place(first),
        method=first.method,
        users=len(scored),
        users_expected=len(users),
        users_without_score=tuple(sorted(users - scored)),
        runs=len(accuracy),
        runs_expected=len(expected),
        problems=tuple(CellProblem(user=u, source_seed=s, seed=d, status=why) for (u, (s, d)), why in problems),
        source_seeds=tuple(sorted({r.source_seed for r in rows})),
        seeds=tuple(sorted({r.seed for r in rows})),
        accuracy=_spread(per_user(accuracy)),
        macro_f1=_spread(per_user(scores(rows, lambda r: r.macro_f1))),
        source_accuracy=_spread(per_user(scores(rows, lambda r: r.source_accuracy))),
        source_macro_f1=_spread(per_user(scores(rows, lambda r: r.source_macro_f1))),
        delta_accuracy=_delta(scores(rows, accuracy_delta), len(expected), test=not itself),
        delta_macro_f1=_delta(delta_f1, len(expected), test=not itself),
        harm=harm(rows),
        adapt_seconds_mean=float(np.mean(list(seconds.values()))) if seconds else None,
    )


def _comparisons(rows: Sequence[ResultRow]) -> list[Comparison]:
    """Comparisons between methods, within one dataset, backbone, protocol and scenario."""
    families = _families({r.method for r in rows})
    return [c for family, pairs in families.items() for c in _family(rows, family, pairs)]


def _families(methods: set[str]) -> dict[str, list[tuple[str, str]]]:
    """Family → (method, reference) pairs. Two methods meet in one family only; Source Only has the methods' own Δ."""
    wanted = {CONTENDER: [(CONTENDER, other) for other in sorted(methods)]}
    for reference, only in REFERENCES.items():
        wanted[reference] = [(m, reference) for m in sorted(methods) if only is None or m in only]
    families: dict[str, list[tuple[str, str]]] = {}
    met: set[frozenset[str]] = {frozenset((m, SOURCE_ONLY)) for m in methods} | {frozenset((m,)) for m in methods}
    for family, pairs in wanted.items():
        if family in methods:
            families[family] = [pair for pair in pairs if frozenset(pair) not in met]
            met |= {frozenset(pair) for pair in pairs}
    return families


def _family(rows: Sequence[ResultRow], family: str, pairs: Sequence[tuple[str, str]]) -> list[Comparison]:
    """Paired differences of (method, reference) pairs whose p-values are corrected together."""
    accuracy = _corrected(_differences(rows, pairs, lambda r: r.accuracy))
    macro_f1 = _corrected(_differences(rows, pairs, lambda r: r.macro_f1))
    return [
        Comparison(**_place(rows[0]), family=family, method=m, reference=r, delta_accuracy=a, delta_macro_f1=f)
        for (m, r), a, f in zip(pairs, accuracy, macro_f1, strict=True)
        if a is not None and f is not None
    ]


def _differences(
    rows: Sequence[ResultRow], pairs: Sequence[tuple[str, str]], score: Callable[[ResultRow], float | None]
) -> list[Delta | None]:
    of = {m: scores((r for r in rows if r.method == m), score) for m in {m for pair in pairs for m in pair}}
    expected = len(expected_pairs(rows))
    return [paired_difference(of[method], of[reference], expected) for method, reference in pairs]


def _spread(values: PerUser) -> Spread | None:
    if not values:
        return None
    x = np.array(list(values.values()))
    worst = min(values, key=lambda u: (values[u], u))
    return Spread(
        mean=float(np.clip(x.mean(), x.min(), x.max())),
        sd=float(x.std(ddof=1)) if len(x) > 1 else None,
        ci95=mean_interval(x, (0, 1)),
        p10=float(np.percentile(x, 10)),
        worst=values[worst],
        worst_user=worst,
    )


def _delta(differences: Scores, expected: int, test: bool = True) -> Delta | None:
    if not differences:
        return None
    # Differences of window counts over one total tie exactly; 1e-12 undoes what rounding does to those ties.
    x = np.round(np.array(list(per_user(differences).values())), 12) + 0.0
    return Delta(
        n_users=len(x),
        n_pairs=len(differences),
        n_dropped=expected - len(differences),
        mean=float(np.clip(x.mean(), x.min(), x.max())),
        ci95=mean_interval(x, (-1, 1)),
        wilcoxon_p=wilcoxon_p(x) if test else None,
    )


def _corrected(deltas: Sequence[Delta | None]) -> list[Delta | None]:
    """The same differences with Holm-corrected p-values; None entries are no part of the family."""
    family = [(i, d, d.wilcoxon_p) for i, d in enumerate(deltas) if d is not None]
    tested = [(i, d, p) for i, d, p in family if p is not None]
    out = list(deltas)
    for (i, delta, _), p in zip(tested, holm([p for _, _, p in tested]), strict=True):
        out[i] = delta.model_copy(update={"wilcoxon_p_holm": p})
    return out


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b
