"""The source that the command line names."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np

from emgup_client.live.framing import Format
from emgup_client.live.sources import Source, from_lsl, from_recording, from_stdin, from_tcp
from emgup_model.data.matching import unit_gain
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
    unit: str | None = None,
) -> Source:
    """The one source that was named.

    ``unit`` is that of a stream's samples; None = the release's.

    Raises:
        ConfigError: none or several were, ``form`` is no format, or ``unit`` is given for a recording or for a release
            that says none.
        DataError: ``unit`` cannot be converted to the release's.
    """
    named = sum((recording is not None, lsl is not None, tcp is not None, stdin))
    if named != 1:
        raise ConfigError("name one source: a recording file, --lsl NAME, --tcp HOST:PORT or --stdin")
    if recording is not None:
        if unit is not None:
            raise ConfigError("--unit is for streams; a recording file says its unit itself")
        return from_recording(recording, manifest, realtime)
    return _converted(_stream(manifest, lsl, tcp, form), manifest, unit)


def _converted(stream: Source, manifest: ReleaseManifest, unit: str | None) -> Source:
    if unit is None:
        return stream
    if manifest.unit is None:
        raise ConfigError("this release says no unit, so --unit cannot be converted to it; leave it out")
    gain = unit_gain(unit, manifest.unit)
    return (replace(chunk, samples=chunk.samples.astype(np.float64) * gain) for chunk in stream)


def _stream(manifest: ReleaseManifest, lsl: str | None, tcp: str | None, form: str) -> Source:
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
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError(f"'{text}' is no address; write HOST:PORT, as in 127.0.0.1:5000")
    return host.strip("[]"), int(port)
