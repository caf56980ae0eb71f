"""What the user sees of a run while it goes on, and of the cells that it left without a result."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import Progress, TaskID

from emgup_server.ledger import Cell, Entry, Ledger


def show(watch: Watch, bar: Progress, task: TaskID) -> None:
    """Bring the bar up to date with the ledger."""
    users = {c.user for c in watch.cells}
    for entry in watch.look():
        row, busy = entry.row, {c.user for c in watch.open.values()}
        scores = (row.source_accuracy, row.accuracy)
        change = row.status if None in scores else " → ".join(f"{100 * x:.1f}" for x in scores if x is not None) + " %"
        note = f"{len(users - busy)}/{len(users)} users; {row.user}, {row.method}: {change}"
        bar.update(task, completed=len(watch.cells) - len(watch.open), note=note)


class Watch:
    """Sees entries of the ledger as they are written, at the price of one folder listing per look."""

    def __init__(self, cells: Sequence[Cell], ledger: Ledger) -> None:
        self.cells = cells
        self.changed = False
        self._ledger = ledger
        self.open = {c.key: c for c in ledger.missing(cells)}
        self._seen = self._stamps()

    def look(self) -> list[Entry]:
        """Entries of open cells written since the last look."""
        stamps = self._stamps()
        new = [key for key, stamp in stamps.items() if key in self.open and self._seen.get(key) != stamp]
        self._seen = stamps
        entries = [e for key in new if (e := self._ledger.read(key)) is not None]
        self.changed |= bool(entries)
        for entry in entries:
            if entry.complete:
                del self.open[entry.key]
        return entries

    def _stamps(self) -> dict[str, int]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._ledger.folder) as files:
            return {f.name.removesuffix(".json"): f.stat().st_mtime_ns for f in files if f.name.endswith(".json")}
        return {}


def print_problems(cells: Sequence[Cell], ledger: Ledger, console: Console) -> None:
    """Print which users have cells without a result, and why."""
    missing = ledger.missing(cells)
    console.print(f"[red]{len(missing)} of {len(cells)} cells have no result:[/red]")
    problems = Counter((row.user, row.status) for row in ledger.rows(missing))
    for (user, status), count in sorted(problems.items())[:20]:
        console.print(f"  user {user}: {status} ({count} cells)", markup=False, highlight=False)
    if len(problems) > 20:
        console.print(f"  and {len(problems) - 20} more")
