"""Pages in a real browser: Chromium, driven by Playwright, without network."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
LOCAL = ("file:", "data:", "blob:", "about:")

Open = Callable[..., Page]


@pytest.fixture(
    scope="module"
)  # while Playwright runs, no other event loop can, be it another module's or a notebook's
def chromium() -> Iterator[Browser]:
    """The system's Chromium, else Playwright's own."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Browser) -> Iterator[Open]:
    """Opens files; in the end there must have been no error on the console and no request to a network."""
    contexts = []
    complaints: list[str] = []

    def open_file(path: Path, **options: Any) -> Page:
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(10_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: None if request.url.startswith(LOCAL) else complaints.append(request.url))
        page.goto(path.resolve().as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []


def serious_issues(page: Page) -> list[str]:
    """What axe-core finds on a page, as it stands, that is serious or critical."""
    found = Axe().run(page, options={"preload": False}).response["violations"]  # style sheets can't be read from disk
    return [
        f"{issue['id']}: {node['html']}"
        for issue in found
        if issue["impact"] in ("serious", "critical")
        for node in issue["nodes"]
    ]
