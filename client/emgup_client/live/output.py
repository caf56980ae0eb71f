"""Decisions as they are shown: one JSON object a line for programs, a view that renews itself for people."""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from emgup_client.live.decisions import Decision
from emgup_client.live.predict import Summary

BAR = 30
"""Columns of a full bar."""
RECENT = 12


class Output(Protocol):
    """Where decisions go; used as a context."""

    def __enter__(self) -> Output: ...
    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None: ...
    def decision(self, decision: Decision, latency_s: float) -> None:
        """Show a decision."""

    def summary(self, summary: Summary) -> None:
        """Show how it went."""


class JsonLines:
    """One JSON object a line on standard output, written at once; the last one is the summary."""

    def __init__(self, gestures: Sequence[str]) -> None:
        self._gestures = gestures

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        return

    def decision(self, decision: Decision, latency_s: float) -> None:
        """``gesture`` is null when the decision is rejected."""
        gesture = None if decision.gesture is None else self._gestures[decision.gesture]
        line = {
            "type": "decision",
            "number": decision.number,
            "end_s": round(decision.end_s, 6),
            "gesture": gesture,
            "confidence": round(decision.confidence, 6),
            "latency_ms": round(latency_s * 1000, 3),
        }
        print(json.dumps(line), flush=True)

    def summary(self, summary: Summary) -> None:
        """The last line."""
        latency = summary.latency.rounded() if summary.latency else None
        line = {"type": "summary", "decisions": summary.decisions, "rejected": summary.rejected, "latency": latency}
        print(json.dumps(line), flush=True)


class TerminalView:
    """The gesture of the moment, all probabilities as bars, and what came before."""

    def __init__(self, gestures: Sequence[str], console: Console) -> None:
        self._gestures = gestures
        self._console = console
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._live = Live(console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> TerminalView:
        self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self._live.stop()

    def decision(self, decision: Decision, latency_s: float) -> None:
        """Renew the view."""
        name = "–" if decision.gesture is None else self._gestures[decision.gesture]
        self._recent.append(name)
        title = Text(f"{name}", style="bold" if decision.gesture is not None else "dim")
        facts = Text(f"{decision.end_s:8.2f} s   decided in {latency_s * 1000:.2f} ms", style="dim")
        bars = Table.grid(padding=(0, 2))
        for gesture, p in zip(self._gestures, decision.probabilities, strict=True):
            bars.add_row(gesture, "█" * round(BAR * p), f"{100 * p:5.1f} %")
        self._live.update(Group(title, facts, bars, Text(" ".join(self._recent), style="dim", overflow="ellipsis")))

    def summary(self, summary: Summary) -> None:
        """What stays on the screen."""
        self._console.print(f"{summary.decisions} decisions, {summary.rejected} rejected for low confidence")
        if summary.latency:
            shown = ", ".join(f"{k.removesuffix('_ms')} {v:.2f}" for k, v in summary.latency.rounded().items())
            self._console.print(f"from a window's last sample to its decision, ms: {shown}", highlight=False)


def new_output(gestures: Sequence[str], as_json: bool) -> Output:
    """JSON lines when asked for, and whenever standard output is no terminal."""
    if as_json or not sys.stdout.isatty():
        return JsonLines(gestures)
    return TerminalView(gestures, Console())
