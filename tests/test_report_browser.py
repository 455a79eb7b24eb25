"""The report in Chromium, opened from disk: what works, what is shown, and that nothing is fetched or complains."""

from __future__ import annotations

import csv
import functools
import io
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Request, expect

from aigciqa.report import thumbnails, write_report
from tests.browser import Open, chromium, open_page, serious_issues  # noqa: F401
from tests.conftest import draw
from tests.test_report import COLUMNS, HOSTILE, row

pytestmark = pytest.mark.browser

HOSTILE_METRIC = "my  <i>metric</i> \"'&"
GROUPS = ("flux", "sdxl", "sd15")
COUNT = 120


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 images of three generators by two metrics, with image prompts, maps, and two failures."""
    folder = tmp_path_factory.mktemp("report")
    for index in range(8):
        Image.fromarray(draw(60, 90, index)).save(folder / f"prompt{index}.jpg")
        Image.fromarray(draw(300, 450, index)).save(folder / f"{index}.jpg")
    rng = np.random.default_rng(0)
    rows, maps = [], []
    for number in range(COUNT):
        image, reference = str(folder / f"{number % 8}.jpg"), str(folder / f"prompt{number % 8}.jpg")
        if number >= 8:
            image = str(folder / f"{number}.jpg")
            Path(image).hardlink_to(folder / f"{number % 8}.jpg")
        cells = {"group": GROUPS[number % 3], "reference": reference}
        quality = 1 + number / 40 + 0.001 * (number % 3)
        rows += [row(image, quality, authenticity=4 - quality / 2, **cells)]
        rows += [row(image, float(rng.uniform(0, 5)), metric="fr-lite", **cells)] if number % 2 else []
        maps += [np.linspace(0, 5, 16).reshape(4, 4)] * (2 if number % 2 else 1)
    rows += [row("broken.png", group="flux"), row("gone.png", group="sdxl")]
    return write_report(folder / "report.html", rows, COLUMNS, maps=[*maps, None, None])


@pytest.fixture
def page(report: Path, open_page: Open) -> Page:  # noqa: F811
    page = open_page(report)
    expect(page.locator("#status")).to_have_text("120 of 120 images")
    return page


def shown(page: Page, selector: str = ".card .score") -> list[str]:
    """Text of the cards in view, in the document's order."""
    return page.locator(selector).all_inner_texts()


def scores(page: Page) -> list[float]:
    return [float(text) for text in shown(page) if text != "–"]


def drag(page: Page, slider: str, value: float) -> None:
    page.locator(slider).evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }", value
    )


def test_sorting(page: Page) -> None:
    assert scores(page)[0] == 3.977
    assert scores(page) == sorted(scores(page), reverse=True)
    page.select_option("#direction", "up")
    assert scores(page)[0] == 1.0
    assert scores(page) == sorted(scores(page))
    page.select_option("#sort", label="nr-lite · authenticity")
    assert scores(page)[0] == pytest.approx(4 - 3.977 / 2, abs=1e-3)
    page.select_option("#sort", label="File name")
    assert shown(page, ".card bdi:first-child")[:3] == ["0.jpg", "1.jpg", "2.jpg"]
    page.select_option("#sort", label="Order of the run")
    assert shown(page, ".card bdi:first-child")[:3] == ["0.jpg", "1.jpg", "2.jpg"]
    page.select_option("#sort", label="fr-lite · quality")
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator(".card .score").last).to_have_text("–")  # without this score: last


def test_filters_and_search(page: Page) -> None:
    page.select_option("#group", label="sdxl")
    expect(page.locator("#status")).to_have_text("40 of 120 images")
    assert set(shown(page, ".card .group")) == {"sdxl"}
    page.select_option("#metric", label="fr-lite")
    expect(page.locator("#status")).to_have_text("20 of 120 images")
    assert page.locator("#sort option:checked").inner_text() == "fr-lite · quality"
    page.fill("#search", "PROMPT3 .jpg")
    expect(page.locator("#status")).to_have_text("5 of 120 images")
    page.fill("#search", "nothing of the kind")
    expect(page.locator("#status")).to_have_text("0 of 120 images")
    expect(page.locator("#export")).to_be_disabled()
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#status")).to_have_text("120 of 120 images")


