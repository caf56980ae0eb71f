from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from emgup_client.web.app import make_app
from emgup_client.web.guard import HEADERS, new_token

TOKEN = "t" * 43
PORT = 8123
GOOD = f"127.0.0.1:{PORT}"


def ask(home: Path, path: str, host: str = GOOD, method: str = "GET") -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(home, TOKEN, PORT))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{GOOD}") as client:
            return await client.request(method, path, headers={"host": host})

    return asyncio.run(answer())


PATHS = ["", "page.css", "page.js", "signal.js", "sent.js", "state", "sent", "live"]


@pytest.mark.parametrize("path", PATHS)
def test_who_knows_the_token_sees_the_page_and_every_answer_is_locked_down(tmp_path: Path, path: str) -> None:
    answer = ask(tmp_path, f"/{TOKEN}/{path}")
    assert answer.status_code == 200
    assert {k: answer.headers[k] for k in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["content-security-policy"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", ["", "x" * 43, TOKEN[:-1], TOKEN + "t", "%C3%A9", ".."])
def test_without_the_token_there_is_nothing(tmp_path: Path, path: str, token: str) -> None:
    for address in (f"/{token}/{path}", f"/{path}", f"/{path}?token={TOKEN}", f"//{TOKEN}/{path}"):
        answer = ask(tmp_path, address)
        assert answer.status_code == 404
        assert TOKEN not in answer.text
        assert {k: answer.headers[k] for k in HEADERS} == HEADERS


@pytest.mark.parametrize(
    "host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", f"127.0.0.1:{PORT}.evil.example", ""]
)
def test_a_web_site_whose_name_resolves_to_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    assert ask(tmp_path, f"/{TOKEN}/state", host).status_code == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_changed(tmp_path: Path, method: str) -> None:
    assert ask(tmp_path, f"/{TOKEN}/state", method=method).status_code == 405


@pytest.mark.parametrize("path", ["../app.py", "%2e%2e/app.py", "page/../../app.py", "sent/-1", "sent/0", "sent/x"])
def test_no_other_file_is_served(tmp_path: Path, path: str) -> None:
    answer = ask(tmp_path, f"/{TOKEN}/{path}")
    assert answer.status_code == 404
    assert "def make_app" not in answer.text


def test_tokens_are_long_and_new_each_time() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


def test_the_page_holds_no_inline_script_or_style_and_no_address_elsewhere() -> None:
    from emgup_client.web.app import PAGE

    for path in PAGE.iterdir():
        text = path.read_text()
        assert "https://" not in text
        assert text.replace("http://www.w3.org/2000/svg", "").count("http://") == 0
        assert ".innerHTML" not in text
    html = (PAGE / "index.html").read_text()
    assert " style=" not in html
    assert " onclick=" not in html
    assert html.count("<script") == html.count("src=") == 1
