"""Names, order and number formats shared by the page, the terminal and the Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from emgup_model.evaluation.statistics import POINT, SOURCE_ONLY
from emgup_model.evaluation.summary import Comparison, Delta, Harm, MethodSummary, Summary

TITLES = {
    "source_only": "Source Only",
    "adabn": "AdaBN",
    "emgup_nograd": "EMG-UP, no gradient step",
    "emgup_bnfrozen": "EMG-UP, BatchNorm frozen",
    "emgup_paper": "EMG-UP as published",
}
"""Method names as papers print them, in the order of the tables; other methods follow under their own name."""

PROTOCOLS = {
    "transductive": "adapted and tested on the same windows of the first session, no labels used",
    "inductive": "adapted on the first half of the first session's repetitions, tested on the other half",
    "later_sessions": "adapted on the first session, tested on all later sessions",
    "streaming": "the first session block by block, each predicted before the model adapts on it",
}

SCENARIOS = {
    "balanced": "all windows of the adapting recordings",
    "rest60": "60 % of the adapting windows are rest",
    "subset": "the adapting windows show half of the gestures, rounded up, drawn at random",
    "skew": "shares of the gestures in the adapting windows fall geometrically, in random order, down to a tenth",
    "short": "the adapting windows are 30 s, equally of every gesture",
}

Place = tuple[str, str]
"""(protocol, scenario): what one table of methods is about."""

MINUS = "\u2212"
NONE = "\u2013"


def ordered(names: Iterable[str], first: Iterable[str]) -> list[str]:
    """``names`` without repetition: those in ``first`` in its order, then the others by name."""
    rank = {name: i for i, name in enumerate(first)}
    return sorted(set(names), key=lambda n: (rank.get(n, len(rank)), n))


def places(pairs: Iterable[Place]) -> list[Place]:
    """Protocols and scenarios without repetition, in the order of the tables."""
    found = set(pairs)
    scenarios = ordered((s for _, s in found), SCENARIOS)
    return [(p, s) for p in ordered((p for p, _ in found), PROTOCOLS) for s in scenarios if (p, s) in found]


def place_name(place: Place) -> str:
    """``transductive``, or ``transductive · rest60`` where the adapting windows are not all there are."""
    protocol, scenario = place
    return protocol if scenario == "balanced" else f"{protocol} · {scenario}"


def meaning(place: Place) -> str:
    """What the protocol is, and the scenario where it is one."""
    protocol, scenario = place
    parts = [PROTOCOLS.get(protocol, ""), SCENARIOS.get(scenario, "") if scenario != "balanced" else ""]
    return "; ".join(p for p in parts if p)


def title(method: str) -> str:
    """Printed name of a method."""
    return TITLES.get(method, method)


def percent(share: float | None, digits: int = 1) -> str:
    """A share in [0, 1] in percent, without the sign "%"."""
    return NONE if share is None else f"{100 * share:.{digits}f}"


def points(difference: float | None, digits: int = 1) -> str:
    """A difference of shares in signed percentage points; what rounds to zero has no sign."""
    if difference is None:
        return NONE
    text = f"{100 * difference:+.{digits}f}"
    return text[1:] if not text.strip("+-0.") else text.replace("-", MINUS)


def interval(bounds: tuple[float, float] | None) -> str:
    """An interval in percent: ``[81.2, 88.0]``."""
    return "" if bounds is None else f"[{percent(bounds[0])}, {percent(bounds[1])}]"


def points_interval(bounds: tuple[float, float] | None, digits: int = 1) -> str:
    """An interval of differences: ``[+2.1, +8.1]``."""
    return "" if bounds is None else f"[{points(bounds[0], digits)}, {points(bounds[1], digits)}]"


def mean_sd(mean: float, sd: float | None) -> str:
    """``84.6 ± 12.0``, or the mean alone for a single user."""
    return percent(mean) + ("" if sd is None else f" ± {percent(sd)}")


def p_value(p: float | None) -> str:
    """A p-value with two digits, or ``<0.001``."""
    if p is None:
        return NONE
    return "<0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def share(value: float) -> str:
    """A share of runs or people in whole percent: ``22 %``, and ``<1 %`` instead of a zero that is none."""
    return "<1 %" if 0 < value < 0.005 else f"{percent(value, 0)} %"


def change(delta: Delta) -> str:
    """``+5.8 [+2.5, +9.2]``, or the mean alone."""
    return f"{points(delta.mean)} {points_interval(delta.ci95)}".strip()


def run_name(source_seed: int, seed: int) -> str:
    """``0/2``: source seed and seed of a run."""
    return f"{source_seed}/{seed}"


def worst_run(harm: Harm) -> str:
    """User and run of the worst change: ``Female3 0/2``."""
    return f"{harm.worst_user} {run_name(harm.worst_source_seed, harm.worst_seed)}"


def is_yardstick(summary: MethodSummary) -> bool:
    """Whether this is Source Only itself, whose difference is zero and no result."""
    d, harm = summary.delta_accuracy, summary.harm
    return summary.method == SOURCE_ONLY and (d is None or d.mean == 0) and (harm is None or harm.worst == 0)


def shown_delta(summary: MethodSummary, delta: Delta | None) -> Delta | None:
    """``delta``, except for the yardstick itself."""
    return None if is_yardstick(summary) else delta


def shown_harm(summary: MethodSummary) -> Harm | None:
    """The method's harm, except for the yardstick itself."""
    return None if is_yardstick(summary) else summary.harm


