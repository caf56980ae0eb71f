"""Commands for the use of a personalized model: predict. Mounted below `emgup client`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HOME = Path("~/.emgup")

HomeOption = Annotated[Path, typer.Option(help="the client's private folder")]
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
    home: HomeOption = HOME,
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
    limit = rejection_threshold(mine.evaluation.get("confidence", ()), reject, threshold)
    output = new_output(mine.manifest.gestures, as_json)
    with output:
        summary = run(source, Decider(mine.model, mine.manifest, limit), output.decision)
    output.summary(summary)
