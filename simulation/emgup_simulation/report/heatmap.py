"""Confusion matrices of one method: before, after, and the change, side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from emgup_simulation.report.confusions import Matrix
from emgup_simulation.report.svg import el, figure, text
from emgup_simulation.report.text import percent, points

LOW, HIGH = (247, 250, 253), (8, 69, 148)
SAME, LOSS, GAIN = (250, 250, 250), (196, 78, 0), (8, 69, 148)
"""Same pair of hues as in the per-user plots; both are told apart by people with red-green colour blindness."""
PANELS = ("before (Source Only)", "after", "change, points")
NUMBERS_UP_TO = 12
"""More gestures than this leave no room for a number in a cell; the tooltip has it."""


def heatmap(before: Matrix, after: Matrix, names: Sequence[str], label: str) -> Markup:
    """Three matrices (C, C) as one SVG; rows are true gestures and sum to 100 %, NaN rows have no test windows."""
    count = len(before)
    cell = max(11.0, min(38.0, 300.0 / count))
    shown = [n if len(n) <= 18 else n[:17] + "\u2026" for n in names]
    left = 14 + 5.9 * max(len(n) for n in shown)
    slant = 12 + 3.9 * max(len(n) for n in shown)  # room for the column names above, written at an angle
    top, gap = 20 + slant, 0.62 * slant + 12
    span = count * cell
    parts = [_row_names(shown, left, top, cell)]
    for i, (panel, matrix) in enumerate(zip(PANELS, (before, after, after - before), strict=True)):
        x = left + i * (span + gap)
        parts.append(text(x, 12, panel, "panel"))
        parts.append(_column_names(shown, x, top, cell))
        parts.append(_cells(matrix, names, x, top, cell, change=i == 2))
    width = left + 3 * span + 2 * gap + 0.62 * slant
    parts.append(text(10, top + span / 2, "true", "tick", "middle", transform=f"rotate(-90 10 {top + span / 2:.1f})"))
    return figure(width, top + span + 4, label, *parts, class_="heat")


def _row_names(names: Sequence[str], left: float, top: float, cell: float) -> Markup:
    rows = (text(left - 6, top + (i + 0.5) * cell + 3.5, n, "tick", "end") for i, n in enumerate(names))
    return el("g", *rows)


def _column_names(names: Sequence[str], x: float, top: float, cell: float) -> Markup:
    columns = []
    for j, name in enumerate(names):
        cx, cy = x + (j + 0.5) * cell + 3, top - 5
        columns.append(text(cx, cy, name, "tick", transform=f"rotate(-45 {cx:.1f} {cy:.1f})"))
    return el("g", *columns)


def _cells(matrix: Matrix, names: Sequence[str], x: float, y: float, cell: float, change: bool) -> Markup:
    cells = []
    largest = max(0.1, float(np.nanmax(np.abs(matrix)))) if np.isfinite(matrix).any() else 1.0
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            cells.append(_cell(float(value), names[i], names[j], x + j * cell, y + i * cell, cell, change, largest))
    return el("g", *cells)


def _cell(
    value: float, true: str, predicted: str, x: float, y: float, size: float, change: bool, largest: float
) -> Markup:
    if not np.isfinite(value):
        return el("rect", el("title", f"no test window of {true}"), x=x, y=y, width=size, height=size, class_="empty")
    strength = abs(value) / largest if change else value
    colour = _mix(SAME, GAIN if value > 0 else LOSS, strength) if change else _mix(LOW, HIGH, strength)
    shown = points(value) if change else f"{percent(value)} %"
    box = el(
        "rect", el("title", f"{true} \u2192 {predicted}: {shown}"), x=x, y=y, width=size, height=size, fill=_rgb(colour)
    )
    number = points(value, 0) if change else percent(value, 0)
    if size < 300 / NUMBERS_UP_TO or number in ("0", "+0"):
        return box
    on = "on-dark" if sum(colour) < 450 else "on-light"
    at = text(x + size / 2, y + size / 2 + 3.6, number, on, "middle")
    return box + at


def _mix(a: tuple[int, int, int], b: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    s = min(1.0, max(0.0, share)) ** 0.8  # lifts small shares, which are the confusions
    return (round(a[0] + s * (b[0] - a[0])), round(a[1] + s * (b[1] - a[1])), round(a[2] + s * (b[2] - a[2])))


def _rgb(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
