"""`emgup client …`: what a user does on the own machine."""

from __future__ import annotations

import typer

from emgup_client import use_cli
from emgup_client.deployment import cli as deployment_cli
from emgup_client.egress import audit_cli

client = typer.Typer(help="One user's machine.", no_args_is_help=True)
for command in (
    deployment_cli.init,
    deployment_cli.start,
    deployment_cli.status,
    audit_cli.audit,
    use_cli.personalize,
    use_cli.predict,
    use_cli.forget,
    use_cli.encrypt,
    use_cli.web,
    use_cli.export,
):
    client.command()(command)
client.command("policy")(audit_cli.check_policy)
