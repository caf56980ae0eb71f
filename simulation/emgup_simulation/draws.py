"""draws.csv: how many windows of each gesture every cell of a run adapted on, from the simulated clients' vaults."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from emgup_model.files import write_atomic
from emgup_server.ledger import Cell

COLUMNS = ("dataset", "protocol", "scenario", "user", "seed", "gesture", "windows")

Place = tuple[str, str, str, str, int]
"""(dataset, protocol, scenario, user, seed): what a draw belongs to, whichever method adapts on it."""


def read_draws(vault: Path, cells: Iterable[Cell]) -> tuple[dict[Place, tuple[int, ...]], tuple[Place, ...]]:
    """The draws of cells that were scored, and the places where two methods did not get the same one.

    Args:
        vault: folder of the simulated clients' vaults.
        cells: of the run; those without a scored entry in the vault are left out.
    """
    draws: dict[Place, tuple[int, ...]] = {}
    different: dict[Place, None] = {}
    for cell in cells:
        try:
            entry = json.loads((vault / cell.user / cell.key / "evaluation.json").read_bytes())
        except (OSError, ValueError):
            continue
        if "adapted_on" not in entry:
            continue
        place = (cell.dataset, cell.protocol, cell.scenario, cell.user, cell.seed)
        draw = tuple(int(n) for n in entry["adapted_on"])
        if draws.setdefault(place, draw) != draw:
            different[place] = None
    return draws, tuple(different)


def write_draws(path: Path, draws: dict[Place, tuple[int, ...]], gestures: Sequence[str]) -> None:
    """One line per place and gesture, in the order of the places; ``gestures`` are the release's (K,) names."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for place in sorted(draws):
        writer.writerows((*place, name, n) for name, n in zip(gestures, draws[place], strict=True))
    write_atomic(path, out.getvalue())
