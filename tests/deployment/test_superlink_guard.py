"""The guard in front of a SuperLink: who may call what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from emgup_server.deployment.superlink import MAX_UP_BYTES, OPERATOR_HEADER, Guard

SECRET = "s" * 64


async def behind(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"passed {len(await request.body())}")


APP = Guard(Starlette(routes=[Route("/{path:path}", behind, methods=["GET", "POST"])]), SECRET)


def post(path: str, content: bytes | AsyncIterator[bytes] = b"x", client: str = "10.0.0.9", **headers: str) -> int:
    async def send() -> int:
        transport = httpx.ASGITransport(APP, client=(client, 1234), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://10.0.0.1") as session:
            answer = await session.post(path, content=content, headers=headers)
        assert (answer.text.startswith("passed")) == (answer.status_code == 200)
        return answer.status_code

    return asyncio.run(send())


@pytest.mark.parametrize(
    ("path", "client", "headers", "status"),
    [
        ("/v1/fleet/pull-messages", "10.0.0.9", {}, 200),
        ("/health", "10.0.0.9", {}, 200),
        ("/v1/control/start-run", "10.0.0.9", {OPERATOR_HEADER: SECRET}, 200),
        ("/v1/control/start-run", "127.0.0.1", {}, 401),
        ("/v1/control/register-node", "127.0.0.1", {OPERATOR_HEADER: "s" * 63}, 401),
        ("/v1/runtime/pull-messages", "127.0.0.1", {}, 200),
        ("/v1/runtime/pull-messages", "::1", {}, 200),
        ("/v1/runtime/pull-messages", "10.0.0.1", {}, 200),  # the server's own address
        ("/v1/runtime/pull-messages", "10.0.0.9", {}, 404),
        ("/docs", "127.0.0.1", {OPERATOR_HEADER: SECRET}, 404),
        ("/openapi.json", "127.0.0.1", {}, 404),
        ("/v1/fleet", "10.0.0.9", {}, 404),
        ("/v1/CONTROL/start-run", "10.0.0.9", {}, 404),
        ("/v1/fleet/../control/start-run", "10.0.0.9", {}, 401),
    ],
)
def test_who_may_call_what(path: str, client: str, headers: dict[str, str], status: int) -> None:
    assert post(path, client=client, **headers) == status


def test_a_client_sends_little() -> None:
    assert post("/v1/fleet/push-object", b"x" * MAX_UP_BYTES) == 200
    assert post("/v1/fleet/push-object", b"x" * (MAX_UP_BYTES + 1)) == 413


def test_a_client_says_how_much_it_sends() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * MAX_UP_BYTES

    assert post("/v1/fleet/push-object", chunks()) == 413
    headers = {"content-length": "10"}
    assert post("/v1/fleet/push-object", chunks(), **headers) == 500
