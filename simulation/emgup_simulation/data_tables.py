"""What `emgup data` prints: short, aligned, findings last."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emgup_model.data.descriptor import Descriptor, Download
from emgup_model.data.download import RECORD, Downloaded
from emgup_model.data.importers import ImportSummary
from emgup_model.data.inspect import StoreReport, UserReport
from emgup_model.data.leakage import Copies
from emgup_model.errors import ConfigError

OK, NOTE, WARN, BAD = "[green]ok[/]", "[cyan]note[/]", "[yellow]warn[/]", "[bold red]LEAK[/]"
# Above this share of samples at the converter's rails, amplitude features start to saturate.
CLIPPING_WARN = 0.005
_SHOWN = 5


def choose_part(descriptor: Descriptor, part: str | None) -> Download:
    """The part to download. Raises ConfigError when there is no such part, or several and none is named."""
    parts = ", ".join(f"{name} ({_size(d.bytes)})" for name, d in descriptor.downloads.items())
    if not parts:
        where = f"see {descriptor.source}" if descriptor.source else "get its files from those who recorded them"
        raise ConfigError(f"{descriptor.name} names no download; {where}")
    if part is None and len(descriptor.downloads) > 1:
        raise ConfigError(f"{descriptor.name} comes in parts; give --part one of: {parts}")
    if part is not None and part not in descriptor.downloads:
        raise ConfigError(f"{descriptor.name} has no part '{part}'; it has: {parts}")
    return descriptor.downloads[part or next(iter(descriptor.downloads))]


def _size(n_bytes: int | None) -> str:
    if n_bytes is None:
        return "size unknown"
    for factor, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.1f} {unit}"
    return f"{n_bytes} bytes"


def print_download(got: Downloaded, files: int | None, descriptor: Descriptor, console: Console) -> None:
    """What was downloaded, and what its checksum was compared with."""
    checked = (
        "as expected"
        if got.known
        else f"nobody has published one to compare it with; it is remembered in {RECORD} and compared from now on"
    )
    rows = [
        ("file", f"[bold]{escape(str(got.path))}[/], {_size(got.bytes)}{'' if got.fetched else ', was there'}"),
        ("sha256", got.sha256),
        ("checksum", checked),
    ]
    if files is not None:
        rows.append(("unpacked", f"{files:,} file{'s' * (files != 1)}; the archive may be deleted after the import"))
    rows.append(("next", f"emgup data import --dataset {descriptor.name} --raw {got.path.parent} --out STORE"))
    console.print(_facts(rows), highlight=False)


def print_import(summary: ImportSummary, descriptor: Descriptor, seconds: float, console: Console) -> None:
    """What an import did, where the store is, and what was left out and why."""
    users = len(summary.imported) + len(summary.skipped)
    state = f"{len(summary.imported)} imported in {seconds:.1f} s, {len(summary.skipped)} unchanged"
    rows = [
        ("dataset", f"{escape(descriptor.name)}: {escape(descriptor.title)}"),
        ("users", f"{users} ({state})"),
        ("recordings", f"{summary.recordings:,}"),
    ]
    for drop in summary.dropped:
        who = f" of {_some(drop.users)}" if drop.users else ""
        rows.append(("dropped", f"{drop.recordings:,} recordings{escape(who)}: {escape(drop.reason)}"))
    present = {*summary.imported, *summary.skipped}
    rows += [
        ("one fold", escape(" and ".join(members)))
        for members in descriptor.groups.values()
        if present.issuperset(members)
    ]
    if summary.ignored:
        example = next((f for f in summary.ignored if "/" in f), summary.ignored[0])
        rows.append(("ignored", f"{len(summary.ignored):,} other files, such as {escape(example)}"))
    rows += [("store", f"[bold]{escape(str(summary.store))}[/]"), ("next", f"emgup data inspect {summary.store}")]
    console.print(_facts(rows), highlight=False)


def print_report(report: StoreReport, console: Console, list_users: bool = False) -> None:
    """Overview, class balance, on request every user, findings."""
    console.print(_overview(report), highlight=False)
    if any(any(u.class_seconds) for u in report.users):
        console.print(_classes(report), highlight=False)
    if list_users:
        console.print(_users(report), highlight=False)
    console.print(_findings(report), highlight=False)


def _facts(rows: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for row in rows:
        grid.add_row(*row)
    return grid


def _overview(report: StoreReport) -> Table:
    info = report.users[0].info
    sessions = [u.sessions for u in report.users]
    minutes = [u.seconds / 60 for u in report.users]
    groups = len({u.info.fold_group for u in report.users})
    grouped = "" if groups == len(report.users) else f", in {groups} group{'s' * (groups > 1)} that folds never split"
    return _facts(
        [
            ("store", escape(str(report.folder))),
            ("dataset", escape(", ".join(sorted({u.info.dataset for u in report.users})))),
            ("users", f"{len(report.users)}{grouped}"),
            ("sessions", f"{sum(sessions)} ({_range(sessions, 'd')} a user)"),
            ("recordings", f"{sum(u.recordings for u in report.users):,}"),
            ("minutes", f"{sum(minutes):,.1f} ({_range(minutes, '.1f')} a user)"),
            (
                "signal",
                f"{info.channels} channels{' in a ring' if info.ring else ''}, "
                f"{info.sampling_rate_hz:g} Hz, {escape(info.unit)}",
            ),
        ]
    )


def _classes(report: StoreReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    table.add_column("gesture")
    for heading in ("minutes", "share", "least in a user", "most in a user", "users"):
        table.add_column(heading, justify="right")
    users = [u for u in report.users if any(u.class_seconds)]
    total = sum(sum(u.class_seconds) for u in users)
    for i, gesture in enumerate(report.users[0].info.gestures):
        seconds = sum(u.class_seconds[i] for u in users)
        shares = [u.class_seconds[i] / sum(u.class_seconds) for u in users]
        have = sum(s > 0 for s in shares)
        cells = (f"{seconds / 60:,.1f}", *(f"{s:.1%}" for s in (seconds / total, min(shares), max(shares))), f"{have}")
        table.add_row(escape(gesture), *cells)
    if rest := sum(u.unlabelled_seconds for u in report.users):
        table.add_row("[dim]no label[/]", f"{rest / 60:,.1f}", "", "", "", "")
    return table


def _users(report: StoreReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("user")
    for heading in ("sessions", "recordings", "minutes", "rarest", "commonest", "clipped", "dead"):
        table.add_column(heading, justify="right")
    for u in report.users:
        total = sum(u.class_seconds) or 1.0
        balance = [f"{f(u.class_seconds) / total:.1%}" for f in (min, max)] if any(u.class_seconds) else ["-", "-"]
        table.add_row(
            escape(u.info.user),
            str(u.sessions),
            str(u.recordings),
            f"{u.seconds / 60:.1f}",
            *balance,
            f"{u.clipped:.2%}",
            _some([str(c) for c in u.dead_channels]) or "-",
        )
    return table


def _findings(report: StoreReport) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(OK, "every file is whole: structure, checksums, content hash, no NaN")
    for row in (*_signal_findings(report.users), *_class_findings(report.users)):
        grid.add_row(*row)
    for copies in report.related:
        grid.add_row(NOTE, f"{_copies(copies)}; one group, so one fold")
    if not report.leaks:
        grid.add_row(OK, "no recording is under two user names, copied, scaled or shifted")
    for copies in report.leaks:
        grid.add_row(BAD, _copies(copies))
    return grid


def _signal_findings(users: Sequence[UserReport]) -> list[tuple[str, str]]:
    dead = [u for u in users if u.dead_channels]
    rows = [
        (WARN, f"dead channels: {escape(u.info.user)} {_some([str(c) for c in u.dead_channels])}")
        for u in dead[:_SHOWN]
    ]
    if len(dead) > _SHOWN:
        rows.append((WARN, f"dead channels: {len(dead) - _SHOWN} more users (--users)"))
    if not dead:
        rows.append((OK, "no dead channels"))
    worst = max(users, key=lambda u: u.clipped)
    if worst.clipped:
        many = sum(u.clipped > CLIPPING_WARN for u in users)
        state = WARN if many else OK
        rows.append(
            (state, f"clipping: at most {worst.clipped:.2%} of samples ({escape(worst.info.user)}), over "
                    f"{CLIPPING_WARN:.1%} in {many} of {len(users)} users")
        )  # fmt: skip
    else:
        rows.append((OK, "no clipping"))
    return rows


def _class_findings(users: Sequence[UserReport]) -> list[tuple[str, str]]:
    lacking = [u for u in users if u.missing_classes]
    if not lacking:
        return []
    first = lacking[0]
    more = f" and {len(lacking) - 1} more users" if len(lacking) > 1 else ""
    return [(WARN, f"without every gesture: {escape(first.info.user)} ({_some(first.missing_classes)}){more}")]


def _copies(copies: Copies) -> str:
    counts = [f"{n} {what}" for n, what in ((copies.identical, "identical"), (copies.near, "near-identical")) if n]
    a, b = copies.examples[0]
    users = " and ".join(copies.users)
    plural = "" if copies.identical + copies.near == 1 else "s"
    return escape(f"{users}: {', '.join(counts)} recording{plural}, such as {a} and {b}")


def _some(names: Sequence[str], limit: int = _SHOWN) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _range(values: Sequence[float] | Sequence[int], spec: str) -> str:
    low, high = format(min(values), spec), format(max(values), spec)
    return low if low == high else f"{low} to {high}"
