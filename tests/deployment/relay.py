"""A relay between a client and its SuperLink: it opens TLS, keeps what it sees in clear, and can be cut."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import h11


class Relay:
    """Listens on a port of its own with the certificate given, and passes everything on to ``port``.

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
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.up: list[bytearray] = []
        self.down: list[bytearray] = []
        self._cut = threading.Event()
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def cut(self) -> Iterator[None]:
        """Nothing gets through, and open connections break."""
        self._cut.set()
        self._break()
        try:
            yield
        finally:
            self._cut.clear()

    def close(self) -> None:
        """End."""
        self._cut.set()
        self._listening.close()
        self._break()

    def requests(self) -> Iterator[tuple[str, bytes]]:
        """(path, body) of every HTTP request that passed."""
        for stream in list(self.up):
            yield from _requests(bytes(stream))

    def _break(self) -> None:
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(plain,), daemon=True).start()

    def _connect(self, plain: socket.socket) -> None:
        if self._cut.is_set():
            plain.close()
            return
        try:
            client = self._inside.wrap_socket(plain, server_side=True)
            raw = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            server = self._outside.wrap_socket(raw, server_hostname="127.0.0.1")
            server.settimeout(None)
        except OSError:
            plain.close()
            return
        self._open |= {client, server}
        up, down = bytearray(), bytearray()
        self.up.append(up)
        self.down.append(down)
        other = threading.Thread(target=_pass, args=(server, client, down), daemon=True)
        other.start()
        _pass(client, server, up)
        other.join()
        self._open -= {client, server}
        for one in (client, server):
            one.close()


def _pass(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            seen += data
            sink.sendall(data)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


def _requests(stream: bytes) -> Iterator[tuple[str, bytes]]:
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(stream)
    path, body = "", b""
    while True:
        event = parser.next_event()
        if isinstance(event, h11.Request):
            path, body = event.target.decode(), b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            yield path, body
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            parser.start_next_cycle()
        else:
            return