def test_threshold(page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 900})
    tops = "fields => new Set(fields.map(field => field.getBoundingClientRect().top)).size"
    assert page.locator("#controls .field").evaluate_all(tops) == 1  # all controls in one line, none of two
    assert page.locator(".field.range span").evaluate_all("spans => spans.every(each => each.clientHeight < 25)")
    drag(page, "#low", 3.5)
    assert page.locator("#low-text").inner_text() == "3.500"
    expect(page.locator("#status")).to_have_text("20 of 120 images")
    drag(page, "#high", 3.7)
    expect(page.locator("#status")).to_have_text("9 of 120 images")
    assert all(3.5 <= score <= 3.7 for score in scores(page))
    page.select_option("#sort", label="fr-lite · quality")
    expect(page.locator("#status")).to_have_text("120 of 120 images")
    page.locator("#low").focus()
    page.keyboard.press("ArrowRight")
    assert "of 120 images" in page.locator("#status").inner_text()
    assert page.locator("#status").inner_text() != "120 of 120 images"


def test_only_cards_in_view_are_in_the_document(page: Page) -> None:
    page.locator("#gallery").scroll_into_view_if_needed()
    assert 0 < page.locator(".card").count() < 60
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    expect(page.locator(".card[data-position='119']")).to_be_in_viewport()
    assert page.locator(".card[data-position='0']").count() == 0
    assert page.locator(".card").count() < 60
    images = page.locator(".card[data-position='119'] img")
    assert images.evaluate_all("images => images.map(image => image.naturalWidth)") == [256, 90]


def test_enlarging_with_mouse_and_keys(page: Page) -> None:
    viewer = page.locator("#viewer")
    page.locator(".card button").nth(1).click()
    expect(viewer).to_be_visible()
    expect(page.locator("#viewer-where")).to_have_text("2 of 120")
    assert page.locator("#viewer-name").inner_text() == "118.jpg"
    assert page.locator("#viewer-scores tr").all_inner_texts() == [
        "nr-lite · quality\t3.951",
        "nr-lite · authenticity\t2.024",
    ]
    assert "prompt6.jpg" in page.locator("#viewer-metadata").inner_text()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#viewer-where")).to_have_text("4 of 120")
    page.keyboard.press("ArrowLeft")
    page.get_by_role("button", name="Previous image").click()
    page.get_by_role("button", name="Previous image").click()
    expect(page.get_by_role("button", name="Previous image")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(viewer).not_to_be_visible()
    assert page.evaluate("document.activeElement.closest('.card').dataset.position") == "0"
    page.keyboard.press("Enter")
    expect(viewer).to_be_visible()
    page.get_by_role("button", name="Close").click()
    expect(viewer).not_to_be_visible()


def test_arrow_keys_move_through_the_gallery(page: Page) -> None:
    page.locator(".card button").first.focus()

    def position() -> int:
        return int(page.evaluate("document.activeElement.closest('.card').dataset.position"))

    across = page.evaluate("new Set([...document.querySelectorAll('.card')].map(card => card.style.left)).size")
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + across),
        ("ArrowLeft", across),
        ("ArrowUp", 0),
        ("End", 119),
        ("ArrowRight", 119),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert position() == expected
        expect(page.locator(f".card[data-position='{expected}']")).to_be_in_viewport(ratio=0.9)
    assert page.locator(".card button[tabindex='0']").count() == 1


def test_quality_map(page: Page) -> None:
    page.locator(".card button").first.click()
    expect(page.locator("#overlay")).to_be_hidden()
    page.get_by_label("Quality map").check()
    expect(page.locator("#overlay")).to_be_visible()
    corners = page.locator("#overlay").evaluate(
        "canvas => [0, 3].map(at => [...canvas.getContext('2d').getImageData(at, at, 1, 1).data])"
    )
    assert corners[0][3] == 217  # far below the image's own score
    assert corners[1][3] == 0  # above it: the image as it is
    expect(page.locator("#map-low")).to_have_text("≤ 0.000")
    expect(page.locator("#map-high")).to_have_text("5.000")
    ramp = page.locator("#ramp").evaluate("canvas => [...canvas.getContext('2d').getImageData(0, 0, 256, 1).data]")
    assert ramp[3] == 217
    assert ramp[-1] == 0
    expect(page.locator("#map-note")).to_contain_text("below this image’s own score, ")
    image, overlay = (page.locator(name).bounding_box() for name in ("#viewer-image", "#overlay"))
    assert image == overlay  # lite sees all of the image
    page.keyboard.press("m")
    expect(page.locator("#overlay")).to_be_hidden()
    page.keyboard.press("m")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#overlay")).to_be_visible()
    page.select_option("#map-metric", "fr-lite")
    expect(page.locator("#map-note")).to_have_text("No map of this image by this metric.")


