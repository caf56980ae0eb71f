"""The source that the command line names."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from emgup_client.live.framing import Format
from emgup_client.live.sources import Source, from_lsl, from_recording, from_stdin, from_tcp
from emgup_model.errors import ConfigError
from emgup_model.release import ReleaseManifest


def choose_source(
    manifest: ReleaseManifest,
    recording: Path | None,
    lsl: str | None,
    tcp: str | None,
    stdin: bool,
    form: str,
    realtime: bool,
) -> Source:
    """The one source that was named.

    Raises:
        ConfigError: none or several were, or ``form`` is no format.
    """
    named = sum((recording is not None, lsl is not None, tcp is not None, stdin))
    if named != 1:
        raise ConfigError("name one source: a recording file, --lsl NAME, --tcp HOST:PORT or --stdin")
    if recording is not None:
        return from_recording(recording, manifest, realtime)
    if lsl is not None:
        return from_lsl(lsl, manifest)
    checked: Format | None = next((f for f in get_args(Format) if f == form), None)
    if checked is None:
        raise ConfigError(f"unknown format '{form}'; choose one of {', '.join(get_args(Format))}")
    if tcp is None:
        return from_stdin(manifest, checked)
    host, port = _address(tcp)
    return from_tcp(host, port, manifest, checked)


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"'{text}' is no address; write HOST:PORT, as in 127.0.0.1:5000")
    return host.strip("[]"), int(port)
