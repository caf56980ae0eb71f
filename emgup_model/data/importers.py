"""From a raw dataset folder to a recording store, as a descriptor says: streaming, atomic per user, resumable."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from emgup_model.config import digest
from emgup_model.data.descriptor import Descriptor
from emgup_model.data.discovery import Discovery, SourceFile, discover
from emgup_model.data.entries import Dropped
from emgup_model.data.readers import read_labels_of, read_samples
from emgup_model.data.recording import Recording, UserInfo, check_finite
from emgup_model.data.store import SUFFIX, Store, read_info, write_user
from emgup_model.errors import DataError
from emgup_model.files import sole_writer, write_atomic

# Beside the users' files: what each was made from, so that a second import does only what is missing.
LEDGER = ".import.json"
IMPORTER = 2  # raise when the same files and descriptor would give another store

# What a file's own labels mean; where paths give the gesture, it is among the recording's facts.
_LABELS = ("gesture_codes", "first_gesture", "unlisted_gestures")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ImportSummary:
    """What an import did."""

    store: Path
    imported: tuple[str, ...]
    skipped: tuple[str, ...]
    recordings: int
    dropped: tuple[Dropped, ...]
    ignored: tuple[str, ...]


def import_dataset(
    descriptor: Descriptor,
    raw: str | Path,
    store: str | Path,
    *,
    force: bool = False,
    partial: bool = False,
    progress: Progress | None = None,
) -> ImportSummary:
    """Import every user of a dataset; users whose files are unchanged since the last import are skipped.

    One recording is in memory at a time. A file that cannot be read costs its user only: the others are imported
    before the error is raised. What a killed import left half-written is removed.

    ``start_s`` of a recording is the time since the session's first recording began: from the dataset's own clock, or
    the summed duration of the recordings before it in (repetition, gesture) order. Recording names carry no gesture.

    Args:
        descriptor: The dataset.
        raw: Folder with the dataset's files; only read.
        store: Folder to make or to complete.
        force: Import users again that are already there.
        partial: Accept fewer users than the descriptor expects.
        progress: Called as (user, bytes read so far, bytes in all).

    Raises:
        DataError: see :func:`emgup_model.data.discovery.discover`; files that cannot be read; a store that holds
            something else, cannot be written, or is being written by another import.
    """
    raw, store = Path(raw), Path(store)
    found = discover(descriptor, raw, partial)
    _check_target(descriptor, found, store)
    infos = {user: _info(descriptor, files) for user, files in found.users.items()}
    sources = {user: _source_digest(descriptor, infos[user], files) for user, files in found.users.items()}
    unreadable: dict[str, str] = {}
    with sole_writer(store, "import"):
        _sweep(store)
        done = {} if force else _ledger(store)
        skipped = {u for u, source in sources.items() if _is_done(store, u, source, done)}
        sizes = {u: sum(f.path.stat().st_size for f in files) for u, files in found.users.items()}
        meter = _Meter(sum(n for u, n in sizes.items() if u not in skipped), progress)
        ledger = {u: done[u] for u in skipped}
        for user, files in found.users.items():
            if user in skipped:
                continue
            path = store / f"{user}{SUFFIX}"
            try:
                write_user(path, infos[user], _recordings(descriptor, files, meter))
            except _UnreadableError as e:
                unreadable[user] = str(e)
                continue
            ledger[user] = {"source": sources[user], "content_sha256": read_info(path).content_sha256}
            write_atomic(store / LEDGER, json.dumps(ledger, indent=1, sort_keys=True))
    if unreadable:
        raise DataError(_what_failed(unreadable, len(found.users)))
    Store(store)
    return ImportSummary(
        store=store,
        imported=tuple(u for u in found.users if u not in skipped),
        skipped=tuple(sorted(skipped)),
        recordings=sum(len(files) for files in found.users.values()),
        dropped=found.dropped,
        ignored=found.ignored,
    )


class _UnreadableError(DataError):
    """A raw file is not what it should be."""


def _what_failed(unreadable: dict[str, str], users: int) -> str:
    first = next(iter(unreadable.values()))
    if users == 1:
        return first
    return (
        f"{len(unreadable)} of {users} users not imported, such as {next(iter(unreadable))}: {first}; "
        "repair the file or drop it in the descriptor, and import again: only these users are left to do"
    )


def _sweep(store: Path) -> None:
    """Remove what a killed import was writing: up to one user, so perhaps a gigabyte."""
    for name in (f"*{SUFFIX}", LEDGER):
        for path in store.glob(f".{name}.*.tmp"):
            path.unlink(missing_ok=True)


class _Meter:
    """Counts bytes read for the progress callback."""

    def __init__(self, total: int, report: Progress | None) -> None:
        self._total, self._read, self._report = total, 0, report

    def add(self, user: str, n_bytes: int) -> None:
        self._read += n_bytes
        if self._report:
            self._report(user, self._read, self._total)


def _info(descriptor: Descriptor, files: tuple[SourceFile, ...]) -> UserInfo:
    user = files[0].user
    return UserInfo(
        user=user,
        dataset=descriptor.name,
        sampling_rate_hz=descriptor.sampling_rate_hz,
        channels=descriptor.channels,
        unit=descriptor.unit,
        gestures=descriptor.gestures,
        ring=descriptor.ring,
        group=descriptor.group_of(user),
        attributes=dict(files[0].attributes),
    )


def _recordings(descriptor: Descriptor, files: tuple[SourceFile, ...], meter: _Meter) -> Iterator[Recording]:
    clock: dict[int, float] = defaultdict(float)
    counts: dict[int, int] = defaultdict(int)
    began: dict[int, float] = {}
    for file in files:
        try:
            emg = read_samples(file.path, descriptor)
            check_finite(emg, file.relative)
            labels = read_labels_of(file.path, descriptor) if descriptor.labels_each_sample else None
        except DataError as e:
            raise _UnreadableError(str(e)) from None
        if file.mirror:
            emg = emg[:, ::-1]
        start = clock[file.session]
        clock[file.session] += len(emg) / descriptor.sampling_rate_hz
        if file.start is not None:
            start = file.start - began.setdefault(file.session, file.start)
        for first, last in [(0, len(emg))] if labels is None else _labelled_runs(labels):
            # The name must not tell the gesture: names are visible to adaptation, labels are not.
            name = f"s{file.session:02d}_{counts[file.session]:04d}"
            counts[file.session] += 1
            label = file.gesture if labels is None else labels[first:last]
            at = start + first / descriptor.sampling_rate_hz
            yield Recording(name, file.session, file.repetition, at, emg[first:last], label)
        meter.add(file.user, file.path.stat().st_size)


def _labelled_runs(labels: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(first, last + 1) of each stretch without a gesture that is left out: no recording may run across a gap."""
    edges = np.diff(np.concatenate([[False], labels >= 0, [False]]).astype(np.int8))
    return list(zip(np.flatnonzero(edges > 0).tolist(), np.flatnonzero(edges < 0).tolist(), strict=True))


