"""Statistics of a run: per method, protocol and scenario over users, every user with equal weight.

Seeds are averaged within a user first, then users are summarised; folds play no role, so that a user of a small fold
does not weigh more than one of a large fold. Differences are paired: a personalized model is compared with
the source release on the same user's same test windows.

Intervals and tests are those of :mod:`emgup_model.evaluation.inference`, which says why these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

import numpy as np

from emgup_model.evaluation.inference import bootstrap_interval, holm, wilcoxon_p
from emgup_model.evaluation.results import ResultRow, sort_rows
from emgup_model.evaluation.summary import Absence, CellProblem, Comparison, Delta, MethodSummary, Spread, Summary

SOURCE_ONLY = "source_only"
POINT = 0.01
"""One percentage point of accuracy: a user below −1 point counts as clearly made worse."""

REFERENCES: Mapping[str, tuple[str, ...] | None] = {
    "adabn": None,
    "emgup_nograd": ("emgup_paper",),
    "emgup_bnfrozen": ("emgup_paper",),
}
"""Methods that others are compared with besides Source Only, and which others (None: all)."""
CONTENDER = "emgup"
"""Method that is compared with every other one, Source Only included: ``emgup`` minus each yardstick."""

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


def per_user(rows: Iterable[ResultRow], score: Callable[[ResultRow], float | None]) -> dict[str, float]:
    """Mean of ``score`` over the seeds of each user, users sorted; cells without a score are left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        value = score(row)
        if row.ok and value is not None:
            values.setdefault(row.user, []).append(value)
    return {user: float(np.mean(values[user])) for user in sorted(values)}


def accuracy_delta(row: ResultRow) -> float | None:
    """Accuracy of the personalized model minus that of the source release on the same windows."""
    return _difference(row.accuracy, row.source_accuracy)


def paired_difference(method: PerUser, reference: PerUser) -> Delta | None:
    """Statistics of ``method − reference`` over the users that both have; None without such a user."""
    return _delta({u: method[u] - reference[u] for u in sorted(method.keys() & reference.keys())})


def _place(row: ResultRow) -> dict[str, str]:
    """What all rows of one table share."""
    return {name: getattr(row, name) for name in ("dataset", "backbone", "protocol", "scenario")}


def _methods(rows: Sequence[ResultRow]) -> list[MethodSummary]:
    """Summaries of one dataset, backbone, protocol and scenario."""
    users = {r.user for r in rows}
    names = sorted({r.method for r in rows})
    summaries = [_method([r for r in rows if r.method == name], users) for name in names]
    accuracy = _corrected([s.delta_accuracy if s.method != SOURCE_ONLY else None for s in summaries])
    macro_f1 = _corrected([s.delta_macro_f1 if s.method != SOURCE_ONLY else None for s in summaries])
    return [
        s.model_copy(update={"delta_accuracy": a or s.delta_accuracy, "delta_macro_f1": f or s.delta_macro_f1})
        for s, a, f in zip(summaries, accuracy, macro_f1, strict=True)
    ]


def _method(rows: Sequence[ResultRow], expected: set[str]) -> MethodSummary:
    first = rows[0]
    accuracy = per_user(rows, lambda r: r.accuracy)
    seeds = {r.seed for r in rows}
    cells = {(user, seed) for user in expected for seed in seeds}
    failed = [(r.user, r.seed, r.status) for r in rows if not r.ok]
    missing = [(user, seed, "missing") for user, seed in cells - {(r.user, r.seed) for r in rows}]
    seconds = per_user(rows, lambda r: r.adapt_seconds)
    itself = first.method == SOURCE_ONLY
    return MethodSummary(
        **_place(first),
        method=first.method,
        users=len(accuracy),
        users_expected=len(expected),
        users_without_score=tuple(sorted(expected - accuracy.keys())),
        problems=tuple(CellProblem(user=u, seed=s, status=why) for u, s, why in sorted(failed + missing)),
        seeds=tuple(sorted(seeds)),
        accuracy=_spread(accuracy),
        macro_f1=_spread(per_user(rows, lambda r: r.macro_f1)),
        source_accuracy=_spread(per_user(rows, lambda r: r.source_accuracy)),
        source_macro_f1=_spread(per_user(rows, lambda r: r.source_macro_f1)),
        delta_accuracy=_delta(per_user(rows, accuracy_delta), test=not itself),
        delta_macro_f1=_delta(per_user(rows, lambda r: _difference(r.macro_f1, r.source_macro_f1)), test=not itself),
        adapt_seconds_mean=float(np.mean(list(seconds.values()))) if seconds else None,
    )


def _comparisons(rows: Sequence[ResultRow]) -> list[Comparison]:
    """Comparisons between methods, within one dataset, backbone, protocol and scenario."""
    names = sorted({r.method for r in rows})
    families = {
        reference: [(m, reference) for m in names if m not in (reference, SOURCE_ONLY) and (only is None or m in only)]
        for reference, only in REFERENCES.items()
    }
    families[CONTENDER] = [(CONTENDER, m) for m in names if m != CONTENDER]
    return [c for family, pairs in families.items() if family in names for c in _family(rows, family, pairs)]


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
    of = {m: per_user((r for r in rows if r.method == m), score) for m in {m for pair in pairs for m in pair}}
    return [paired_difference(of[method], of[reference]) for method, reference in pairs]


def _spread(values: PerUser) -> Spread | None:
    if not values:
        return None
    x = np.array(list(values.values()))
    worst = min(values, key=lambda u: (values[u], u))
    return Spread(
        mean=float(np.clip(x.mean(), x.min(), x.max())),
        sd=float(x.std(ddof=1)) if len(x) > 1 else None,
        ci95=bootstrap_interval(x),
        p10=float(np.percentile(x, 10)),
        worst=values[worst],
        worst_user=worst,
    )


def _delta(values: PerUser, test: bool = True) -> Delta | None:
    if not values:
        return None
    # Differences of window counts over one total tie exactly; 1e-12 undoes what rounding does to those ties.
    x = np.round(np.array(list(values.values())), 12) + 0.0
    users = list(values)
    worst = min(range(len(x)), key=lambda i: (x[i], users[i]))
    return Delta(
        n_users=len(x),
        mean=float(np.clip(x.mean(), x.min(), x.max())),
        ci95=bootstrap_interval(x),
        share_worse=float((x < 0).mean()),
        share_worse_1pt=float((x < -POINT).mean()),
        worst=float(x[worst]),
        worst_user=users[worst],
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
