"""`emgup data`: download, import, inspect and synthesize."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Protocol

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from emgup_model.errors import ConfigError, DataError
from emgup_simulation.data_tables import choose_part, print_download, print_import, print_report

app = typer.Typer(help="Make and examine recording stores.", no_args_is_help=True)

Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="key.sub=value overrides")]


@app.command("inspect")
def inspect_command(
    store: Annotated[Path, typer.Argument(help="the store's folder")],
    allow_duplicates: Annotated[
        bool, typer.Option("--allow-duplicates", help="report shared recordings without failing")
    ] = False,
    users: Annotated[bool, typer.Option("--users", help="also list every user")] = False,
) -> None:
    """Summarize a store and check it; recordings under two user names (subject leakage) are an error."""
    from emgup_model.data.inspect import inspect_store

    with _bar("reading") as update:
        report = inspect_store(store, update)
    print_report(report, Console(), list_users=users)
    if report.leaks and not allow_duplicates:
        names = ", ".join(" = ".join(c.users) for c in report.leaks[:3]) + (" ..." if len(report.leaks) > 3 else "")
        raise DataError(
            f"subject leakage: {len(report.leaks)} pairs of users share recordings ({names}); drop or group them in "
            "the descriptor and import again, or give --allow-duplicates"
        )


@app.command("import")
def import_command(
    dataset: Annotated[str, typer.Option(help="a shipped descriptor's name, or a YAML file")],
    raw: Annotated[Path, typer.Option(help="folder with the dataset's files; only read")],
    out: Annotated[Path, typer.Option(help="store to make or complete")],
    force: Annotated[bool, typer.Option("--force", help="import users again that are already there")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="accept fewer users than the dataset has")] = False,
    overrides: Overrides = None,
) -> None:
    """Import a dataset; interrupted or repeated, it does only what is missing."""
    from emgup_model.data.descriptor import load_descriptor
    from emgup_model.data.importers import import_dataset

    descriptor = load_descriptor(dataset, overrides or ())
    began = time.monotonic()
    with _bar("importing") as update:
        summary = import_dataset(descriptor, raw, out, force=force, partial=partial, progress=update)
    print_import(summary, descriptor, time.monotonic() - began, Console())


@app.command("download")
def download_command(
    dataset: Annotated[str, typer.Argument(help="a shipped descriptor's name, or a YAML file")],
    out: Annotated[Path, typer.Option(help="folder for the files; it can be given to import as --raw")],
    part: Annotated[str | None, typer.Option(help="which part, where a dataset has several")] = None,
    sha256: Annotated[str | None, typer.Option(help="expected checksum, instead of the descriptor's")] = None,
    no_unpack: Annotated[bool, typer.Option("--no-unpack", help="leave an archive packed")] = False,
    overrides: Overrides = None,
) -> None:
    """Download a public dataset; interrupted or repeated, it goes on where it was."""
    from emgup_model.data.descriptor import load_descriptor
    from emgup_model.data.download import download
    from emgup_model.data.unpack import is_archive, unpack

    descriptor = load_descriptor(dataset, overrides or ())
    source = choose_part(descriptor, part)
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise ConfigError("--sha256 takes 64 hexadecimal digits")
    unpacks = is_archive(source.file) and not no_unpack
    with _bar("downloading") as update:
        got = download(
            source,
            out,
            sha256,
            lambda done, total: update(f"{done / 2**20:,.0f} MiB", done, total),
            unpacked_bytes=(source.bytes or 0) if unpacks else 0,
        )
    files = None
    if unpacks:
        with _bar("unpacking") as update:
            files = unpack(got.path, out, lambda done, total: update("", done, total))
    print_download(got, files, descriptor, Console())


@app.command("synthesize")
def synthesize_command(
    out: Annotated[Path, typer.Option(help="store to make or complete")],
    overrides: Overrides = None,
) -> None:
    """Make a synthetic cohort; nothing to download. Options: docs/synthetic-cohort.md."""
    from emgup_model.config import apply_overrides, parse
    from emgup_model.data.synthetic import SyntheticConfig, synthesize

    config = parse(SyntheticConfig, apply_overrides({}, overrides or ()), "synthetic cohort")
    with _bar("synthesizing") as update:
        synthesize(config, out, lambda done, total: update("", done, total))
    Console().print(f"store  {out}\nnext   emgup data inspect {out}", soft_wrap=True, highlight=False, markup=False)


@app.command("generate-emg2pose")
def generate_emg2pose_command(
    out: Annotated[Path, typer.Option(help="folder to fill with session files and metadata.csv")],
    overrides: Overrides = None,
) -> None:
    """Make a small synthetic copy of emg2pose in its official layout, for a dry run of what the real one would take."""
    from emgup_model.config import apply_overrides, parse
    from emgup_model.data.synthetic.emg2pose_files import Emg2PoseFilesConfig, generate

    config = parse(Emg2PoseFilesConfig, apply_overrides({}, overrides or ()), "generated emg2pose files")
    with _bar("generating") as update:
        files = generate(config, out, lambda done, total: update("", done, total))
    text = (
        f"files  {files:,} of {config.users} users in {out}\n"
        f"next   emgup data import --dataset emg2pose --raw {out} --out STORE --partial"
    )
    Console().print(text, soft_wrap=True, highlight=False, markup=False)


class _Update(Protocol):
    def __call__(self, note: str, done: int, total: int, /) -> None: ...


@contextmanager
def _bar(what: str) -> Iterator[_Update]:
    """Progress bar on stderr, so that stdout holds only the result; gone when done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda note, done, total, /: bar.update(task, completed=done, total=total or None, note=note)
