"""The table of methods in the terminal, at most 120 columns wide."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from emgup_model.evaluation.results import ResultRow
from emgup_model.evaluation.statistics import summarise
from emgup_model.evaluation.summary import MethodSummary, Summary
from emgup_simulation.report import text

WIDTH = 120
NEEDED = {"users": 95, "runs": 95, "F1": 112, "10th": 112}
"""Columns that a narrower table goes without, so that harm can be read."""


def print_table(rows: Sequence[ResultRow], console: Console, summary: Summary | None = None) -> None:
    """Print one line per method under the name of its protocol and scenario, then what the columns mean and lack.

    Args:
        rows: result rows, failed ones included.
        console: where to print; its width is used up to 120 columns.
        summary: statistics of ``rows``; computed when not given.
    """
    summary = summary or summarise(rows)
    width = min(WIDTH, console.width)
    for dataset, backbone in sorted({(m.dataset, m.backbone) for m in summary.methods}):
        here = [m for m in summary.methods if (m.dataset, m.backbone) == (dataset, backbone)]
        console.print(Text(f"{dataset}, {backbone}: accuracy in %, \u0394 in points against Source Only", "bold"))
        console.print(_table(here, width), width=width)
        for note in (text.runs_note(here), text.HARM):
            console.print(Text(note, "dim"), width=width)
    problems = Counter(p.status for m in summary.methods for p in m.problems)
    if problems:
        why = ", ".join(f"{status}: {n}" for status, n in sorted(problems.items()))
        note = f"{text.plural(problems.total(), 'cell')} without a score ({why}), left out of both sides of differences"
        console.print(Text(note, "red"))


def _table(methods: Sequence[MethodSummary], width: int) -> Table:
    numbers = {
        "users": max(5, *(len(text.users_of(m)) for m in methods)),
        "runs": max(4, *(len(text.runs_of(m)) for m in methods)),
        **{"accuracy": 11, "F1": 4, "10th": 4, "Δ [95 % interval]": 20, "runs\nworse": 5, "people\nworse": 6},
    }
    numbers = {name: columns for name, columns in numbers.items() if width >= NEEDED.get(name, 0)}
    names = max(24, width - sum(numbers.values()) - 2 * (len(numbers) + 2))  # two columns of separators each
    worst = max(16, names // 2)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True, pad_edge=False)
    table.add_column("method", no_wrap=True, overflow="ellipsis", max_width=names - worst)
    for name, columns in numbers.items():
        table.add_column(name, justify="right", no_wrap=True, min_width=columns)
    table.add_column("worst run", no_wrap=True, overflow="ellipsis", max_width=worst)
    for place in text.places((m.protocol, m.scenario) for m in methods):
        for line in text.place_name(place).replace(" \u00b7 ", "\n\u00b7 ").split("\n"):  # too wide for one row
            table.add_row(Text(line, "italic"))
        here = {m.method: m for m in methods if (m.protocol, m.scenario) == place}
        for name in text.ordered(here, text.TITLES):
            cells = _cells(here[name])
            table.add_row(*(cells[column] for column in ("method", *numbers, "worst run")))
        table.add_section()
    return table


def _cells(m: MethodSummary) -> dict[str, Text]:
    """Column → cell, for every column there can be."""
    cells: defaultdict[str, Text] = defaultdict(lambda: Text(text.NONE))
    cells |= {"method": Text(f"  {m.method}"), "users": Text(text.users_of(m)), "runs": Text(text.runs_of(m))}
    if m.accuracy is not None and m.macro_f1 is not None:
        cells["accuracy"] = Text(text.mean_sd(m.accuracy.mean, m.accuracy.sd))
        cells["F1"] = Text(text.percent(m.macro_f1.mean))
        cells["10th"] = Text(text.percent(m.accuracy.p10))
    delta, harm = text.shown_delta(m, m.delta_accuracy), text.shown_harm(m)
    if delta is not None and harm is not None:
        cells["Δ [95 % interval]"] = Text(text.change(delta))
        cells["runs\nworse"] = Text(text.share(harm.share_runs_worse_1pt))
        cells["people\nworse"] = Text(text.share(harm.share_users_ever_worse_1pt))
        worst = f"{text.points(harm.worst)} {text.worst_run(harm)}"
        cells["worst run"] = Text(worst, "red" if text.clearly_worse(harm.worst) else "")
    return cells
