"""The report's view prompts x generators in Chromium: who wins, the orders, keys, phone."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from aigciqa.report import write_report
from aigciqa.tables.columns import columns_of
from tests.browser import Open, chromium, open_page, serious_issues  # noqa: F401
from tests.conftest import draw
from tests.test_report import row

pytestmark = pytest.mark.browser

COLUMNS = columns_of(["quality"], ["prompt", "quality_given"])
#: By prompt: scores of flux, sdxl, sd15; what people gave; None: no image. flux has two images of the third prompt.
SCORES = {
    "a cat": ((3.0, 4.0, 1.0), (2, 5, 1)),
    "a dog": ((4.0, 3.5, 3.0), (3, 4, 3)),
    "a horse": ((4.5, 2.0, None), (None, None, None)),
    "a zebra": ((3.0, 3.0, 2.0), (4, 4, 4)),
}


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four prompts by three generators, some of the images rated by people."""
    folder = tmp_path_factory.mktemp("prompts")
    rows = []
    for number, (text, (scores, ratings)) in enumerate(SCORES.items()):
        reference = folder / f"{number}.jpg"
        Image.fromarray(draw(60, 90, number)).save(reference)
        for group, score, rating in zip(("flux", "sdxl", "sd15"), scores, ratings, strict=True):
            tries = [score - 0.5, score + 0.5] if text == "a horse" and group == "flux" and score else [score]
            for seed, quality in enumerate(each for each in tries if each is not None):
                image = folder / group / str(seed) / f"p{number + 8}.jpg"
                image.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(80, 80, number)).save(image)
                cells = {"group": group, "reference": str(reference)}
                rows.append({**row(str(image), quality, **cells), "prompt": text, "quality_given": rating})
    return write_report(folder / "report.html", rows, COLUMNS)


@pytest.fixture
def page(report: Path, open_page: Open) -> Page:  # noqa: F811
    page = open_page(report)
    expect(page.locator("#grid-status")).to_have_text("4 of 4 prompts, 3 groups")
    return page


def prompts(page: Page) -> list[str]:
    return page.locator(".grid-prompt .words").all_inner_texts()


def lines(page: Page, selector: str) -> list[list[str]]:
    return [text.split("\n") for text in page.locator(selector).all_inner_texts()]


