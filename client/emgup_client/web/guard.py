"""Who may see the page: programs on this machine that know the token of this start.

The port is bound to 127.0.0.1. A web site in the same browser can still send requests there, by a name of its own that
resolves to 127.0.0.1 (DNS rebinding): the Host header is checked. Other users of the machine can reach the port: the
token, part of every address, is compared in constant time. The page loads nothing from elsewhere and runs no inline
script.
"""

from __future__ import annotations

import hmac
import secrets

from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """256 random bits, fit for an address."""
    return secrets.token_urlsafe(32)


class Guard:
    """Lets GET requests for ``/TOKEN/…`` at ``127.0.0.1:port`` through to ``app``, as ``/…``."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app = app
        self._token = token.encode()
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = self._refusal(scope)
        if answer is None:
            scope = {**scope, "path": "/" + str(scope["path"]).split("/", 2)[2], "root_path": ""}
        await (answer or self._app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope) -> ASGIApp | None:
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return PlainTextResponse("this page has another address", 403)
        parts = str(scope["path"]).split("/", 2)
        token = parts[1].encode("utf-8", "replace") if len(parts) == 3 else b""
        if not hmac.compare_digest(token, self._token):
            return PlainTextResponse("use the address that `emgup client web` printed", 404)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("nothing can be changed here", 405)
        return None


def _with_headers(send: Send) -> Send:
    async def wrapped(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return wrapped