def clearly_worse(change: float) -> bool:
    """Whether a change in accuracy is a loss of more than a point."""
    return change < -POINT


HARM = (
    "Worse: by more than 1 point of accuracy than Source Only on the same windows, counted in single runs, not in a "
    "person's mean over runs; people worse: in any of their runs; worst run: change, person, source seed/seed."
)
"""What the columns of harm count."""


def runs_note(methods: Sequence[MethodSummary]) -> str:
    """What the runs of a study differ in, and which spread the intervals therefore lack."""
    trainings = len({s for m in methods for s in m.source_seeds})
    seeds = len({s for m in methods for s in m.seeds})
    drawn = f"{plural(seeds, 'seed')} of draw and adaptation"
    if trainings > 1:
        return (
            f"{drawn}, {trainings} source trainings: a person's runs are averaged first, so the intervals are about "
            f"other people with these {trainings} source trainings."
        )
    lacking = "drawing again and of training new source models" if seeds == 1 else "training new source models"
    return f"{drawn}, one source training: the spread of {lacking} is not in the intervals."


def source_family(methods: Sequence[MethodSummary]) -> str:
    """Test and Holm family of a table's Δ against Source Only."""
    tested = sum(d is not None and d.wilcoxon_p is not None for d in (m.delta_accuracy for m in methods))
    return f"p: two-sided Wilcoxon signed-rank test over people. {_family(tested, 'Source Only')}"


def family_note(family: Sequence[Comparison]) -> str:
    """Holm family of what `comparisons` returns."""
    return _family(len(family), title(family[0].family))


def _family(count: int, name: str) -> str:
    return f"Holm family: the {plural(count, 'comparison')} with {name} given here, each score on its own."


def pairs(delta: Delta) -> str:
    """``111``, or ``110 (1 dropped)``: compared (person, run) pairs."""
    return f"{delta.n_pairs:,}" + (f" ({delta.n_dropped:,} dropped)" if delta.n_dropped else "")


PAIRS = (
    "Differences are paired by person and run: a failed or missing cell drops that run of that person from both sides; "
    "the tables say how many pairs were compared and how many dropped."
)


def comparisons(summary: Summary, table: tuple[str, str, str, str], family: str) -> list[Comparison]:
    """The comparisons of one family in a table (dataset, backbone, protocol, scenario), in the order of its methods."""
    here = [
        c for c in summary.comparisons if (c.dataset, c.backbone, c.protocol, c.scenario, c.family) == (*table, family)
    ]
    rank = {m: i for i, m in enumerate(ordered((m for c in here for m in (c.method, c.reference)), TITLES))}
    return sorted(here, key=lambda c: (rank[c.method], rank[c.reference]))


def users_of(summary: MethodSummary) -> str:
    """``37``, or ``35/37`` when two users have no score."""
    if summary.users == summary.users_expected:
        return str(summary.users)
    return f"{summary.users}/{summary.users_expected}"


def runs_of(summary: MethodSummary) -> str:
    """``111``, or ``110/111`` when one run has no score."""
    if summary.runs == summary.runs_expected:
        return f"{summary.runs}"
    return f"{summary.runs}/{summary.runs_expected}"


def plural(count: int, noun: str) -> str:
    """``1 user``, ``2 users``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
