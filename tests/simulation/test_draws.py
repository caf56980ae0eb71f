"""draws.csv: what every cell adapted on, and where methods did not get the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from emgup_model.methods import SourceOnlyConfig
from emgup_server.ledger import Cell
from emgup_simulation.draws import COLUMNS, read_draws, write_draws


def cell(user: str, key: str, **changes: object) -> Cell:
    fields = {
        "dataset": "d",
        "backbone": "cnn",
        "method": "source_only",
        "config": SourceOnlyConfig(),
        "protocol": "transductive",
        "scenario": "subset",
        "fold": 0,
        "user": user,
        "seed": 0,
        "release_id": "0" * 64,
        "key": key,
    }
    return Cell(**(fields | changes))  # type: ignore[arg-type]


def vault(folder: Path, cells: dict[str, list[int] | None]) -> Path:
    """Entries by "user/key"; None = an entry without scores."""
    for name, drawn in cells.items():
        (folder / name).mkdir(parents=True)
        entry = {} if drawn is None else {"adapted_on": drawn}
        (folder / name / "evaluation.json").write_text(json.dumps(entry))
    return folder


def test_every_cells_draw_is_a_line_for_each_gesture(tmp_path: Path) -> None:
    entries: dict[str, list[int] | None] = {"a/1": [5, 0], "a/2": [5, 0], "b/3": [0, 7], "b/4": None}
    cells = [
        cell("b", "3"),
        cell("a", "1"),
        cell("a", "2", method="adabn"),
        cell("b", "4", seed=1),
        cell("c", "5"),
    ]
    draws, different = read_draws(vault(tmp_path / "vault", entries), cells)
    assert different == ()
    write_draws(tmp_path / "draws.csv", draws, ("rest", "fist"))
    with (tmp_path / "draws.csv").open(newline="") as f:
        assert list(csv.reader(f)) == [
            list(COLUMNS),
            ["d", "transductive", "subset", "a", "0", "rest", "5"],
            ["d", "transductive", "subset", "a", "0", "fist", "0"],
            ["d", "transductive", "subset", "b", "0", "rest", "0"],
            ["d", "transductive", "subset", "b", "0", "fist", "7"],
        ]


def test_methods_that_adapted_on_different_draws_are_told(tmp_path: Path) -> None:
    folder = vault(tmp_path, {"a/1": [5, 0], "a/2": [0, 5]})
    _, different = read_draws(folder, [cell("a", "1"), cell("a", "2", method="adabn")])
    assert different == (("d", "transductive", "subset", "a", 0),)


def test_a_damaged_entry_is_no_draw(tmp_path: Path) -> None:
    folder = vault(tmp_path, {"a/1": [5, 0]})
    (folder / "a/1/evaluation.json").write_text("{")
    assert read_draws(folder, [cell("a", "1")]) == ({}, ())
