"""Where samples come from: a recording file, a TCP connection, standard input, or Lab Streaming Layer.

A source yields chunks as they arrive. Samples are (n, C), in the release's unit: a recording file says its own and is
converted, of a stream the user says it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emgup_client.live.framing import Format, checked, parser
from emgup_model.errors import DataError
from emgup_model.release import ReleaseManifest
from emgup_model.task import open_for

READ_BYTES = 64 * 1024
CONNECT_S = 5.0
LSL_WAIT_S = 0.2


@dataclass(frozen=True)
class Chunk:
    """Samples (n, C) that came together; ``begins``: they are the first of a recording or stream."""

    samples: np.ndarray
    begins: bool = False


Source = Iterator[Chunk]


def from_recording(path: Path, manifest: ReleaseManifest, realtime: bool = False) -> Source:
    """The recordings of a user's file in the order they were made, a hop at a time; labels are not opened.

    Raises:
        DataError: the file is unusable, or does not fit the release.
    """
    with open_for(path, manifest) as file:
        hop = manifest.windows.hop
        due = time.perf_counter()
        for recording in file.recordings:
            emg = file.read(recording.name)
            for i in range(0, len(emg), hop):
                piece = emg[i : i + hop]
                if realtime:
                    due += len(piece) / manifest.sampling_rate_hz
                    time.sleep(max(0.0, due - time.perf_counter()))
                yield Chunk(piece, begins=i == 0)


def from_stdin(manifest: ReleaseManifest, form: Format) -> Source:
    """Samples from standard input until it ends. Raises DataError for what is no sample."""
    return _parsed(lambda: os.read(0, READ_BYTES), manifest, form)


def from_tcp(host: str, port: int, manifest: ReleaseManifest, form: Format) -> Source:
    """Samples from a server that this program connects to, until it closes; nothing is sent.

    Raises:
        DataError: no connection, it broke, or what came is no sample.
    """
    try:
        connection = socket.create_connection((host, port), CONNECT_S)
    except OSError as e:
        raise DataError(f"cannot connect to {host}:{port} ({e}); is the source running?") from None
    with connection:
        connection.settimeout(None)
        try:
            yield from _parsed(lambda: connection.recv(READ_BYTES), manifest, form)
        except OSError as e:
            raise DataError(f"the connection to {host}:{port} broke: {e}") from None


def _parsed(read: Callable[[], bytes], manifest: ReleaseManifest, form: Format) -> Source:
    parse = parser(form, manifest.channels)
    begins = True
    while data := read():
        samples = parse.feed(data)
        if len(samples):
            yield Chunk(samples, begins)
            begins = False
    last = parse.finish()
    if len(last):
        yield Chunk(last, begins)


def from_lsl(name: str, manifest: ReleaseManifest, wait_s: float = CONNECT_S) -> Source:
    """Samples of the Lab Streaming Layer stream called ``name``, until it ends.

    Raises:
        DataError: pylsl is not installed, there is no such stream, or its channels or rate are not the release's.
    """
    try:
        import pylsl
        from pylsl.util import LostError
    except ImportError:
        raise DataError("Lab Streaming Layer needs pylsl; install it with: pip install 'emgup[lsl]'") from None
    except RuntimeError as e:  # pylsl without its C library
        raise DataError(f"pylsl finds no liblsl: {' '.join(str(e).split())[:200]}") from None
    found = pylsl.resolve_byprop("name", name, timeout=wait_s)
    if not found:
        raise DataError(f"no Lab Streaming Layer stream named '{name}' was found in {wait_s:g} s")
    _check_lsl(name, found[0].channel_count(), found[0].nominal_srate(), manifest)
    inlet = pylsl.StreamInlet(found[0], recover=False)
    begins = True
    try:
        while True:
            values, _ = inlet.pull_chunk(timeout=LSL_WAIT_S, max_samples=manifest.windows.hop)
            if len(values):
                yield Chunk(checked(np.asarray(values, np.float64)), begins)
                begins = False
    except LostError:
        return
    finally:
        inlet.close_stream()


def _check_lsl(name: str, channels: int, rate: float, manifest: ReleaseManifest) -> None:
    if channels != manifest.channels:
        raise DataError(f"stream '{name}' has {channels} channels, the model takes {manifest.channels}")
    if abs(rate - manifest.sampling_rate_hz) > 1e-3 * manifest.sampling_rate_hz:
        raise DataError(f"stream '{name}' runs at {rate:g} Hz, the model takes {manifest.sampling_rate_hz:g} Hz")
