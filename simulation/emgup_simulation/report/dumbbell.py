"""Per-user plot of one method: accuracy before and after, and the worst run, in the order of the accuracy before."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from emgup_model.evaluation.results import ResultRow
from emgup_simulation.report.svg import el, figure, line, text
from emgup_simulation.report.text import clearly_worse, percent, points, run_name

WIDTH, HEIGHT = 560.0, 250.0
FULL_WIDTH, HALF_WIDTH_UP_TO = 1116.0, 80
"""More users than this need the whole page for a mark that can still be told apart by its shape."""
LEFT, RIGHT, TOP, BOTTOM = 34.0, 8.0, 12.0, 24.0
NAMED = 2
"""Users named in the plot: the ones with the largest losses in a run, if more than a point."""


@dataclass(frozen=True)
class UserChange:
    """Accuracy of one user before and after, averaged over runs, and the run that lost most or gained least."""

    user: str
    before: float
    after: float
    runs: int
    worst_run: str
    worst_before: float
    worst_after: float

    @property
    def delta(self) -> float:
        """After minus before, free of the rounding of sums."""
        return round(self.after - self.before, 12)

    @property
    def worst_delta(self) -> float:
        """The same in the worst run."""
        return round(self.worst_after - self.worst_before, 12)


def changes(rows: Iterable[ResultRow]) -> list[UserChange]:
    """Users of one method, protocol and scenario that have a score, sorted by accuracy before."""
    runs: dict[str, list[tuple[float, float, str]]] = {}
    for r in rows:
        if r.ok and r.accuracy is not None and r.source_accuracy is not None:
            runs.setdefault(r.user, []).append((r.source_accuracy, r.accuracy, run_name(*r.run)))
    found = [_change(user, sorted(own)) for user, own in runs.items()]
    return sorted(found, key=lambda c: (c.before, c.user))


def _change(user: str, runs: Sequence[tuple[float, float, str]]) -> UserChange:
    before, after, name = min(runs, key=lambda run: (round(run[1] - run[0], 12), run[2]))
    mean_before, mean_after = (float(np.mean([run[i] for run in runs])) for i in (0, 1))
    return UserChange(user, mean_before, mean_after, len(runs), name, before, after)


def floor_of(users: Iterable[UserChange]) -> float:
    """Lower end of the accuracy axis: the multiple of 0.1 below everything drawn, so that panels can share it."""
    lowest = min((min(c.before, c.after, c.worst_after) for c in users), default=0.0)
    return max(0.0, math.floor(lowest * 10 - 0.2) / 10)


def dumbbell(
    users: Sequence[UserChange], label: str, floor: float, chance: float | None = None, wide: bool = False
) -> Markup:
    """The plot as SVG.

    Args:
        users: sorted as `changes` returns them.
        label: read out by screen readers.
        floor: lower end of the accuracy axis, in [0, 1).
        chance: accuracy of guessing, drawn where it is on the axis.
        wide: as wide as the page instead of half of it.
    """
    right = (FULL_WIDTH if wide else WIDTH) - RIGHT
    step = (right - LEFT) / max(len(users), 1)
    size = max(2.0, min(4.2, step * 0.36))

    def y(accuracy: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (accuracy - floor) / (1 - floor))

    def x(i: int) -> float:
        return LEFT + step * (i + 0.5)

    marks = [_user(c, x(i), y, size) for i, c in enumerate(users)]
    lost = sorted((c for c in users if clearly_worse(c.worst_delta)), key=lambda c: (c.worst_delta, c.user))[:NAMED]
    names = [_name(c, x(users.index(c)), y(c.worst_after), right) for c in lost]
    return figure(right + RIGHT, HEIGHT, label, *_axes(floor, y, right, chance), *marks, *names, class_="plot")


def _axes(floor: float, y: Callable[[float], float], right: float, chance: float | None) -> list[Markup]:
    ticks = [t / 10 for t in range(round(floor * 10), 11) if floor > 0.45 or t % 2 == 0]
    out = []
    for tick in ticks:
        out += [
            line(LEFT, y(tick), right, y(tick), "grid"),
            text(LEFT - 6, y(tick) + 3.5, percent(tick, 0), "tick", "end"),
        ]
    if chance is not None and chance > floor:
        out += [line(LEFT, y(chance), right, y(chance), "chance")]
        out += [text(right, y(chance) - 3, "chance", "tick", "end")]
    base = HEIGHT - BOTTOM
    out += [
        text(
            (LEFT + right) / 2,
            base + 17,
            "users, from lowest to highest Source Only accuracy \u2192",
            "tick",
            "middle",
        ),
    ]
    return out


def _user(change: UserChange, x: float, y: Callable[[float], float], size: float) -> Markup:
    worse = change.worst_delta < 0
    kind = ("worse" if clearly_worse(change.worst_delta) else "slightly") if worse else "better"
    before, after, worst = y(change.before), y(change.after), y(change.worst_after)
    several = change.runs > 1
    marks = [
        el("title", _tip(change)),
        line(x, before, x, after, f"stem {'better' if several else kind}"),
        el("circle", cx=x, cy=before, r=size * 0.72, class_="before"),
    ]
    if several or not worse:
        marks.append(el("circle", cx=x, cy=after, r=size, class_="better"))
    if worse:
        reach = [line(x, after, x, worst, f"stem {kind}")] if several else []
        marks += [*reach, _triangle(x, worst, size * 1.15, kind)]
    return el("g", *marks)


def _tip(change: UserChange) -> str:
    tip = f"{change.user}: {percent(change.before)} \u2192 {percent(change.after)} % ({points(change.delta)})"
    if change.runs == 1:
        return tip
    return f"{tip}, mean of {change.runs} runs; worst run {change.worst_run}: {points(change.worst_delta)}"


def _triangle(x: float, y: float, size: float, kind: str) -> Markup:
    corners = [(x - size, y - size * 0.8), (x + size, y - size * 0.8), (x, y + size)]
    return el("polygon", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners), class_=kind)


def _name(change: UserChange, x: float, y: float, right: float) -> Markup:
    left_half = x < right / 2
    user = change.user if len(change.user) <= 20 else change.user[:19] + "\u2026"
    return text(
        x + (8 if left_half else -8),
        min(y + 4, HEIGHT - BOTTOM - 3),
        f"{user} {points(change.worst_delta)}",
        "named",
        "start" if left_half else "end",
    )
