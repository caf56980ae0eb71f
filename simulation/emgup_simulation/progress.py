"""The progress bar every long step shows: what, how far, time left."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

ESTIMATE_S = 600.0
"""The time left is judged by this last while; a step may well take a minute."""


def progress_bar(console: Console) -> Progress:
    """A progress bar for ``console``; tasks carry a ``note`` shown behind the time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        speed_estimate_period=ESTIMATE_S,
    )
