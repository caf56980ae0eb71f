"""``emgup client audit``: everything that ever left this machine, and everything that was not let out."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from emgup_client.egress.audit import FILE, first_break, read_audit
from emgup_client.egress.policy import FILE as POLICY
from emgup_client.egress.policy import read_policy
from emgup_client.home_option import DEFAULT_HOME, Home
from emgup_model.errors import DataError


def audit(
    home: Home = DEFAULT_HOME,
    verify: Annotated[bool, typer.Option("--verify", help="check the chain of hashes")] = False,
    full: Annotated[bool, typer.Option("--bytes", help="print the bytes, in hexadecimal")] = False,
) -> None:
    """Print what ever left this machine, oldest first, and what was refused and why."""
    home = home.expanduser()
    if not home.is_dir():
        raise DataError(f"no client's folder at {home}; give --home, or make one with emgup client init")
    lines = read_audit(home)
    if verify and (problem := first_break(lines)) is not None:
        raise DataError(f"{home / FILE} {problem}")
    for line in lines:
        typer.echo(describe(line, full))
    if verify:
        typer.echo(f"{len(lines)} lines, the chain is intact; last hash {lines[-1]['hash'] if lines else '-'}")


def check_policy(
    path: Annotated[Path | None, typer.Argument(help="a policy file; default the client's", show_default=False)] = None,
    home: Home = DEFAULT_HOME,
) -> None:
    """Say what an egress policy allows, in words, or what is wrong with it."""
    typer.echo(read_policy((path or home / POLICY).expanduser()).explain())


def describe(line: Mapping[str, Any], full: bool = False) -> str:
    """One line of the log for people."""
    when = datetime.datetime.fromtimestamp(line["time"]).isoformat(sep=" ", timespec="seconds")
    sent = base64.b64decode(line["bytes"]) if "bytes" in line else b""
    what = f"{len(sent):>6} bytes" if sent else " " * 12
    text = f"{line['seq']:>6}  {when}  {'sent' if line['allowed'] else 'REFUSED'}  {what}  {line['kind']}"
    if line["reason"]:
        text += f": {line['reason']}"
    return f"{text}\n        {sent.hex()}" if full and sent else text
