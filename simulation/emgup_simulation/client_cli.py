"""`emgup client …`: what a user does on the own machine."""

from __future__ import annotations

import typer

from emgup_client.deployment import cli as deployment_cli

client = typer.Typer(help="One user's machine.", no_args_is_help=True)
client.command()(deployment_cli.init)
client.command()(deployment_cli.start)
client.command()(deployment_cli.status)
