"""report.html: one self-contained file, no script and nothing loaded from elsewhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import groupby
from pathlib import Path

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from emgup_model.evaluation.results import ResultRow, sort_rows
from emgup_model.evaluation.statistics import CONTENDER, SOURCE_ONLY, summarise
from emgup_model.evaluation.summary import Comparison, MethodSummary, Summary
from emgup_model.files import write_atomic
from emgup_simulation.report import text
from emgup_simulation.report.attribution import attribution
from emgup_simulation.report.confusions import Confusions, Key
from emgup_simulation.report.dumbbell import HALF_WIDTH_UP_TO, UserChange, changes, dumbbell, floor_of
from emgup_simulation.report.forest import Axis
from emgup_simulation.report.heatmap import heatmap
from emgup_simulation.report.info import RunInfo
from emgup_simulation.report.made import made_lines
from emgup_simulation.report.text import Place


@dataclass(frozen=True)
class Table:
    """The table of methods of one protocol and scenario.

    ``comparisons`` are those with AdaBN, ``against`` those of the contender with every other method; a pair of methods
    is in one of them only.
    """

    name: str
    meaning: str
    methods: Sequence[MethodSummary]
    axis: Axis
    comparisons: Sequence[Comparison]
    against: Sequence[Comparison]
    absent: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """One method's per-user plot or confusion matrices."""

    method: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """What one protocol and scenario show below the tables; ``folded``: only after a click."""

    name: str
    panels: Sequence[Panel]
    folded: bool
    wide: bool = False


