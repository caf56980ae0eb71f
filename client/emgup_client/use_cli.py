"""Commands for the use of a personalized model and the care of its vault. Mounted below `emgup client`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from emgup_client.home_option import DEFAULT_HOME, Home
from emgup_model.errors import ConfigError, RunError

UserOption = Annotated[str | None, typer.Option(help="whose model; default the vault's only user", show_default=False)]
CellOption = Annotated[str | None, typer.Option(help="beginning of a vault entry's key; default the newest")]
ReleaseOption = Annotated[str | None, typer.Option(help="beginning of a release's id; default any")]
RecordingArgument = Annotated[Path | None, typer.Argument(help="a recording file (.h5)", show_default=False)]
LslOption = Annotated[str | None, typer.Option(help="name of a Lab Streaming Layer stream")]
TcpOption = Annotated[str | None, typer.Option(help="HOST:PORT of a server that sends samples")]
StdinOption = Annotated[bool, typer.Option("--stdin", help="samples from standard input")]
FormatOption = Annotated[str, typer.Option("--format", help="of --tcp and --stdin: csv, float32 or int16")]
RealtimeOption = Annotated[bool, typer.Option("--realtime", help="play a recording at its sampling rate")]
RejectOption = Annotated[
    float, typer.Option(help="reject decisions less confident than this share of the user's own calibration windows")
]
ThresholdOption = Annotated[float | None, typer.Option(help="reject below this probability, instead of --reject")]


def predict(
    recording: RecordingArgument = None,
    home: Home = DEFAULT_HOME,
    user: UserOption = None,
    cell: CellOption = None,
    release: ReleaseOption = None,
    lsl: LslOption = None,
    tcp: TcpOption = None,
    stdin: StdinOption = False,
    form: FormatOption = "csv",
    realtime: RealtimeOption = False,
    reject: RejectOption = 0.05,
    threshold: ThresholdOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, also on a terminal")] = False,
) -> None:
    """One decision per hop, from a recording or a live stream, with the user's personalized model."""
    from emgup_client.live.choice import choose_source
    from emgup_client.live.decisions import Decider
    from emgup_client.live.output import new_output
    from emgup_client.live.predict import predict as run
    from emgup_client.live.rejection import rejection_threshold
    from emgup_client.personalized import open_personalized

    mine = open_personalized(home.expanduser(), user, cell, release)
    source = choose_source(mine.manifest, recording, lsl, tcp, stdin, form, realtime)
    limit = rejection_threshold(mine.evaluation.get("confidence_percentiles", ()), reject, threshold)
    output = new_output(mine.manifest.gestures, as_json)
    try:
        with output:
            summary = run(source, Decider(mine.model, mine.manifest, limit), output.decision)
        output.summary(summary)
    except BrokenPipeError:  # whoever read the lines has gone; nobody is left to be told
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def forget(
    home: Home = DEFAULT_HOME,
    user: UserOption = None,
    release: Annotated[
        str | None, typer.Option(help="only what was made from this release (beginning of its id)")
    ] = None,
    everybody: Annotated[bool, typer.Option("--all", help="every user of the vault")] = False,
    releases: Annotated[bool, typer.Option("--releases", help="also the cached source releases")] = False,
    key: Annotated[bool, typer.Option("--key", help="with --all: also the vault's key")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete personalized weights, checkpoints and all that was kept of their making."""
    from emgup_client.forget import forget as run

    if (user is None) == (not everybody):
        raise ConfigError("say whose: --user NAME, or --all")
    if key and (not everybody or release):
        raise ConfigError("--key goes with --all and without --release: the key opens everything that is left")
    whose = "everybody" if everybody else f"user '{user}'"
    if not yes:
        typer.confirm(f"Delete what {home} holds of {whose}? It cannot be undone.", abort=True)
    gone = run(home.expanduser(), user, release, releases=releases, key=key)
    print(f"deleted: {gone.cells} vault entries, {gone.releases} releases{', the key' if gone.key else ''}")


def encrypt(
    home: Home = DEFAULT_HOME,
    keyring: Annotated[bool, typer.Option("--keyring", help="keep the key in the system's keyring")] = False,
    key_file: Annotated[Path | None, typer.Option(help="keep the key in this file, best on another disk")] = None,
) -> None:
    """Encrypt the vault at rest (AES-256-GCM), now and from now on. Without its key the vault is lost."""
    from emgup_client.vault_cipher import KeyPlace
    from emgup_client.vault_encryption import encrypt_vault

    if keyring == (key_file is not None):
        raise ConfigError("say where the key is kept: --keyring, or --key-file FILE")
    folder = home.expanduser().resolve()
    if key_file is None:
        place = KeyPlace(kind="keyring", name=str(folder))
    else:
        place = KeyPlace(kind="file", name=str(key_file.expanduser().resolve()))
    changed = encrypt_vault(folder, place)
    print(f"the vault is encrypted ({changed} files now); its key: {place.kind} {place.name}")


def web(
    recording: RecordingArgument = None,
    home: Home = DEFAULT_HOME,
    user: UserOption = None,
    cell: CellOption = None,
    release: ReleaseOption = None,
    lsl: LslOption = None,
    tcp: TcpOption = None,
    stdin: StdinOption = False,
    form: FormatOption = "csv",
    reject: RejectOption = 0.05,
    threshold: ThresholdOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="on 127.0.0.1; 0 = a free one")] = 0,
) -> None:
    """A page for this machine only: signal and decisions, personalization, and every byte that ever left."""
    from emgup_client.live.choice import choose_source
    from emgup_client.live.rejection import rejection_threshold
    from emgup_client.personalized import open_personalized
    from emgup_client.web.serve import serve

    folder = home.expanduser()

    def announce(address: str) -> None:
        print(f"open {address}\nin a browser on this machine; the address is secret. Ctrl-C ends.", flush=True)

    if recording is None and lsl is None and tcp is None and not stdin:
        serve(folder, port, announce)
        return
    mine = open_personalized(folder, user, cell, release)
    source = choose_source(mine.manifest, recording, lsl, tcp, stdin, form, realtime=True)
    limit = rejection_threshold(mine.evaluation.get("confidence_percentiles", ()), reject, threshold)
    serve(folder, port, announce, mine, source, limit)


def export(
    onnx: Annotated[Path, typer.Option(help="the file to write")],
    home: Home = DEFAULT_HOME,
    user: UserOption = None,
    cell: CellOption = None,
    release: ReleaseOption = None,
) -> None:
    """Write the personalized model as an ONNX file, with the facts that a program needs to feed it."""
    from emgup_client.export_onnx import export_onnx
    from emgup_client.personalized import open_personalized

    export_onnx(open_personalized(home.expanduser(), user, cell, release), onnx)
    print(f"written: {onnx} (as private as the weights; keep it so)")


def personalize(
    recording: Annotated[Path, typer.Argument(help="the user's recording file (.h5)", show_default=False)],
    source: Annotated[Path, typer.Option("--release", help="folder of a source release")],
    home: Home = DEFAULT_HOME,
    trusted: Annotated[Path | None, typer.Option(help="release-signing keys to trust from now on")] = None,
    method: Annotated[str, typer.Option(help="a shipped method, or a YAML file")] = "emgup",
    protocol: Annotated[
        str, typer.Option(help="transductive, inductive, later_sessions or streaming")
    ] = "transductive",
    scenario: Annotated[
        str, typer.Option(help="balanced, rest60, subset, skew or short; other than balanced needs labels")
    ] = "balanced",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "cpu",
) -> None:
    """Adapt a release to one user's recordings into the vault, without a server; what was killed goes on."""
    from emgup_client.personalize_here import personalize_here
    from emgup_client.personalized import open_personalized
    from emgup_model.data.store import read_info
    from emgup_model.wire import Status

    folder = home.expanduser()
    reply = personalize_here(folder, recording, source, trusted, method, seed, device, protocol, scenario)
    if reply.status == Status.CRASHED:
        raise RunError(
            "three attempts took the process with them; find out why, then `emgup client forget` and try again"
        )
    kept = open_personalized(folder, read_info(recording).user).evaluation
    changed = 100 * kept["predictions_changed"]
    print(f"adapted in {kept['adapt_seconds']:.1f} s; {changed:.1f} % of the decisions changed")
    if "accuracy" in kept:
        print(
            f"accuracy {100 * kept['source_accuracy']:.1f} % before, {100 * kept['accuracy']:.1f} % after "
            f"({kept['n_windows']} test windows; labels were opened after adaptation only)"
        )
    elif kept.get("unscored"):
        print(f"no accuracy: {kept['unscored']}")
    print(f"the model is in the vault of {folder}")
