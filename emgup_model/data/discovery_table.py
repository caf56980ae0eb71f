"""What a dataset's own table (CSV) says about its recordings, row by row."""

from __future__ import annotations

import csv
import re
from pathlib import Path, PurePosixPath

from emgup_model.data.descriptor import Table
from emgup_model.data.entries import Drops, Entry
from emgup_model.errors import DataError


def entries_of_table(table: Table, raw: Path, drops: Drops) -> list[Entry]:
    """The files that a table lists and the folder ``raw`` has; those it lacks are counted in ``drops``.

    Raises:
        DataError: no table, one that cannot be read or lacks columns, or none of its files is there.
    """
    path = _find_table(table, raw)
    rows = _table_rows(path, table)
    inside = path.parent.relative_to(raw)
    entries = [_table_entry(path, table, inside, line, row) for line, row in rows]
    present = [e for e in entries if (raw / e.relative).is_file()]
    if not present:
        example = f", for example {entries[0].relative}" if entries else ""
        raise DataError(f"none of the {len(entries)} files that {path} lists is in {raw}{example}")
    if len(present) < len(entries):
        there = {e.relative for e in present}
        for e in entries:
            if e.relative not in there:
                drops.add(f"listed in {table.file} but not in the folder", e.fields["user"].lower())
    return present


def _find_table(table: Table, raw: Path) -> Path:
    """The table in ``raw``, or in the one folder of it that has such a file (a downloaded archive is such a folder)."""
    found = [p for p in (raw / table.file, *sorted(raw.glob(f"*/{table.file}"))) if p.is_file()]
    if not found:
        raise DataError(f"no {table.file} in {raw}; it lists the recordings and must lie beside them")
    if found[0].parent != raw and len(found) > 1:
        raise DataError(f"{raw} has several {table.file}, such as {found[0]} and {found[1]}; give --raw one folder")
    return found[0]


def _table_rows(path: Path, table: Table) -> list[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            rows = [(reader.line_num, row) for row in reader]
            header = set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path}: cannot be read as a table ({e})") from None
    needed = set(table.columns.values()) | set(re.findall(r"{(\w+)", table.path))
    needed |= {table.side.column, table.side.moving} if table.side else set()
    if missing := needed - header:
        raise DataError(f"{path} has no column '{min(missing)}'; its columns are {', '.join(sorted(header))}")
    for line, row in rows:
        if None in row or None in row.values():
            raise DataError(f"{path} line {line}: {'more' if None in row else 'fewer'} cells than the header")
    return rows


def _table_entry(path: Path, table: Table, inside: Path, line: int, row: dict[str, str]) -> Entry:
    relative = PurePosixPath(table.path.format_map(row))
    if relative.is_absolute() or ".." in relative.parts:
        raise DataError(f"{path} line {line}: {relative} points outside the folder")
    fields: dict[str, str] = {ours: row[theirs].strip() for ours, theirs in table.columns.items()}
    if table.strip:
        fields["gesture"] = re.sub(table.strip, "", fields["gesture"])
    entry = Entry((inside / relative).as_posix(), fields)
    if table.side:
        side, moving = row[table.side.column].strip().lower(), row[table.side.moving].strip().lower()
        if {side, moving} == {"left", "right"}:  # "both", or nothing said: the hand moved
            entry.drop = "recording of the hand that rests"
        entry.mirror = side == table.side.mirror
    return entry