def note(page: Page, image: str = "#viewer-image") -> Locator:
    """What is said of an enlarged image."""
    return page.locator("figure", has=page.locator(image)).get_by_role("status")


def test_enlarging_shows_the_file(page: Page) -> None:
    page.locator(".card button").first.click()
    expect(note(page)).to_have_text("· 450 × 300 pixels")
    expect(note(page, "#viewer-reference")).to_have_text("· 90 × 60 pixels")
    assert page.locator("#viewer-image").evaluate("image => image.naturalWidth") == 450
    for path, url in (
        ("/a b/c#1.png", "file:///a%20b/c%231.png"),
        ("C:\\a b\\c.png", "file:///C:/a%20b/c.png"),
        ("c:/x/é.png", "file:///c:/x/%C3%A9.png"),
        ("//host/share/x.png", None),
        ("\\\\host\\share\\x.png", None),
        ("/\\host\\share\\x.png", None),
        ("s3://bucket/x.png", None),
        ("https://host/x.png", None),
        ("gen/x.png", None),
        ("/caf\udce9.png", None),
    ):
        assert page.evaluate(f"fileUrl({json.dumps(path)})") == url, path


def test_a_file_out_of_reach_leaves_the_thumbnail(
    chromium: Browser,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From disk and from a server: the file where it was; where its whole path leads; else the thumbnail, as it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("beside.png", "gone.png", "whole.png", "evil.png"):
        Image.fromarray(draw(400, 600)).save(name)
    rows = [row(name, 1.0) for name in ("beside.png", "gone.png", str(tmp_path / "whole.png"), "evil.png")]
    page_path = write_report("report.html", rows, COLUMNS)
    Path("gone.png").unlink()
    text = page_path.read_text()
    # A stranger's page: what its data says leads nowhere but to files, and its policy lets nothing else through.
    page_path.write_text(text.replace('"evil.png"]', '"https://127.0.0.1:1/evil.png"]'))
    Path("moved").mkdir()
    Path("moved/report.html").write_text(page_path.read_text())
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        served = f"http://127.0.0.1:{server.server_port}/"
        full, thumbnail = "· 600 × 400 pixels", "· only the thumbnail: this page can’t load the file"
        for url, expected in (
            (page_path.resolve().as_uri(), [full, thumbnail, full, thumbnail]),
            (Path("moved/report.html").resolve().as_uri(), [thumbnail, thumbnail, full, thumbnail]),
            (f"{served}report.html", [full, thumbnail, full, thumbnail]),
            (f"{served}moved/report.html", [thumbnail] * 4),
        ):
            page = chromium.new_page()
            sent: list[Request] = []
            page.on("request", lambda request, sent=sent: sent.append(request))
            page.goto(url)
            page.select_option("#sort", "order")
            page.select_option("#direction", "up")
            page.locator(".card button").first.click()
            for text in expected:
                expect(note(page)).to_have_text(text)
                small = page.locator("#frame").evaluate("frame => frame.clientWidth <= 256")
                assert small == (text == thumbnail)
                page.keyboard.press("ArrowRight")
            allowed = ("data:", served) if url.startswith("http:") else ("data:", "file:///")
            beyond = [(each.url, each.failure) for each in sent if not each.url.startswith(allowed)]
            assert beyond == [("https://127.0.0.1:1/evil.png", "csp")]  # the policy stopped it
            page.close()
        server.shutdown()


def test_dark_and_light(report: Path, open_page: Open) -> None:  # noqa: F811
    def background(page: Page) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return int(colour.removeprefix("rgb(").split(",")[0])

    page = open_page(report, color_scheme="light")
    button = page.get_by_role("button", name="Dark")
    expect(button).to_have_attribute("aria-pressed", "false")
    assert background(page) > 200
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert background(page) < 50
    button.click()
    assert background(page) > 200
    page = open_page(report, color_scheme="dark")
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    assert background(page) < 50


def test_export(page: Page) -> None:
    page.fill("#search", "prompt3")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export list").click()
    assert download.value.suggested_filename == "selection.csv"
    lines = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    assert list(lines[0]) == ["image"]
    assert len(lines) == 15
    assert lines[0]["image"].endswith("115.jpg")  # the best of them


def test_leaderboard_and_worst_images(page: Page) -> None:
    panels = page.locator("[data-leaderboard]")
    expect(panels.nth(0)).to_be_visible()
    page.select_option("#leaderboard-column", label="fr-lite · quality")
    expect(panels.nth(0)).to_be_hidden()
    expect(panels.nth(2)).to_contain_text("fr-lite · quality")
    page.get_by_role("button", name="Show the lowest").first.click()
    expect(page.locator("#viewer-name")).to_have_text("2.jpg")
    expect(page.locator("#viewer-where")).to_have_text("1 of 1")


def test_failures_are_listed(page: Page) -> None:
    lines = page.locator(".failures tbody tr").all_inner_texts()
    assert lines == ["broken.png\tflux\tnr-lite\tbroken.png: broken", "gone.png\tsdxl\tnr-lite\tgone.png: broken"]


def test_distribution(page: Page) -> None:
    strips = page.locator("[data-distribution='0'] .strip")
    assert strips.count() == 4  # three groups and all
    dots = "strips => strips.map(strip => strip.querySelector('path').getAttribute('d').split('M').length - 1)"
    assert strips.evaluate_all(dots) == [40, 40, 40, 120]
    page.select_option("#distribution-column", label="fr-lite · quality")
    expect(strips.first).to_be_hidden()
    assert page.locator("[data-distribution='2'] .strip").evaluate_all(dots) == [20, 20, 20, 60]
    page.select_option("#distribution-column", label="nr-lite · quality")
    strips.nth(3).scroll_into_view_if_needed()
    # The best image's score is 3.977 of an axis from 1 to 3.977, with 2% of room at both ends.
    box = strips.nth(3).bounding_box()
    assert box is not None
    x = box["x"] + box["width"] * 1.02 / 1.04
    for step in range(12):  # its dot is somewhere on this line
        page.mouse.move(x, box["y"] + box["height"] * (0.1 + 0.07 * step))
        if "119.jpg" in (strips.nth(3).get_attribute("title") or ""):
            break
    assert strips.nth(3).get_attribute("title") == "119.jpg: 3.977"
    page.mouse.click(x, box["y"] + box["height"] * (0.1 + 0.07 * step))
    expect(page.locator("#viewer-name")).to_have_text("119.jpg")


def test_charts(page: Page) -> None:
    expect(page.locator("#scatter-chart canvas").first).to_be_attached()
    expect(page.locator("#scatter-note")).to_contain_text("120 images with both scores")
    before = page.locator("#scatter-chart").screenshot()
    page.get_by_role("button", name="sd15", exact=True).click()
    page.wait_for_timeout(300)
    assert page.locator("#scatter-chart").screenshot() != before
    page.select_option("#scatter-y", label="fr-lite · quality")
    expect(page.locator("#scatter-note")).to_contain_text("60 images with both scores")


def test_charts_drawn_in_quick_succession_leave_one(page: Page) -> None:
    count = "() => [Bokeh.documents.length, document.querySelectorAll('#scatter-chart > *').length]"
    expect(page.locator("#scatter-chart canvas").first).to_be_attached()
    before = page.evaluate(count)
    page.evaluate("for (let n = 0; n < 5; n++) document.querySelector('#legend button').click()")
    page.wait_for_timeout(500)
    assert page.evaluate(count) == before
    expect(page.locator("#scatter-chart canvas").first).to_be_attached()


def test_a_point_of_the_scatter_plot_opens_its_image(report: Path, open_page: Open) -> None:  # noqa: F811
    page = open_page(report)
    page.select_option("#scatter-x", label="nr-lite · quality")
    page.select_option("#scatter-y", label="nr-lite · quality")
    expect(page.locator("#scatter-chart canvas").first).to_be_attached()
    page.wait_for_timeout(300)
    page.locator("#scatter-chart").scroll_into_view_if_needed()
    box = page.locator("#scatter-chart").bounding_box()
    assert box is not None
    for step in range(60):  # along the diagonal, where the points are
        share = 0.1 + 0.8 * step / 60
        page.mouse.click(box["x"] + share * box["width"], box["y"] + (0.95 - share) * box["height"])
        if page.locator("#viewer").is_visible():
            break
    expect(page.locator("#viewer-where")).to_have_text("1 of 1")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_accessibility(report: Path, open_page: Open, scheme: Any, width: int) -> None:  # noqa: F811
    page = open_page(report, color_scheme=scheme, viewport={"width": width, "height": 900})
    expect(page.locator("#scatter-chart canvas").first).to_be_attached()
    for details in page.locator("details:visible").all():
        details.locator("summary").click()
    assert serious_issues(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".card button").first.click()
    page.get_by_label("Quality map").check()
    assert serious_issues(page) == []


def test_printing_shows_all_panels_and_the_best_and_the_worst(page: Page) -> None:
    page.emulate_media(media="print")
    for section in ("leaderboard", "distribution"):
        assert all(panel.is_visible() for panel in page.locator(f"[data-{section}]").all())
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".strip path").count() == 3 * 4
    expect(page.locator("#print-note")).to_have_text(
        "48 of 120 images: the 24 highest and the 24 lowest nr-lite · quality."
    )
    titles = ["The 24 highest nr-lite · quality", "The 24 lowest nr-lite · quality"]
    assert page.locator(".cards .end").all_inner_texts() == titles
    assert scores(page) == sorted(scores(page), reverse=True)
    assert (len(scores(page)), scores(page)[0], scores(page)[-1]) == (48, 3.977, 1.0)
    assert page.locator("#controls").is_hidden()
    breaks = "elements => elements.map(element => getComputedStyle(element).breakInside)"
    assert set(page.locator("table:visible").evaluate_all(breaks)) == {"avoid"}
    assert page.locator(".scroll").evaluate_all("all => all.every(each => each.scrollWidth <= each.clientWidth + 1)")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".card").count() < 48
    expect(page.locator("#print-note")).to_be_hidden()
    page.emulate_media(media="screen")
    # By a score that half of them lack: the lowest are those that have it.
    page.select_option("#sort", label="fr-lite · quality")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert len(scores(page)) == 48
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.select_option("#sort", label="File name")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("#print-note")).to_have_text("48 of 120 images: the 24 first and the 24 last.")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    page.fill("#search", "prompt3")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    expect(page.locator("#print-note")).to_have_text("All 15 images.")
    assert page.locator(".cards .end").count() == 0


