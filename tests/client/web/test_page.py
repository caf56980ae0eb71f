"""The page as a browser shows it: the real command, the real Chromium."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client.homes import Home, make_home
from tests.client.web.audit import audit_lines, write_audit

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
REPLY = b"\x0a\x05reply the exact bytes"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = make_home(tmp_path_factory.mktemp("page"))
    home.personalize("u0")
    write_audit(home.folder, audit_lines(("register", b"key"), ("train reply", REPLY), ("exception", None)))
    return home


@pytest.fixture(scope="module")
def address(home: Home) -> Iterator[str]:
    command = [sys.executable, "-m", "emgup_simulation.cli", "client", "web", "--home", str(home.folder)]
    server = subprocess.Popen(
        [*command, str(home.recording())],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert server.stdout is not None
    match = re.match(r"open (http://127\.0\.0\.1:\d+/[\w-]{43}/)$", server.stdout.readline().strip())
    assert match is not None
    yield match[1]
    server.terminate()
    assert server.wait(20) is not None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="the page's test needs playwright")
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def test_the_server_listens_on_this_machine_only_and_asks_for_the_token(address: str) -> None:
    base = address.rsplit("/", 2)[0]
    assert httpx.get(address).status_code == 200
    assert httpx.get(base + "/").status_code == 404
    assert httpx.get(base + "/state").status_code == 404
    assert httpx.get(address + "state", headers={"host": "evil.example"}).status_code == 403
    assert "server" not in httpx.get(address).headers


@pytest.mark.slow
@pytest.mark.parametrize("width", [1300, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_shows_everything(
    home: Home, address: str, browser: Any, width: int, scheme: str, tmp_path: Path
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    troubles: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(address)
    page.locator(".track rect").first.wait_for(state="attached")
    assert page.inner_text("#totals") == f"{3 + len(REPLY)} bytes in 2 messages; 1 refused"
    assert page.inner_text("#chain") == "log intact"
    assert "u0" in page.inner_text("#personal")
    assert page.locator("#personal tr").count() == 2
    assert page.locator("#bars .bar").count() == 3
    assert page.inner_text("#gesture") in ("rest", "fist", "open", "not sure")
    page.locator("#sent summary").nth(1).click()
    page.wait_for_selector("#sent pre")
    dump = page.inner_text("#sent pre")
    shown = b"".join(
        bytes.fromhex(line[8 : 8 + 3 * (16 if width > 640 else 8)].replace(" ", "")) for line in dump.splitlines()
    )
    assert shown == REPLY
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    drawn = page.evaluate(
        "(() => { const c = document.getElementById('signal'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; return d.some(v => v > 0); })()"
    )
    assert drawn
    picture = page.screenshot(path=tmp_path / "page.png", full_page=True)
    assert len(picture) > 10_000
    assert all(url.startswith(address) or url.startswith("data:") for url in requests)
    assert troubles == []
    context.close()


@pytest.mark.slow
def test_without_a_source_a_log_or_a_model_the_page_says_so(tmp_path: Path, browser: Any) -> None:
    command = [sys.executable, "-m", "emgup_simulation.cli", "client", "web", "--home", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        page = browser.new_page()
        page.goto(server.stdout.readline().split()[1])
        page.wait_for_selector("#no-live")
        assert page.inner_text("#totals") == "Nothing has left this machine."
        assert page.inner_text("#models") == "Nothing is personalized yet."
        assert page.inner_text("#status") == "no source"
        (tmp_path / "audit.jsonl").write_text("changed\n")
        page.locator("#chain", has_text="log damaged").wait_for()
        page.close()
    finally:
        server.terminate()
        server.wait(20)