def focused(page: Page) -> str:
    return str(page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText"))


def test_winners_people_and_orders(page: Page) -> None:
    assert page.locator("main section h2").first.inner_text() == "Prompts × generators"
    assert lines(page, ".grid-title") == [
        ["Prompt"],
        ["flux", "3.800", "2 wins, 1 tie"],
        ["sdxl", "3.125", "1 win, 1 tie"],
        ["sd15", "2.000", "0 wins"],
        ["People’s best", "2 of 3 agree"],
    ]
    assert prompts(page) == ["a cat", "a horse", "a dog", "a zebra"]
    tiles = [line[:4] for line in lines(page, ".grid-row[aria-rowindex='2'] .tile")]
    assert tiles == [
        ["3.000", "−1.000", "people 2.000"],
        ["Best", "4.000", "+1.000", "people 5.000"],
        ["1.000", "−3.000", "people 1.000"],
    ]
    assert lines(page, ".grid-row[aria-rowindex='3'] .grid-cell") == [
        ["Best", "4.500", "+2.500", "mean of 2"],
        ["2.000", "−2.500"],
        ["no image"],
    ]
    assert page.locator(".grid-row[aria-rowindex='3'] .tile").first.locator("img").count() == 2
    assert lines(page, ".grid-people") == [
        ["sdxl", "5.000", "✓ agrees"],
        ["not rated"],
        ["sdxl", "4.000", "≠ differs"],
        ["flux", "sdxl", "sd15", "4.000", "✓ agrees"],
    ]
    page.select_option("#grid-sort", "winner")
    assert prompts(page) == ["a horse", "a dog", "a zebra", "a cat"]
    assert page.locator(".badge").all_inner_texts() == ["Best", "Best", "Tied best", "Tied best", "Best"]
    page.select_option("#grid-sort", "name")
    assert prompts(page) == ["a cat", "a dog", "a horse", "a zebra"]
    page.fill("#grid-search", "HORSE")
    assert prompts(page) == ["a horse"]
    page.fill("#grid-search", "")
    page.select_option("#grid-column", label="people · quality")
    assert lines(page, ".grid-title")[1] == ["sdxl", "4.333", "2 wins, 1 tie"]
    assert page.locator(".grid-people").count() == 0
    best = page.locator("#ends .ends").first.get_by_label("Best of sdxl").locator("b").all_text_contents()
    assert best == ["5.000", "4.000"]


def test_keys_move_enlarge_and_come_back(page: Page) -> None:
    page.locator("#grid-search").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "flux, 3.000, people 2.000: a cat"
    for key, expected in (
        ("ArrowRight", "sdxl, 4.000, best, people 5.000: a cat"),
        ("ArrowDown", "sdxl, 2.000: a horse"),
        ("ArrowRight", "no image"),
        ("ArrowRight", "no image"),
        ("Control+End", "sd15, 2.000, people 4.000: a zebra"),
        ("ArrowUp", "sd15, 3.000, people 3.000: a dog"),
        ("Home", "flux, 4.000, best, people 3.000: a dog"),
        ("Control+Home", "flux, 3.000, people 2.000: a cat"),
    ):
        page.keyboard.press(key)
        assert focused(page) == expected
        expect(page.locator(":focus")).to_be_in_viewport(ratio=0.9)
    assert page.locator("#grid [tabindex='0']").count() == 1
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    viewer = page.locator("#viewer")
    expect(viewer).to_be_visible()
    assert page.locator("#viewer-name").inner_text() == "1/p10.jpg"  # the better of two
    expect(page.locator("#viewer-where")).to_have_text("4 of 12")
    assert "a horse" in page.locator("#viewer-metadata").inner_text()
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-name").inner_text() == "flux/0/p10.jpg"
    page.keyboard.press("ArrowRight")
    assert page.locator("#viewer-name").inner_text() == "sdxl/0/p10.jpg"
    page.keyboard.press("Escape")
    expect(viewer).not_to_be_visible()
    assert focused(page) == "sdxl, 2.000: a horse"
    page.locator(".grid-row[aria-rowindex='3'] img[data-place='1']").click()
    assert page.locator("#viewer-name").inner_text() == "flux/0/p10.jpg"
    page.keyboard.press("Escape")
    page.locator("#ends button").first.click()
    assert page.locator("#viewer-name").inner_text() == "1/p10.jpg"
    page.keyboard.press("Escape")
    expect(page.locator("#ends button").first).to_be_focused()


def test_the_gallerys_orders_say_what_they_do(page: Page) -> None:
    orders = page.locator("#direction option")

    def names() -> list[str]:
        page.locator("#cards").scroll_into_view_if_needed()
        return page.locator(".card .path").all_inner_texts()

    assert orders.all_inner_texts() == ["Highest first", "Lowest first"]
    page.select_option("#sort", label="File name")
    assert orders.all_inner_texts() == ["Z to A", "A to Z"]
    assert page.locator("#direction").input_value() == "up"
    assert names()[:3] == ["flux/0/p8.jpg", "sdxl/0/p8.jpg", "sd15/0/p8.jpg"]
    page.select_option("#direction", "down")
    assert names()[0].endswith("p11.jpg")
    page.select_option("#sort", label="Order of the run")
    assert orders.all_inner_texts() == ["Last to first", "First to last"]
    page.select_option("#sort", label="Prompt")
    assert names()[0].endswith("p11.jpg")  # a zebra
    page.select_option("#sort", label="nr-lite · quality")
    assert page.locator("#direction").input_value() == "down"
    assert names()[0] == "1/p10.jpg"


def test_phone_and_accessibility(report: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(report, viewport={"width": 390, "height": 844}, color_scheme="dark")
    expect(page.locator("#grid .tile").first).to_be_visible()
    assert serious_issues(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    prompt, tile = (page.locator(name).first.bounding_box() for name in (".grid-prompt", ".tile"))
    assert prompt is not None
    assert tile is not None
    assert tile["y"] >= prompt["y"] + prompt["height"]  # the prompt stands above its images
    page.locator("#grid").evaluate("grid => { grid.scrollLeft = 200; }")
    expect(page.locator(".grid-prompt").first).to_be_in_viewport(ratio=0.9)


def test_the_gallery_shows_and_finds_prompts(tmp_path: Path, open_page: Open) -> None:  # noqa: F811
    columns = columns_of(["quality"], ["prompt", "seed", "model"])
    long = "an astronaut riding a horse, <b>volumetric</b> light, " * 80
    rows = [
        {**row(f"{number}.png", 1.0), "prompt": prompt, "seed": str(number), "model": "flux"}
        for number, prompt in enumerate(["a cat", long, None])
    ]
    page = open_page(write_report(tmp_path / "report.html", rows, columns))
    page.locator("#cards").scroll_into_view_if_needed()
    expect(page.locator(".card .prompt")).to_have_count(2)
    page.fill("#search", "volumetric")
    expect(page.locator(".card")).to_have_count(1)
    box, text = (page.locator(each).bounding_box() for each in (".card", ".card .prompt"))
    assert box is not None
    assert text is not None
    assert text["height"] < 40  # two lines
    assert text["y"] + text["height"] <= box["y"] + box["height"]
    page.locator(".card button").click()
    said = page.locator("#viewer-metadata").inner_text()
    assert "<b>volumetric</b> light" in said
    assert said.splitlines()[-4:] == ["Seed", "1", "Model", "flux"]
    assert "…" in said