def test_names_of_rows_on_a_phone(tmp_path: Path, open_page: Open) -> None:  # noqa: F811
    """They stay in view, in one line if they fit into half of it, and never break after a letter."""
    names = ("flux.1-dev-fp8", "stable diffusion", "a-name/that-is-longer-than/half/a/phone/is-wide")
    rows = [
        row(f"{name}/{number}.png", 1.0 + number, group=name, metric=metric, authenticity=2.0)
        for name in names
        for number in range(3)
        for metric in ("nr-lite", "fr-lite")
    ]
    rows.append(row(f"{'folder/' * 12}x.png"))
    page = open_page(write_report(tmp_path / "report.html", rows, COLUMNS), viewport={"width": 390, "height": 844})
    for details in page.locator("details:visible").all():
        details.locator("summary").click()
    tables = page.locator("table:visible:not(#viewer table)")
    assert tables.count() == 6  # summary, leaderboard, differences, pairs, distribution, failures
    for table in tables.all():
        table.locator("xpath=..").evaluate("scroll => { scroll.scrollLeft = 10000; }")
        for cell in table.locator("tbody th").all():
            box, name = cell.bounding_box(), cell.locator(".name").bounding_box()
            assert box is not None
            assert name is not None
            assert 0 <= box["x"] < 30  # where the table begins
            assert name["height"] < 30 or 150 < name["width"] < 200
    assert serious_issues(page) == []


