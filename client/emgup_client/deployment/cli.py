"""`emgup client init`, `start`, `status`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

DEFAULT_HOME = Path("~/.emgup")
Home = Annotated[Path, typer.Option(help="the client's private folder", envvar="EMGUP_HOME")]


def init(
    superlink: Annotated[str, typer.Option(help="HOST:PORT of the server")],
    root_certificates: Annotated[Path, typer.Option(help="the server's root_certificates.pem")],
    trusted: Annotated[Path, typer.Option(help="the server's trusted_release_keys.txt")],
    recordings: Annotated[Path, typer.Option(help="your recording file (.h5)")],
    home: Home = DEFAULT_HOME,
    policy: Annotated[str, typer.Option(help="what may leave: a shipped policy, or a YAML file")] = "default",
    user: Annotated[str | None, typer.Option(help="name of your folder in the vault; never sent")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; default auto")] = None,
) -> None:
    """Make the client's folder: keys, config, policy."""
    from emgup_client.deployment.config import ClientHome
    from emgup_client.deployment.initialise import init_client

    files = ClientHome(home.expanduser().resolve())
    init_client(files, recordings, root_certificates, trusted, policy, superlink=superlink, user=user, device=device)
    _print(f"client   {files.path}")
    _print(f"policy   {files.policy} says what may leave; change it before you start")
    _print(f"give     {files.supernode_public_key} to the server's operator, to be registered")
    _print(f"next     emgup client start --home {home}")


def start(home: Home = DEFAULT_HOME) -> None:
    """Take part until Ctrl-C; what dies is started again."""
    from emgup_client.deployment.config import ClientHome
    from emgup_client.deployment.start import start as start_client

    files = ClientHome(home.expanduser().resolve())
    start_client(files, _print, lambda: _print(f"up: {files.path}; logs in {files.logs}; Ctrl-C ends"))


def status(home: Home = DEFAULT_HOME) -> None:
    """Say whether the client runs, and what it has made."""
    from emgup_client.deployment.config import ClientHome, choose_device
    from emgup_client.deployment.status import status as look
    from emgup_client.sandbox.support import in_words

    files = ClientHome(home.expanduser().resolve())
    found = look(files)
    _print("running  " + (f"for {found.running_s:.0f} s" if found.running_s is not None else "no"))
    _print(f"server   {found.config.superlink}")
    _print(f"device   {choose_device(found.config.device)} (asked for: {found.config.device})")
    _print(f"sandbox  {in_words(found.config.sandbox)}")
    fits = "of this version" if found.bundle_fits else "not of this version, whose runs are refused"
    _print(f"bundle   {found.config.bundle_sha256[:12]}, {fits}")
    _print(f"cached   {found.releases} releases")
    _print(f"vault    {found.personalized} personalized models")


def _print(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
