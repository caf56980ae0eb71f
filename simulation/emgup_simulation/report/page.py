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
from emgup_model.evaluation.statistics import SOURCE_ONLY, Comparison, MethodSummary, Summary, summarise
from emgup_model.files import write_atomic
from emgup_simulation.report import text
from emgup_simulation.report.attribution import attribution
from emgup_simulation.report.confusions import Confusions
from emgup_simulation.report.dumbbell import HALF_WIDTH_UP_TO, UserChange, changes, dumbbell, floor_of
from emgup_simulation.report.forest import Axis
from emgup_simulation.report.heatmap import heatmap
from emgup_simulation.report.info import RunInfo


@dataclass(frozen=True)
class Table:
    """One protocol's table of methods."""

    protocol: str
    meaning: str
    methods: Sequence[MethodSummary]
    axis: Axis
    comparisons: Sequence[Comparison]
    absent: Sequence[str]


@dataclass(frozen=True)
class Panel:
    """One method's per-user plot or confusion matrices."""

    method: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Section:
    """What one protocol shows below the tables."""

    protocol: str
    panels: Sequence[Panel]
    wide: bool = False


@dataclass(frozen=True)
class Study:
    """One dataset and backbone; a run usually holds one."""

    dataset: str
    backbone: str
    users: int
    folds: int
    seeds: Sequence[int]
    methods: Sequence[str]
    tables: Sequence[Table]
    attribution: Sequence[tuple[str, str]]
    per_user: Sequence[Section]
    confusions: Sequence[Section]
    by_user: Sequence[tuple[str, Sequence[tuple[str, Mapping[str, UserChange]]]]]
    problems: Sequence[tuple[str, str, str, int, str]]
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
    confusion_users: Mapping[tuple[str, str], int] | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write RUN/report.html atomically and return its path.

    Args:
        run_dir: the run folder.
        rows: result rows, failed ones included.
        confusions: (method, protocol) → (before, after), each (C, C), as `collect_confusions` pools them. They carry no
            dataset, so they are drawn only for a run of one dataset and backbone.
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
        .render(info=info, studies=studies, summary=summary, notes=notes, t=text, style=Markup(_template("style.css")))
    )
    path = run_dir / "report.html"
    write_atomic(path, html)
    return path


def _study(dataset: str, backbone: str, rows: Sequence[ResultRow], summary: Summary, info: RunInfo) -> Study:
    summaries = [m for m in summary.methods if (m.dataset, m.backbone) == (dataset, backbone)]
    methods = text.ordered((m.method for m in summaries), text.TITLES)
    protocols = text.ordered((m.protocol for m in summaries), text.PROTOCOLS)
    change = {(p, m): changes(r for r in rows if (r.protocol, r.method) == (p, m)) for p in protocols for m in methods}
    return Study(
        dataset=dataset,
        backbone=backbone,
        users=len({r.user for r in rows} | set(info.users)),
        folds=len({r.fold for r in rows}),
        seeds=sorted({r.seed for r in rows}),
        methods=methods,
        tables=[_table(p, methods, summaries, summary, dataset, backbone) for p in protocols],
        attribution=attribution(rows),
        per_user=[_per_user(p, methods, change, info) for p in protocols],
        confusions=(),
        by_user=[(p, [(m, {c.user: c for c in change[p, m]}) for m in methods if change[p, m]]) for p in protocols],
        problems=[(m.method, m.protocol, p.user, p.seed, p.status) for m in summaries for p in m.problems],
        cells=len(rows) + sum(p.status == "missing" for m in summaries for p in m.problems),
    )


def _table(
    protocol: str,
    methods: Sequence[str],
    summaries: Sequence[MethodSummary],
    summary: Summary,
    dataset: str,
    backbone: str,
) -> Table:
    here = {m.method: m for m in summaries if m.protocol == protocol}
    place = (dataset, backbone, protocol)
    shown = [here[m] for m in methods if m in here]
    against_adabn = [
        c for c in summary.comparisons if (c.dataset, c.backbone, c.protocol, c.reference) == (*place, "adabn")
    ]
    deltas = [d for m in shown if (d := text.shown_delta(m, m.delta_accuracy)) is not None]
    return Table(
        protocol=protocol,
        meaning=text.PROTOCOLS.get(protocol, ""),
        methods=shown,
        axis=Axis.over(deltas),
        comparisons=[c for m in methods for c in against_adabn if c.method == m],
        absent=[u for a in summary.absent if (a.dataset, a.backbone, a.protocol) == place for u in a.users],
    )


def _per_user(
    protocol: str, methods: Sequence[str], change: Mapping[tuple[str, str], Sequence[UserChange]], info: RunInfo
) -> Section:
    shown = [m for m in methods if m != SOURCE_ONLY and change[protocol, m]]
    floor = floor_of(c for m in shown for c in change[protocol, m])
    chance = 1 / len(info.gestures) if info.gestures else None
    wide = any(len(change[protocol, m]) > HALF_WIDTH_UP_TO for m in shown)
    panels = []
    for method in shown:
        users = change[protocol, method]
        worse = sum(c.delta < 0 for c in users)
        mean = sum(c.delta for c in users) / len(users)
        note = f"mean {text.points(mean)}; {worse} of {text.plural(len(users), 'user')} worse"
        label = f"{text.title(method)}, {protocol}: accuracy of every user before and after; {note}"
        panels.append(Panel(method, note, dumbbell(users, label, floor, chance, wide)))
    return Section(protocol, panels, wide)


def _confusion_sections(
    confusions: Confusions, users: Mapping[tuple[str, str], int], gestures: Sequence[str]
) -> list[Section]:
    sections = []
    for protocol in text.ordered((p for _, p in confusions), text.PROTOCOLS):
        panels = []
        for method in text.ordered((m for m, p in confusions if p == protocol), text.TITLES):
            if method == SOURCE_ONLY:
                continue  # its matrix is the "before" of all others
            before, after = confusions[method, protocol]
            count = len(before)
            names = list(gestures) if len(gestures) == count else [f"gesture {i}" for i in range(count)]
            recall = [float(np.nanmean(np.diag(m))) if np.isfinite(np.diag(m)).any() else None for m in (before, after)]
            note = f"mean recall over gestures {text.percent(recall[0])} \u2192 {text.percent(recall[1])} %"
            if (method, protocol) in users:
                note += f"; {text.plural(users[method, protocol], 'user')}"
            label = f"confusion matrices of {text.title(method)}, {protocol}: {note}"
            panels.append(Panel(method, note, heatmap(before, after, names, label)))
        if panels:
            sections.append(Section(protocol, panels))
    return sections


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
