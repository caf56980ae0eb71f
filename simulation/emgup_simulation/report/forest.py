"""Interval plot of a method's mean change, one small SVG per table row on one shared axis."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from markupsafe import Markup

from emgup_model.evaluation.summary import Delta
from emgup_simulation.report.svg import el, figure, line, text
from emgup_simulation.report.text import points, points_interval

WIDTH, HEIGHT, PAD = 170.0, 26.0, 12.0
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Axis:
    """Shared axis of differences, with zero always on it."""

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, deltas: Iterable[Delta]) -> Axis:
        """The axis that holds every mean and interval, with at most five steps."""
        ends = [0.0] + [v for d in deltas for v in (d.mean, *(d.ci95 or ()))]
        low, high = min(ends), max(ends)
        step = next((s for s in STEPS if (high - low) / s <= 5), STEPS[-1])
        return cls(math.floor(low / step + 1e-9) * step, max(math.ceil(high / step - 1e-9) * step, step), step)

    def x(self, value: float) -> float:
        """Pixel position of a difference."""
        return PAD + (WIDTH - 2 * PAD) * (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Positions of the grid lines."""
        return [self.low + i * self.step for i in range(round((self.high - self.low) / self.step) + 1)]

    def _grid(self) -> list[Markup]:
        zero = self.step / 100
        return [line(self.x(t), 0, self.x(t), HEIGHT, "zero" if abs(t) < zero else "grid") for t in self.ticks]

    def scale(self) -> Markup:
        """The axis itself, for the table's foot."""
        digits = 0 if self.step >= 0.01 else 1
        labels = [text(self.x(t), 12, points(t, digits), "tick", "middle") for t in self.ticks]
        return figure(WIDTH, 16.0, "axis: change in accuracy, points", *labels, class_="forest")

    def row(self, delta: Delta | None) -> Markup:
        """One method's mean and interval; only the grid for a method without a difference."""
        if delta is None:
            return figure(WIDTH, HEIGHT, "no difference", *self._grid(), class_="forest")
        x, y = self.x(delta.mean), HEIGHT / 2
        marks = []
        if delta.ci95 is not None:
            a, b = (self.x(v) for v in delta.ci95)
            marks = [line(a, y, b, y, "bar"), line(a, y - 3.5, a, y + 3.5, "bar"), line(b, y - 3.5, b, y + 3.5, "bar")]
        marks.append(el("rect", x=x - 3.5, y=y - 3.5, width=7, height=7, class_="mean"))
        label = f"{points(delta.mean)} {points_interval(delta.ci95)}"
        return figure(WIDTH, HEIGHT, label, *self._grid(), *marks, class_="forest")