@dataclass(frozen=True)
class Study:
    """One dataset and backbone; a run usually holds one. ``users`` have a score, of ``expected`` to be tested."""

    dataset: str
    backbone: str
    users: int
    expected: int
    folds: int
    runs: Sequence[tuple[int, int]]
    runs_note: str
    methods: Sequence[str]
    tables: Sequence[Table]
    attribution: Sequence[tuple[str, str]]
    per_user: Sequence[Section]
    confusions: Sequence[Section]
    by_user: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, UserChange]]]]]
    problems: Sequence[tuple[str, str, str, str, str]]
    cells: int

    @property
    def problem_counts(self) -> Sequence[tuple[str, int]]:
        """Status codes of the cells without a score, most frequent first."""
        counts = Counter(status for *_, status in self.problems)
        return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def write_report(
    run_dir: Path,
    rows: Sequence[ResultRow],
    confusions: Confusions,
    *,
    info: RunInfo | None = None,
    summary: Summary | None = None,
    confusion_users: Mapping[Key, int] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write RUN/report.html atomically and return its path.

    Args:
        run_dir: the run folder.
        rows: result rows, failed ones included.
        confusions: (method, protocol, scenario) → (before, after), each (C, C), as `collect_confusions` pools them.
            They carry no dataset, so they are drawn only for a run of one dataset and backbone.
        info: what was run; unknown parts are not shown.
        summary: statistics of ``rows``; computed when not given.
        confusion_users: number of users pooled in each matrix.
        notes: lines shown with the matrices, about what could not be read.

    Raises:
        RunError: two rows of one cell.
    """
    info = info or RunInfo()
    ordered = sort_rows(rows)
    summary = summary or summarise(ordered, info.users)
    studies = [
        _study(dataset, backbone, list(group), summary, info)
        for (dataset, backbone), group in groupby(ordered, key=lambda r: (r.dataset, r.backbone))
    ]
    if len(studies) == 1:
        sections = _confusion_sections(confusions, confusion_users or {}, info.gestures)
        studies = [replace(studies[0], confusions=sections)]
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            info=info,
            studies=studies,
            summary=summary,
            notes=notes,
            t=text,
            made_lines=made_lines,
            style=Markup(_template("style.css")),
        )
    )
    path = run_dir / "report.html"
    write_atomic(path, html)
    return path


def _study(dataset: str, backbone: str, rows: Sequence[ResultRow], summary: Summary, info: RunInfo) -> Study:
    summaries = [m for m in summary.methods if (m.dataset, m.backbone) == (dataset, backbone)]
    methods = text.ordered((m.method for m in summaries), text.TITLES)
    places = text.places((m.protocol, m.scenario) for m in summaries)
    change = {
        (p, m): changes(r for r in rows if ((r.protocol, r.scenario), r.method) == (p, m))
        for p in places
        for m in methods
    }
    return Study(
        dataset=dataset,
        backbone=backbone,
        users=len({r.user for r in rows if r.ok}),
        expected=len({r.user for r in rows} | set(info.users)),
        folds=len({r.fold for r in rows}),
        runs=sorted({r.run for r in rows}),
        runs_note=text.runs_note(summaries),
        methods=methods,
        tables=[_table((dataset, backbone, *p), methods, summaries, summary) for p in places],
        attribution=[(text.place_name(p), sentence) for p, sentence in attribution(rows)],
        per_user=[_per_user(p, methods, change, info) for p in places],
        confusions=(),
        by_user=[
            (text.place_name(p), [(m, {c.user: c for c in change[p, m]}) for m in methods if change[p, m]])
            for p in places
        ],
        problems=[
            (
                m.method,
                text.place_name((m.protocol, m.scenario)),
                p.user,
                text.run_name(p.source_seed, p.seed),
                p.status,
            )
            for m in summaries
            for p in m.problems
        ],
        cells=len(rows) + sum(p.status == "missing" for m in summaries for p in m.problems),
    )


def _table(
    table: tuple[str, str, str, str], methods: Sequence[str], summaries: Sequence[MethodSummary], summary: Summary
) -> Table:
    place = table[2:]
    here = {m.method: m for m in summaries if (m.protocol, m.scenario) == place}
    shown = [here[m] for m in methods if m in here]
    deltas = [d for m in shown if (d := text.shown_delta(m, m.delta_accuracy)) is not None]
    return Table(
        name=text.place_name(place),
        meaning=text.meaning(place),
        methods=shown,
        axis=Axis.over(deltas),
        comparisons=text.comparisons(summary, table, "adabn"),
        against=text.comparisons(summary, table, CONTENDER),
        absent=[u for a in summary.absent if (a.dataset, a.backbone, a.protocol, a.scenario) == table for u in a.users],
    )


def _per_user(
    place: Place, methods: Sequence[str], change: Mapping[tuple[Place, str], Sequence[UserChange]], info: RunInfo
) -> Section:
    shown = [m for m in methods if m != SOURCE_ONLY and change[place, m]]
    floor = floor_of(c for m in shown for c in change[place, m])
    chance = 1 / len(info.gestures) if info.gestures else None
    wide = any(len(change[place, m]) > HALF_WIDTH_UP_TO for m in shown)
    panels = []
    for method in shown:
        users = change[place, method]
        worse = sum(text.clearly_worse(c.worst_delta) for c in users)
        mean = sum(c.delta for c in users) / len(users)
        note = f"mean {text.points(mean)}; {worse} of {text.plural(len(users), 'user')} ever worse by >1"
        label = f"{text.title(method)}, {text.place_name(place)}: accuracy of every user before and after; {note}"
        panels.append(Panel(method, note, dumbbell(users, label, floor, chance, wide)))
    return Section(text.place_name(place), panels, _folded(place), wide)


def _confusion_sections(confusions: Confusions, users: Mapping[Key, int], gestures: Sequence[str]) -> list[Section]:
    sections = []
    for place in text.places((p, s) for _, p, s in confusions):
        methods = text.ordered((m for m, *rest in confusions if tuple(rest) == place), text.TITLES)
        # the matrix of Source Only is the "before" of all others
        panels = [_confusion_panel(m, place, confusions, users, gestures) for m in methods if m != SOURCE_ONLY]
        if panels:
            sections.append(Section(text.place_name(place), panels, _folded(place)))
    return sections


def _confusion_panel(
    method: str, place: Place, confusions: Confusions, users: Mapping[Key, int], gestures: Sequence[str]
) -> Panel:
    before, after = confusions[method, *place]
    count = len(before)
    names = list(gestures) if len(gestures) == count else [f"gesture {i}" for i in range(count)]
    recall = [float(np.nanmean(np.diag(m))) if np.isfinite(np.diag(m)).any() else None for m in (before, after)]
    note = f"mean recall over gestures {text.percent(recall[0])} \u2192 {text.percent(recall[1])} %"
    if (method, *place) in users:
        note += f"; {text.plural(users[method, *place], 'user')}"
    label = f"confusion matrices of {text.title(method)}, {text.place_name(place)}: {note}"
    return Panel(method, note, heatmap(before, after, names, label))


def _folded(place: Place) -> bool:
    """Calibration scenarios are many: their figures open on a click."""
    return place[1] != "balanced"


def _environment() -> Environment:
    return Environment(
        loader=FunctionLoader(_template),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _template(name: str) -> str:
    return (files("emgup_simulation.report") / "templates" / name).read_text(encoding="utf-8")
