"""The table of methods as Markdown, for docs and papers."""

from __future__ import annotations

from collections.abc import Sequence

from emgup_model.evaluation.statistics import CONTENDER
from emgup_model.evaluation.summary import Comparison, MethodSummary, Summary
from emgup_simulation.report import text

HEAD = (
    "Method",
    "Users",
    "Runs",
    "Accuracy, %",
    "95 % interval",
    "Macro-F1, %",
    "10th pct.",
    "Lowest user",
    "Δ accuracy [95 % interval]",
    "p (Holm)",
    "Δ macro-F1",
    "p (Holm)",
    "Runs worse by >1",
    "People ever worse by >1",
    "Worst run",
)


AGAINST = (
    "Yardstick",
    "Users",
    "Pairs",
    "Δ accuracy [95 % interval]",
    "p (Holm)",
    "Δ macro-F1 [95 % interval]",
    "p (Holm)",
)


def to_markdown(summary: Summary) -> str:
    """One Markdown table per dataset, backbone, protocol and scenario; below it the Holm family and failed cells.

    Where `CONTENDER` is among the methods, a second table compares it with each of the others but Source Only.
    """
    groups = sorted({(m.dataset, m.backbone) for m in summary.methods})
    blocks = []
    for dataset, backbone in groups:
        here = [m for m in summary.methods if (m.dataset, m.backbone) == (dataset, backbone)]
        for place in text.places((m.protocol, m.scenario) for m in here):
            methods = {m.method: m for m in here if (m.protocol, m.scenario) == place}
            rows = [_row(methods[m]) for m in text.ordered(methods, text.TITLES)]
            head = f"### {escape(dataset)}, {escape(backbone)}, {escape(text.place_name(place))}"
            blocks += ["\n".join([head, "", *table(HEAD, rows)]), escape(text.source_family(list(methods.values())))]
            blocks += [_without(methods[m]) for m in text.ordered(methods, text.TITLES) if methods[m].problems]
            if against := text.comparisons(summary, (dataset, backbone, *place), CONTENDER):
                head = f"`{CONTENDER}` against each yardstick, the same users and runs:"
                blocks.append("\n".join([head, "", *table(AGAINST, [_against(c) for c in against])]))
                blocks.append(escape(text.family_note(against)))
        blocks.append(escape(text.runs_note(here)))
    blocks.append(
        f"Every user has equal weight. Intervals: {summary.interval}. Δ: points against Source Only on the same user's "
        f"same windows. {escape(text.PAIRS)} {escape(text.HARM)}"
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
    cells = [_name(m.method), text.users_of(m), text.runs_of(m)]
    if m.accuracy is None or m.macro_f1 is None:
        return line(cells + [text.NONE] * (len(HEAD) - len(cells)))
    cells += [
        text.mean_sd(m.accuracy.mean, m.accuracy.sd),
        text.interval(m.accuracy.ci95) or text.NONE,
        text.percent(m.macro_f1.mean),
        text.percent(m.accuracy.p10),
        f"{text.percent(m.accuracy.worst)} ({escape(m.accuracy.worst_user)})",
    ]
    d, f, harm = text.shown_delta(m, m.delta_accuracy), text.shown_delta(m, m.delta_macro_f1), text.shown_harm(m)
    if d is None or f is None or harm is None:
        return line(cells + [text.NONE] * (len(HEAD) - len(cells)))
    cells += [
        text.change(d),
        escape(text.p_value(d.wilcoxon_p_holm)),
        text.points(f.mean),
        escape(text.p_value(f.wilcoxon_p_holm)),
        escape(text.share(harm.share_runs_worse_1pt)),
        escape(text.share(harm.share_users_ever_worse_1pt)),
        f"{text.points(harm.worst)} ({escape(text.worst_run(harm))})",
    ]
    return line(cells)


def _against(c: Comparison) -> str:
    cells = [_name(c.reference), str(c.delta_accuracy.n_users), text.pairs(c.delta_accuracy)]
    for d in (c.delta_accuracy, c.delta_macro_f1):
        cells += [text.change(d), escape(text.p_value(d.wilcoxon_p_holm))]
    return line(cells)


def _name(method: str) -> str:
    name = text.title(method)
    return code(method) if name == method else escape(name)


def _without(m: MethodSummary) -> str:
    cells = ", ".join(
        f"{escape(p.user)} (run {text.run_name(p.source_seed, p.seed)}: {escape(p.status)})" for p in m.problems
    )
    return f"{text.plural(len(m.problems), 'cell')} of {escape(m.method)} without a score: {cells}."
