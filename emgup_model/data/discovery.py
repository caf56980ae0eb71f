"""Which files of a raw dataset are which recording: paths and tables read by a descriptor, nothing opened yet."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from emgup_model.data.descriptor import Descriptor
from emgup_model.data.discovery_table import entries_of_table
from emgup_model.data.entries import Dropped, Drops, Entry
from emgup_model.data.recording import check_name
from emgup_model.errors import DataError


@dataclass(frozen=True)
class SourceFile:
    """One file to import. ``start`` is in seconds on the dataset's own clock, if it has one.

    ``gesture`` is an index, or None where the file itself holds a gesture for every sample.
    """

    path: Path
    relative: str
    user: str
    session: int
    repetition: int
    gesture: int | None
    start: float | None = None
    mirror: bool = False
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Discovery:
    """What a folder holds: the recordings of each user in recording order, and what was left out."""

    users: dict[str, tuple[SourceFile, ...]]
    dropped: tuple[Dropped, ...]
    ignored: tuple[str, ...]


def discover(descriptor: Descriptor, raw: Path, partial: bool = False) -> Discovery:
    """Find a dataset's recordings in the folder ``raw``.

    Args:
        descriptor: The dataset.
        raw: Folder with its files, or a folder above it.
        partial: Accept fewer users than the descriptor expects.

    Raises:
        DataError: no such folder, no file that matches, a name the descriptor cannot read, two files for one
            recording, or fewer users than expected.
    """
    if not raw.is_dir():
        raise DataError(f"no folder at {raw}; give --raw the folder that holds the files of {descriptor.name}")
    drops = Drops()
    ignored: list[str] = []
    entries = (
        entries_of_table(descriptor.table, raw, drops) if descriptor.table else _from_names(descriptor, raw, ignored)
    )
    by_user: dict[str, list[tuple[Entry, SourceFile]]] = defaultdict(list)
    spellings: dict[str, str] = {}
    for entry in entries:
        _check_spelling(descriptor.user.format_map(entry.fields), spellings)
        source = _resolve(descriptor, raw, entry, drops)
        if source is not None:
            by_user[source.user].append((entry, source))
    users = {user: _arrange(descriptor, by_user[user]) for user in sorted(by_user)}
    _check_users(descriptor, raw, users, partial)
    return Discovery(users, drops.tally(set(users)), tuple(ignored))


def _check_spelling(user: str, spellings: dict[str, str]) -> None:
    """User names are lower-cased, as some file systems would do: two people must not become one by that."""
    if spellings.setdefault(user.lower(), user) != user:
        raise DataError(f"users '{spellings[user.lower()]}' and '{user}' differ only in case; rename one of them")


def _walk(raw: Path) -> Iterator[str]:
    for folder, subfolders, files in os.walk(raw):
        subfolders[:] = sorted(s for s in subfolders if not s.startswith("."))
        for file in sorted(files, key=_natural):
            if not file.startswith("."):
                yield (Path(folder) / file).relative_to(raw).as_posix()


def _natural(text: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that puts file2 before file10; no two texts have the same."""
    parts = re.split(r"([0-9]+)", text)  # every second one is a number, which may be too long for int()
    parts[1::2] = [number.lstrip("0") for number in parts[1::2]]
    return [(len(part) if i % 2 else -1, part) for i, part in enumerate(parts)], text


def _from_names(descriptor: Descriptor, raw: Path, ignored: list[str]) -> list[Entry]:
    pattern = re.compile(rf"(?:.*/)?(?:{descriptor.pattern})")
    entries = []
    for relative in _walk(raw):
        match = pattern.fullmatch(relative)
        if match:
            entries.append(Entry(relative, {k: v for k, v in match.groupdict().items() if v is not None}))
        else:
            ignored.append(relative)
    if not entries:
        example = f"it holds for example {ignored[0]}" if ignored else "it holds no files"
        raise DataError(f"no file in {raw} matches the pattern {descriptor.pattern} of {descriptor.name}; {example}")
    return entries


def _resolve(descriptor: Descriptor, raw: Path, entry: Entry, drops: Drops) -> SourceFile | None:
    user = check_name(descriptor.user.format_map(entry.fields).lower(), "user")
    reason = entry.drop or _drop_reason(descriptor, user, entry.relative)
    numbers = None if reason else _numbers(descriptor, entry)
    if numbers is None:
        drops.add(reason or "gesture not among the classes", user)
        return None
    return SourceFile(
        path=raw / entry.relative,
        relative=entry.relative,
        user=user,
        session=_session(descriptor, entry),
        repetition=numbers[1],
        gesture=numbers[0],
        start=_float(entry, "start") if "start" in entry.fields else None,
        mirror=entry.mirror,
        attributes=tuple((name, entry.fields[group].lower()) for name, group in sorted(descriptor.attributes.items())),
    )


