"""The built docs in Chromium, opened from disk: nothing is fetched, nothing complains, and people can use them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from docs import figures
from tests.browser import Open, chromium, open_page, serious_issues  # noqa: F401
from tests.test_docs import PAGES, REFERENCE, ROOT, site  # noqa: F401

pytestmark = pytest.mark.browser

MAIN = ("index", "quickstart", "metrics", "models", "faq", "reference/integrations")
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
CARDS = sorted((ROOT / "docs/cards").glob("*.md"))
NAMES = [str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (*PAGES, *REFERENCE, *CARDS)]
#: What people look for, and a page that has it.
SEARCHED = {
    "offline": "Working offline",
    "accuracy": "Choosing a metric",
    "correlation": "Choosing a metric",
    "benchmark": "Comparing generators",
    "image quality assessment": "aigciqa",
    "IQA": "aigciqa",
    "score": "Quick start",
    "leaderboard": "The report",
}
CLIPPED = """() => [...document.querySelectorAll("pre, .sig")].filter(
    box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent)"""


def test_pages_open_from_disk_and_clip_no_code(site: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(site / "index.html")
    for name in [*NAMES, "notebook"]:
        page.set_viewport_size(DESK)
        page.goto((site / f"{name}.html").as_uri())
        expect(page.locator("article h1").first).to_be_visible()
        assert page.evaluate(CLIPPED) == [], name
        page.set_viewport_size(PHONE)
        assert page.evaluate(CLIPPED) == [], name
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", MAIN)
def test_axe_finds_no_serious_issue(name: str, scheme: str, site: Path, open_page: Open) -> None:  # noqa: F811
    assert serious_issues(open_page(site / f"{name}.html", color_scheme=scheme)) == []


def test_dark_and_light(site: Path, open_page: Open) -> None:  # noqa: F811
    """Automatic at first; the switch goes on to the others, and diagrams follow."""
    page = open_page(site / "models.html", color_scheme="dark")
    style = "getComputedStyle(document.querySelector('{}')).{}"
    colours = f"{style.format('body', 'backgroundColor')} + {style.format('.diagram text', 'fill')}"
    dark = page.evaluate(colours)
    page.emulate_media(color_scheme="light")
    light = page.evaluate(colours)
    assert dark != light
    page.emulate_media(color_scheme="dark")
    for _ in range(3):
        if page.evaluate("document.body.dataset.theme") == "light":
            break
        page.locator(".theme-toggle:visible").first.click()
    assert page.evaluate(colours) == light


def test_the_search_finds_what_people_look_for(site: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(site / "index.html")
    for words, title in SEARCHED.items():
        page.locator("input.sidebar-search").fill(words)
        page.locator("input.sidebar-search").press("Enter")
        expect(page.locator("#search-results li a", has_text=title).first).to_be_visible()


def test_what_scrolls_sideways_is_reached_by_keyboard(site: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(site / "models.html", viewport=PHONE)
    assert page.locator(".diagram").first.get_attribute("tabindex") == "0"


def test_the_report_of_the_example_images(site: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(site / "index.html")
    page.get_by_role("link", name="the report of the example images").click()
    expect(page.locator("#status")).to_have_text("18 of 18 images")


def test_the_picture_of_the_report_is_drawn(chromium: Browser, site: Path) -> None:  # noqa: F811
    drawn = figures.report(chromium, site / "example-report/index.html")
    assert drawn.size == Image.open(figures.FOLDER / "report.webp").size
