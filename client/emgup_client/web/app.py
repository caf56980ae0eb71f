"""The page and the data it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from emgup_client.web.feed import Feed
from emgup_client.web.guard import Guard
from emgup_client.web.sent import read_sent
from emgup_client.web.state import personalization_state

PAGE = Path(__file__).parent / "page"


def make_app(home: Path, token: str, port: int, live: dict[str, Any] | None = None, feed: Feed | None = None) -> Guard:
    """The guarded application.

    Args:
        home: the client's private folder.
        token: first part of every address.
        port: that it is served at, for the Host header.
        live: what the page is told of the stream: user, release, gestures, channels; None = no stream.
        feed: the stream.
    """

    async def state(_: Request) -> Response:
        return JSONResponse({"live": live, **await run_in_threadpool(personalization_state, home)})

    async def sent(_: Request) -> Response:
        return JSONResponse((await run_in_threadpool(read_sent, home)).table())

    async def content(request: Request) -> Response:
        data = (await run_in_threadpool(read_sent, home)).content(request.path_params["seq"])
        if data is None:
            return PlainTextResponse("nothing was sent", 404)
        return Response(data, media_type="application/octet-stream")

    async def stream(request: Request) -> Response:
        if feed is None:
            return JSONResponse({"status": "none"})
        try:
            at = int(request.query_params.get("point", 0)), int(request.query_params.get("decision", 0))
        except ValueError:
            return PlainTextResponse("point and decision are whole numbers", 400)
        return JSONResponse(await run_in_threadpool(feed.since, *at))

    def file(name: str) -> Route:
        async def answer(_: Request) -> Response:
            return FileResponse(PAGE / (name or "index.html"))

        return Route(f"/{name}", answer)

    routes = [
        *(file(name) for name in ("", "page.css", "page.js", "signal.js", "sent.js")),
        Route("/state", state),
        Route("/sent", sent),
        Route("/sent/{seq:int}", content),
        Route("/live", stream),
    ]
    return Guard(Starlette(routes=routes), token, port)
