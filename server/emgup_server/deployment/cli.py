"""`emgup server`: a deployed federation's server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

server = typer.Typer(help="Run a deployed federation's server (docs/deploy.md).", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="the server's folder")]


@server.command()
def init(
    folder: Folder,
    name: Annotated[
        list[str] | None, typer.Option(help="DNS name or IP address clients reach the server by; repeat for more")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for every network")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="the one port")] = 8443,
) -> None:
    """Make the server's folder: certificates, keys, secrets, config."""
    from emgup_server.deployment.folder import EVERY_INTERFACE, ServerConfig, ServerFolder
    from emgup_server.deployment.initialise import init_server

    own = [] if host in EVERY_INTERFACE else [host]
    names = tuple(dict.fromkeys([*(name or []), "localhost", "127.0.0.1", *own]))
    files = ServerFolder(folder.expanduser().resolve())
    init_server(files, ServerConfig(host=host, port=port, names=names))
    _print(f"server   {files.path}")
    _print(f"users    need the two files in {files.for_clients}")
    _print(f"next     emgup server start {folder}")


@server.command()
def start(folder: Folder) -> None:
    """Run the SuperLink until Ctrl-C; what dies is started again."""
    from emgup_server.deployment.folder import ServerFolder
    from emgup_server.deployment.serve import serve

    files = ServerFolder(folder.expanduser().resolve())
    config = files.config()
    serve(
        files, _print, lambda: _print(f"up: {config.host}:{config.port}, names {', '.join(config.names)}; Ctrl-C ends")
    )


@server.command()
def register(
    folder: Folder,
    public_key: Annotated[Path, typer.Argument(help="the user's HOME/keys/supernode.pub")],
    label: Annotated[str | None, typer.Option(help="your own name for the client; not the user's")] = None,
) -> None:
    """Let a client in."""
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder

    with control(ServerFolder(folder.expanduser().resolve())) as connection:
        node = connection.register(public_key, label)
    _print(f"registered as node {node}")


@server.command()
def unregister(
    folder: Folder, node: Annotated[int, typer.Argument(help="its node id; see emgup server nodes")]
) -> None:
    """Shut a client out."""
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder

    with control(ServerFolder(folder.expanduser().resolve())) as connection:
        connection.unregister(node)
    _print(f"node {node} is shut out")


@server.command()
def nodes(folder: Folder) -> None:
    """List the registered clients."""
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder

    with control(ServerFolder(folder.expanduser().resolve())) as connection:
        found = connection.nodes()
    for node in found:
        _print(f"{node.id}  {node.label}  {node.status}")


@server.command()
def sign(
    folder: Folder,
    release: Annotated[Path, typer.Argument(help="folder of a release that emgup pretrain made")],
    trusted: Annotated[
        Path | None, typer.Option(help="keys that may have signed it; default: those of the run that trained it")
    ] = None,
) -> None:
    """Verify a release and keep it with the server's signature."""
    from emgup_server.deployment.folder import ServerFolder
    from emgup_server.deployment.initialise import sign as sign_release

    out = sign_release(ServerFolder(folder.expanduser().resolve()), release, trusted)
    _print(f"release  {out}")


@server.command()
def run(
    folder: Folder,
    release: Annotated[Path, typer.Option(help="folder of a release signed by this server")],
    method: Annotated[list[str] | None, typer.Option(help="a shipped method; repeat for more")] = None,
    name: Annotated[str | None, typer.Option(help="of the run; default: the release's id, shortened")] = None,
    protocol: Annotated[
        str, typer.Option(help="transductive, inductive, later_sessions or streaming")
    ] = "transductive",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    clients: Annotated[int, typer.Option(min=1, help="clients to wait for")] = 1,
    wait_s: Annotated[float, typer.Option(min=0, help="how long to wait for them, seconds")] = 60.0,
    timeout_s: Annotated[float, typer.Option(min=1, help="an answer is given up after this silence, seconds")] = 3600.0,
    secure_sum: Annotated[
        bool, typer.Option("--secure-sum", help="learn the sum over the cohort, and nobody's own levels")
    ] = False,
    round_s: Annotated[
        float, typer.Option(min=1, help="how long each round of a secure sum waits, seconds; more than clients pad")
    ] = 180.0,
) -> None:
    """Ask every client that is online; the same command again asks only for what is missing."""
    from emgup_server.deployment.control import control
    from emgup_server.deployment.folder import ServerFolder
    from emgup_server.deployment.run import prepare, submit_and_follow
    from emgup_server.deployment.tables import print_outcome

    files = ServerFolder(folder.expanduser().resolve())
    patience = {"nodes": clients, "wait_s": wait_s, "reply_timeout_s": timeout_s, "round_s": round_s}
    folder_of_run, job = prepare(
        files,
        name,
        release.expanduser(),
        method or ["emgup"],
        protocol=protocol,
        seed=seed,
        secure_sum=secure_sum,
        **patience,
    )
    console = Console(soft_wrap=True)
    try:
        with control(files) as connection, console.status("asking the clients") as status:
            outcome = submit_and_follow(
                connection,
                folder_of_run,
                job,
                lambda answers: status.update(f"{sum(a.complete for a in answers)} answers"),
            )
    except KeyboardInterrupt:
        _print("stopped; the same command goes on from here")
        raise typer.Exit(130) from None
    print_outcome(outcome, Console())
    if outcome.partial:
        _print("partial: not every registered client gave every answer or is in every sum")
    if not outcome.flower.completed:
        _print(f"Flower: {outcome.flower.status} {outcome.flower.details}".strip())
    _print(f"answers  {folder_of_run.answers}")
    if outcome.sums:
        _print(f"sums     {folder_of_run.sums}")
    raise typer.Exit(0 if outcome.good else 1)


def _print(text: str) -> None:
    Console(soft_wrap=True).print(text, highlight=False, markup=False)
