"""``emgup client audit``: everything that ever left this machine, and everything that was not let out."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from emgup_client.egress.audit import FILE, first_break, read_audit
from emgup_client.egress.policy import read_policy
from emgup_model.errors import DataError


def audit(
    home: Annotated[Path, typer.Option(help="the client's private folder")] = Path("~/.emgup"),
    verify: Annotated[bool, typer.Option("--verify", help="check the chain of hashes")] = False,
    full: Annotated[bool, typer.Option("--bytes", help="print the bytes, in hexadecimal")] = False,
) -> None:
    """Print what ever left this machine, oldest first, and what was refused and why."""
    home = home.expanduser()
    lines = read_audit(home)
    if verify and (problem := first_break(lines)) is not None:
        raise DataError(f"{home / FILE} {problem}")
    for line in lines:
        typer.echo(describe(line, full))
    if verify:
        typer.echo(f"{len(lines)} lines, the chain is intact; last hash {lines[-1]['hash'] if lines else '-'}")


def check_policy(
    path: Annotated[Path, typer.Argument(help="a policy file")] = Path("~/.emgup/policy.yaml"),
) -> None:
    """Say what an egress policy allows, in words, or what is wrong with it."""
    typer.echo(read_policy(path.expanduser()).explain())


def describe(line: Mapping[str, Any], full: bool = False) -> str:
    """One line of the log for people."""
    when = datetime.datetime.fromtimestamp(line["time"]).isoformat(sep=" ", timespec="seconds")
    sent = base64.b64decode(line["bytes"]) if "bytes" in line else b""
    what = f"{len(sent):>6} bytes" if sent else " " * 12
    text = f"{line['seq']:>6}  {when}  {'sent' if line['allowed'] else 'REFUSED'}  {what}  {line['kind']}"
    if line["reason"]:
        text += f": {line['reason']}"
    return f"{text}\n        {sent.hex()}" if full and sent else text
