"""A web server on 127.0.0.1 that resumes, or not, and fails on request."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Web:
    """What the server has and how it behaves; change it between requests.

    Attributes:
        content: of the one file, whatever the path.
        tag: its ETag; empty: none.
        resumes: whether it honours Range.
        cut: bytes after which it drops the connection, request by request.
        status: other than 200: refuses everything.
        announced: Content-Length to claim instead of the true one; 0: none.
        slow_s: pause after every 64 KiB.
        ranges: the Range header of each request so far.
    """

    content: bytes = b""
    tag: str = '"1"'
    resumes: bool = True
    cut: list[int] = field(default_factory=list)
    status: int = 200
    announced: int | None = None
    slow_s: float = 0.0
    ranges: list[str] = field(default_factory=list)
    url: str = ""


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            web.ranges.append(asked)
            if web.status != 200:
                self.send_error(web.status)
                return
            whole = web.content
            known = self.headers.get("If-Range") in (None, web.tag)
            match = re.fullmatch(r"bytes=([0-9]+)-", asked) if web.resumes and known else None
            start = int(match[1]) if match else 0
            if match and start >= len(whole):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(whole)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
            if web.announced != 0:
                self.send_header("Content-Length", str(web.announced or len(whole) - start))
            if web.tag:
                self.send_header("ETag", web.tag)
            self.end_headers()
            stop = min(len(whole), start + web.cut.pop(0)) if web.cut else len(whole)
            with contextlib.suppress(OSError):
                for at in range(start, stop, 65536):
                    self.wfile.write(whole[at : min(stop, at + 65536)])
                    time.sleep(web.slow_s)
            self.close_connection = True

    return Handler


@contextlib.contextmanager
def serving(content: bytes) -> Iterator[Web]:
    web = Web(content)
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(web)) as server:
        server.daemon_threads = True
        web.url = f"http://127.0.0.1:{server.server_port}/file"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield web
        server.shutdown()
        thread.join()
