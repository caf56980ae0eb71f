"""`emgup client …`: what a user does on the own machine."""

from __future__ import annotations

import typer

from emgup_client import use_cli

client = typer.Typer(help="One user's machine.", no_args_is_help=True)
client.command()(use_cli.personalize)
client.command()(use_cli.predict)
client.command()(use_cli.forget)
client.command()(use_cli.encrypt)
client.command()(use_cli.web)
client.command()(use_cli.export)
