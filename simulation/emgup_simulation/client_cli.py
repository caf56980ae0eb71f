"""`emgup client …`: what a user does on the own machine."""

from __future__ import annotations

import typer

from emgup_client.deployment import cli as deployment_cli
from emgup_client.egress import audit_cli

client = typer.Typer(help="One user's machine.", no_args_is_help=True)
client.command()(deployment_cli.init)
client.command()(deployment_cli.start)
client.command()(deployment_cli.status)
client.command()(audit_cli.audit)
client.command("policy")(audit_cli.check_policy)
