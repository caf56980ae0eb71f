"""A relay between a client and its SuperLink: it opens TLS, keeps what it sees in clear, and can be cut."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h11


@dataclass(frozen=True)
class Passed:
    """An HTTP request as it passed: all that is needed to say it again."""

    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Relay:
    """Listens on a port of its own with the certificate given, and passes everything on to ``port``.

    One thread runs an event loop and touches every connection: a TLS connection is not for two threads.

    Attributes:
        address: HOST:PORT for clients.
        up: for each connection, the bytes that came from the client.
        down: for each connection, the bytes that went there.
    """

    def __init__(self, port: int, certificate: Path, key: Path, root: Path) -> None:
        self._port = port
        self._inside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._inside.load_cert_chain(certificate, key)
        self._outside = ssl.create_default_context(cafile=str(root))
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self._cut = False
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._connect, "127.0.0.1", 0, ssl=self._inside))
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through, and open connections break."""
        self._do(self._break(True))
        try:
            yield
        finally:
            self._do(self._break(False))

    def close(self) -> None:
        """End."""
        self._server.close()
        self._do(self._break(True))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def requests(self) -> Iterator[tuple[str, bytes]]:
        """(path, body) of every HTTP request that passed."""
        return ((request.path, request.body) for request in self.whole_requests())

    def whole_requests(self) -> Iterator[Passed]:
        """Every HTTP request that passed, connection by connection."""
        for stream in list(self.up):
            yield from _requests(bytes(stream))

    def _do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _break(self, cut: bool) -> None:
        self._cut = cut
        for writer in list(self._open) if cut else []:
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut:
            writer.transport.abort()
            return
        try:
            further = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._outside, server_hostname="127.0.0.1"
            )
        except OSError:
            writer.transport.abort()
            return
        up, down = bytearray(), bytearray()
        self.up.append(up)
        self.down.append(down)
        both = {writer, further[1]}
        self._open |= both
        await asyncio.gather(_pass(reader, further[1], up), _pass(further[0], writer, down))
        self._open -= both


async def _pass(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seen: bytearray) -> None:
    """TLS has no half-open connections: when one side ends, so does the other."""
    with contextlib.suppress(OSError):
        while data := await source.read(1 << 16):
            seen += data
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(OSError, RuntimeError):
        sink.close()


def _requests(stream: bytes) -> Iterator[Passed]:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(stream)
    head: h11.Request | None = None
    body = b""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            yield Passed(head.target.decode(), tuple((bytes(n), bytes(v)) for n, v in head.headers), body)
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            parser.start_next_cycle()
        else:
            return