def test_hostile_names_are_text(tmp_path: Path, open_page: Open) -> None:  # noqa: F811
    rows = [row(name, 1.0 + index, group=name, reference=name) for index, name in enumerate(HOSTILE)]
    rows += [row(name, None, group=name, error=f"{name}: broken") for name in HOSTILE]
    rows += [row(HOSTILE[0], 1.0, group=HOSTILE[0], reference=HOSTILE[0], metric=HOSTILE_METRIC)]
    page = open_page(write_report(tmp_path / "report.html", rows, COLUMNS, title=HOSTILE[0]))
    expect(page.locator("#status")).to_have_text("8 of 8 images")
    assert page.title() == HOSTILE[0]
    page.select_option("#metric", HOSTILE_METRIC)
    expect(page.locator("#status")).to_have_text("1 of 8 images")
    page.get_by_role("button", name="Reset").click()
    page.locator("#gallery").scroll_into_view_if_needed()
    titles = page.locator(".card button").evaluate_all("cards => cards.map(card => card.title)")
    # A driver can't pass on what is no Unicode, and the browser takes U+0000 as it is in scripts.
    assert [title.rpartition("\n")[0] for title in reversed(titles) if "caf" not in title] == [
        name for name in HOSTILE if "caf" not in name
    ]
    page.locator(".card button").first.click()
    for _ in HOSTILE:
        assert page.locator("#viewer-metadata dd").first.inner_text()
        page.keyboard.press("ArrowRight")
    page.keyboard.press("Escape")
    assert page.locator(".strip path").count() == len(HOSTILE) + 1
    assert page.locator("img[onerror]").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    with page.expect_download() as download:
        page.get_by_role("button", name="Export list").click()
    exported = Path(download.value.path()).read_text("utf-8", "surrogateescape")
    names = [line["image"] for line in csv.DictReader(io.StringIO(exported, newline=""))]
    assert names == HOSTILE[::-1]