def _drop_reason(descriptor: Descriptor, user: str, relative: str) -> str:
    for drop in descriptor.drop:
        if user in drop.users or (drop.pattern and re.search(drop.pattern, relative)):
            return drop.reason
    return ""


def _numbers(descriptor: Descriptor, entry: Entry) -> tuple[int | None, int] | None:
    """Gesture index (None: in the file) and repetition (-1: to be counted); None when the gesture is left out."""
    if descriptor.index:
        div, mod = divmod(_integer(entry, "index"), descriptor.index.by)
        gesture, repetition = (mod, div) if descriptor.index.gesture == "mod" else (div, mod)
        if not gesture < len(descriptor.gestures):
            raise DataError(
                f"{entry.relative}: gesture {gesture} is not one of the {len(descriptor.gestures)} gestures"
            )
        return gesture, repetition
    if descriptor.labels_each_sample:
        return None, _repetition(descriptor, entry)
    try:
        named = descriptor.gesture_index(entry.fields["gesture"])
    except ValueError as e:
        raise DataError(f"{entry.relative}: {e}") from None
    return None if named is None else (named, _repetition(descriptor, entry))


def _repetition(descriptor: Descriptor, entry: Entry) -> int:
    if "repetition" not in entry.fields:
        return -1
    repetition = _integer(entry, "repetition") - descriptor.first_repetition
    if repetition < 0:
        raise DataError(f"{entry.relative}: repetition comes before first_repetition of the descriptor")
    return repetition


def _session(descriptor: Descriptor, entry: Entry) -> int:
    """Session number; -1 when only the order of the session's start can tell."""
    if "session" not in entry.fields:
        return 0
    text = entry.fields["session"]
    if descriptor.sessions:
        if text not in descriptor.sessions:
            raise DataError(f"{entry.relative}: session '{text}' is not in the sessions map of {descriptor.name}")
        return descriptor.sessions[text]
    return -1 if "start" in entry.fields else _integer(entry, "session")


def _integer(entry: Entry, name: str) -> int:
    text = entry.fields[name]
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise DataError(f"{entry.relative}: {name} '{text[:40]}' is not a number")
    return int(text)


def _float(entry: Entry, name: str) -> float:
    try:
        return float(entry.fields[name])
    except ValueError:
        raise DataError(f"{entry.relative}: {name} '{entry.fields[name][:40]}' is not a number") from None


def _arrange(descriptor: Descriptor, found: list[tuple[Entry, SourceFile]]) -> tuple[SourceFile, ...]:
    """One user's recordings in recording order, sessions and repetitions numbered where the names do not."""
    first: dict[str, float] = {}
    for entry, source in found:
        if source.start is not None:
            text = entry.fields.get("session", "")
            first[text] = min(source.start, first.get(text, source.start))
    ranks = {text: rank for rank, text in enumerate(sorted(first, key=lambda t: (first[t], t)))}
    numbered = [
        replace(source, session=ranks[entry.fields["session"]]) if source.session < 0 else source
        for entry, source in found
    ]
    counts: dict[tuple[int, int | None], int] = defaultdict(int)
    arranged = []
    for source in sorted(numbered, key=lambda s: (s.session, s.start or 0.0, _natural(s.relative))):
        if source.repetition < 0:
            key = (source.session, source.gesture)
            source = replace(source, repetition=counts[key])
            counts[key] += 1
        arranged.append(source)
    _check_unique(arranged)
    # Without clock times the order within a session is (repetition, gesture): how cued protocols run.
    return tuple(sorted(arranged, key=lambda s: (s.session, s.start or 0.0, s.repetition, s.gesture or 0)))


def _check_unique(sources: list[SourceFile]) -> None:
    seen: dict[tuple[int, int, int | None], str] = {}
    for s in sources:
        key = (s.session, s.repetition, s.gesture)
        if key in seen:
            gesture = "" if s.gesture is None else f", gesture {s.gesture}"
            raise DataError(
                f"{seen[key]} and {s.relative} are both session {s.session}, repetition {s.repetition}{gesture} "
                f"of user {s.user}; give --raw a folder with one copy of the dataset"
            )
        seen[key] = s.relative
    if len({s.attributes for s in sources}) > 1:
        raise DataError(f"the files of user {sources[0].user} disagree about the user's attributes")


def _check_users(descriptor: Descriptor, raw: Path, users: dict[str, tuple[SourceFile, ...]], partial: bool) -> None:
    if not users:
        raise DataError(f"every recording in {raw} is dropped by the descriptor {descriptor.name}; nothing to import")
    if partial:
        return
    if len(users) < descriptor.expected_users:
        raise DataError(
            f"{raw} gives {len(users)} users, {descriptor.name} should have {descriptor.expected_users}; "
            "complete the download, or import what is there with --partial"
        )
    grouped = {u for members in descriptor.groups.values() for u in members}
    if missing := grouped - set(users):
        raise DataError(f"groups of {descriptor.name} names the user '{min(missing)}', who is not in {raw}")