def _source_digest(descriptor: Descriptor, info: UserInfo, files: tuple[SourceFile, ...]) -> str:
    """Hash of what determines a user's file, and nothing else: header, reader, each recording's facts, size and time.

    So dropping one user's damaged recording does not import the other 192 again.
    """
    facts = [(asdict(f) | {"path": None}, f.path.stat().st_size, f.path.stat().st_mtime_ns) for f in files]
    how = descriptor.model_dump(mode="json", include={"reader", *(_LABELS if descriptor.labels_each_sample else ())})
    return digest({"importer": IMPORTER, "info": asdict(info), "how": how, "files": facts})


def _ledger(store: Path) -> dict[str, dict[str, str]]:
    try:
        data = json.loads((store / LEDGER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _is_done(store: Path, user: str, source: str, ledger: dict[str, dict[str, str]]) -> bool:
    entry, path = ledger.get(user), store / f"{user}{SUFFIX}"
    if not isinstance(entry, dict) or entry.get("source") != source or not path.is_file():
        return False
    try:
        return read_info(path).content_sha256 == entry.get("content_sha256")
    except DataError:
        return False


def _check_target(descriptor: Descriptor, found: Discovery, store: Path) -> None:
    """Refuse a store that holds anything the import would not replace: users of two imports must not mix."""
    if store.exists() and not store.is_dir():
        raise DataError(f"{store} is a file; give --out a folder")
    present = {p.name.removesuffix(SUFFIX) for p in store.glob(f"*{SUFFIX}") if not p.name.startswith(".")}
    if strangers := present - set(found.users):
        raise DataError(
            f"the store {store} already holds '{min(strangers)}', which is not part of this import of "
            f"{descriptor.name}; give --out another folder, or delete that one"
        )