def test_a_large_report_keeps_thumbnails_beside_it(
    tmp_path: Path,
    open_page: Open,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(thumbnails, "INLINE_BYTES", 1000)
    Image.fromarray(draw(60, 90)).save(tmp_path / "a.jpg")
    rows = [
        row(str(tmp_path / "a.jpg"), float(number), group=f"g{number % 5}", reference=f"p{number // 5}")
        for number in range(10_000)
    ]
    page = open_page(write_report(tmp_path / "100% report.html", rows, COLUMNS))
    expect(page.locator("#status")).to_have_text("10,000 of 10,000 images")
    page.locator("#gallery").scroll_into_view_if_needed()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    card = page.locator(".card[data-position='9999']")
    expect(card).to_be_in_viewport()
    assert card.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 90
    assert page.locator(".card").count() < 100
    check_prompts_of_a_large_report(page)


def check_prompts_of_a_large_report(page: Page) -> None:
    """Few of its rows are in the document, wherever one is; the first thirty are printed."""
    rows = page.locator(".grid-body .grid-row")
    expect(page.locator("#grid-status")).to_have_text("2,000 of 2,000 prompts, 5 groups")
    page.select_option("#grid-sort", "name")
    assert 0 < rows.count() < 15
    page.locator("#grid").scroll_into_view_if_needed()
    page.locator("#grid").evaluate("grid => grid.scrollTo(0, grid.scrollHeight)")
    last = page.locator(".grid-row[aria-rowindex='2001']")
    expect(last).to_be_in_viewport()
    assert last.locator(".words").inner_text() == "p1999"
    assert rows.count() < 15
    last.locator(".tile").last.focus()
    page.keyboard.press("Control+Home")
    expect(page.locator(".grid-row[aria-rowindex='2'] .tile").first).to_be_focused()
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert rows.count() == 30
    expect(page.locator("#grid-printed")).to_have_text("30 of 2,000 prompts, sorted by prompt.")
    expect(page.locator("#grid-controls")).to_be_hidden()
    box = page.locator("#grid").bounding_box()
    assert box is not None
    assert box["height"] > 30 * 100
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert rows.count() < 15
