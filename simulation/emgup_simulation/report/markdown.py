"""The table of methods as Markdown, for docs and papers."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.evaluation.statistics import CONTENDER
from emgup_model.evaluation.summary import Comparison, MethodSummary, Summary
from emgup_simulation.report import text

HEAD = (
    "Method",
    "Users",
    "Accuracy, %",
    "95 % interval",
    "Macro-F1, %",
    "10th pct.",
    "Worst user",
    "Δ accuracy [95 % interval]",
    "Δ macro-F1",
    "Worse",
    "Worse by >1",
    "Largest loss",
    "p (Holm)",
)


AGAINST = ("Yardstick", "Users", "Δ accuracy [95 % interval]", "p (Holm)", "Δ macro-F1 [95 % interval]", "p (Holm)")


def to_markdown(summary: Summary) -> str:
    """One Markdown table per dataset, backbone, protocol and scenario, and below it the users without a score.

    Where `CONTENDER` is among the methods, a second table compares it with each of the others.
    """
    groups = sorted({(m.dataset, m.backbone) for m in summary.methods})
    blocks = []
    for dataset, backbone in groups:
        here = [m for m in summary.methods if (m.dataset, m.backbone) == (dataset, backbone)]
        for place in text.places((m.protocol, m.scenario) for m in here):
            methods = {m.method: m for m in here if (m.protocol, m.scenario) == place}
            rows = [_row(methods[m]) for m in text.ordered(methods, text.TITLES)]
            head = f"### {escape(dataset)}, {escape(backbone)}, {escape(text.place_name(place))}"
            blocks.append("\n".join([head, "", *table(HEAD, rows)]))
            blocks += [_without(methods[m]) for m in text.ordered(methods, text.TITLES) if methods[m].problems]
            if against := text.comparisons(summary, (dataset, backbone, *place), CONTENDER):
                head = f"`{CONTENDER}` against each yardstick, the same users:"
                blocks.append("\n".join([head, "", *table(AGAINST, [_against(c) for c in against])]))
    blocks.append(
        f"Every user has equal weight. Intervals: {summary.interval}. Δ: points against Source Only on the same user's "
        "same windows. Worse: share of users whose accuracy fell. p: Wilcoxon signed-rank test of Δ accuracy, "
        "Holm-corrected over methods; against the yardsticks, of either difference, over the yardsticks."
    )
    return "\n\n".join(blocks) + "\n"


def escape(value: str) -> str:
    """``value`` so that Markdown and HTML take none of it as markup."""
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#|~!" else c for c in value)


def code(value: str) -> str:
    """``value`` as code, or escaped where backticks or a table would break."""
    return f"`{value}`" if "`" not in value and "|" not in value else escape(value)


def table(head: Sequence[str], rows: Sequence[str]) -> list[str]:
    """A table whose first column is text and whose others are numbers; ``rows`` are made by :func:`line`."""
    return [line(head), line(["---"] + ["---:"] * (len(head) - 1)), *rows]


def line(cells: Sequence[str]) -> str:
    """One row of a table; the cells are Markdown already."""
    return "| " + " | ".join(cells) + " |"


def _row(m: MethodSummary) -> str:
    cells = [_name(m.method), text.users_of(m)]
    if m.accuracy is None or m.macro_f1 is None:
        return line(cells + [text.NONE] * (len(HEAD) - len(cells)))
    cells += [
        text.mean_sd(m.accuracy.mean, m.accuracy.sd),
        text.interval(m.accuracy.ci95) or text.NONE,
        text.percent(m.macro_f1.mean),
        text.percent(m.accuracy.p10),
        f"{text.percent(m.accuracy.worst)} ({escape(m.accuracy.worst_user)})",
    ]
    d, f = text.shown_delta(m, m.delta_accuracy), text.shown_delta(m, m.delta_macro_f1)
    if d is None:
        return line(cells + [text.NONE] * (len(HEAD) - len(cells)))
    cells += [
        f"{text.points(d.mean)} {text.points_interval(d.ci95)}".strip(),
        text.points(f.mean) if f else text.NONE,
        f"{text.percent(d.share_worse, 0)} %",
        f"{text.percent(d.share_worse_1pt, 0)} %",
        f"{text.points(d.worst)} ({escape(d.worst_user)})" if d.worst < 0 else "none",
        escape(text.p_value(d.wilcoxon_p_holm)) if d.wilcoxon_p_holm is not None else text.NONE,
    ]
    return line(cells)


def _against(c: Comparison) -> str:
    cells = [_name(c.reference), str(c.delta_accuracy.n_users)]
    for d in (c.delta_accuracy, c.delta_macro_f1):
        cells += [
            f"{text.points(d.mean)} {text.points_interval(d.ci95)}".strip(),
            escape(text.p_value(d.wilcoxon_p_holm)),
        ]
    return line(cells)


def _name(method: str) -> str:
    name = text.title(method)
    return code(method) if name == method else escape(name)


def _without(m: MethodSummary) -> str:
    cells = ", ".join(f"{escape(p.user)} (seed {p.seed}: {escape(p.status)})" for p in m.problems)
    return f"{text.plural(len(m.problems), 'cell')} of {escape(m.method)} without a score: {cells}."
