"""Rating in Chromium, against a real server: keys, accidents, sizes, and that every page is usable by everybody."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from aigciqa.evaluation.study import Entry, Question, Study, StudySettings, create_study, read_votes
from aigciqa.evaluation.study.server import make_app
from aigciqa.evaluation.study.web import listen
from tests.browser import chromium, serious_issues  # noqa: F401
from tests.conftest import draw

pytestmark = pytest.mark.browser

HOSTILE = '<b id="bold">How</b> "good" & <script>alert(1)</script>?'
REFUSED = "the server responded with a status of 409"


class Site:
    """A study that is served, and browsers that look at it."""

    def __init__(self, study: Study, chromium: Browser) -> None:  # noqa: F811
        self.study, self.chromium = study, chromium
        self.socket = listen("127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        config = uvicorn.Config(make_app(study), log_level="warning", access_log=False, lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self.thread.start()
        self.contexts: list[BrowserContext] = []
        self.complaints: list[str] = []
        self.requests: list[str] = []

    def context(self, **options: Any) -> BrowserContext:
        context = self.chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(10_000)
        self.contexts.append(context)
        return context

    def open(self, path: str, context: BrowserContext | None = None, **options: Any) -> Page:
        page = (context or self.context(**options)).new_page()
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(self.base + path)
        return page

    def rate(self, context: BrowserContext | None = None, **options: Any) -> Page:
        """The page of the study's one rater, at the first picture."""
        (rater,) = self.study.raters()
        page = self.open(f"/r/{rater.secret}", context, **options)
        page.wait_for_selector("#notice:visible, #pictures img")
        if page.locator("#go").is_visible():
            page.locator("#go").click()
        ready(page)
        return page

    def votes(self) -> list[float]:
        return [each.score for each in read_votes(self.study.path)]

    def close(self) -> None:
        for context in self.contexts:
            context.close()
        self.server.should_exit = True
        self.thread.join(10)
        self.socket.close()


Serve = Callable[..., Site]


@pytest.fixture
def serve(tmp_path: Path, chromium: Browser) -> Iterator[Serve]:  # noqa: F811
    """Serves a study of a few pictures; in the end no page has complained, nor asked another server."""
    sites: list[Site] = []

    def start(
        count: int = 4, listed: list[Entry] | None = None, drawn: tuple[int, int] = (300, 400), **chosen: Any
    ) -> Site:
        paths = [tmp_path / f"{number}.png" for number in range(count)]
        for number, path in enumerate(paths):
            Image.fromarray(draw(*drawn, number)).save(path)
        study = create_study(
            tmp_path / "study.db", listed or [Entry(str(path)) for path in paths], StudySettings(**chosen)
        )
        study.invite("you")
        sites.append(Site(study, chromium))
        return sites[-1]

    yield start
    for site in sites:
        site.close()
        site.study.close()
        assert all(url.startswith(site.base) for url in site.requests)
        assert site.complaints == []


def ready(page: Page) -> None:
    """Wait until a press counts."""
    expect(page.locator(".choice").first).to_be_visible()
    expect(page.locator("#pictures img").first).to_be_visible()
    expect(page.locator("#skip")).to_be_enabled()
    page.wait_for_timeout(260)


def press(page: Page, *keys: str) -> None:
    for key in keys:
        ready(page)
        before = page.locator("#progress-text").inner_text()
        page.keyboard.press(key)
        expect(page.locator("#progress-text")).not_to_have_text(before)


def test_the_keyboard_alone_suffices(serve: Serve) -> None:
    site = serve(5)
    (rater,) = site.study.raters()
    page = site.open(f"/r/{rater.secret}")
    expect(page.locator("#notice-title")).to_have_text("Before you begin")
    page.keyboard.press("Enter")
    press(page, "5", "1")
    assert site.votes() == [5, 1]
    expect(page.locator("#progress-text")).to_have_text("Picture 3 of 5")
    ready(page)
    page.keyboard.press("ArrowRight")  # the middle
    page.keyboard.press("ArrowRight")
    press(page, "Enter")
    assert site.votes() == [5, 1, 4]
    press(page, "u", "Backspace")
    assert site.votes() == [5]
    press(page, "2", "3", "4")
    ready(page)
    page.keyboard.press("5")
    expect(page.locator("#notice-title")).to_have_text("All done. Thank you!")
    mos, fit = page.locator("#notice-next code").all_inner_texts()  # this machine serves: its person runs the study
    assert mos == f"aigciqa mos {os.path.relpath(site.study.path).replace(os.sep, '/')} -o ratings.csv"
    assert fit == "aigciqa fit ratings.csv -o my-metric"
    assert site.votes() == [5, 2, 3, 4, 5]
    page.keyboard.press("u")
    ready(page)
    assert site.votes() == [5, 2, 3, 4]


def test_digits_that_need_shift_on_a_keyboard_are_typed_without(serve: Serve) -> None:
    site = serve(3)
    page = site.rate()
    dispatch = "init => document.body.dispatchEvent(new KeyboardEvent('keydown', {...init, bubbles: true}))"
    for event in ({"key": "(", "code": "Digit5"}, {"key": "2", "code": "Digit2", "shiftKey": True}):
        page.evaluate(dispatch, event)
        page.wait_for_timeout(300)
        ready(page)
    assert site.votes() == [5, 2]


def test_a_double_click_is_one_vote(serve: Serve) -> None:
    site = serve()
    page = site.rate()
    page.get_by_role("button", name="4 Good").dblclick()
    expect(page.locator("#progress-text")).to_have_text("Picture 2 of 4")
    ready(page)
    assert site.votes() == [4]
    page.keyboard.down("2")  # a key that is held down
    for _ in range(5):
        page.keyboard.down("2")
    page.keyboard.up("2")
    expect(page.locator("#progress-text")).to_have_text("Picture 3 of 4")
    ready(page)
    assert site.votes() == [4, 2]


def test_reload_back_and_a_second_tab(serve: Serve) -> None:
    site = serve()
    context = site.context()
    page = site.rate(context)
    press(page, "3")
    page.reload()
    ready(page)
    expect(page.locator("#progress-text")).to_have_text("Picture 2 of 4")
    other = site.rate(context)
    press(other, "5")
    ready(page)
    page.keyboard.press("1")  # on the picture that the other tab has answered
    expect(page.locator("#progress-text")).to_have_text("Picture 3 of 4")
    assert site.votes() == [3, 5]
    page.goto("about:blank")
    press(other, "2")
    page.go_back()
    ready(page)
    expect(page.locator("#progress-text")).to_have_text("Picture 4 of 4")
    assert site.votes() == [3, 5, 2]
    assert [REFUSED in text for text in site.complaints] == [True]
    site.complaints.clear()


def test_a_lost_connection_loses_no_vote(serve: Serve) -> None:
    site = serve()
    context = site.context()
    page = site.rate(context)
    ready(page)
    context.set_offline(True)
    page.keyboard.press("4")
    expect(page.get_by_role("alert")).to_contain_text("Your answer is not saved yet")
    page.keyboard.press("2")  # not taken while the first is on its way
    assert site.votes() == []
    context.set_offline(False)
    expect(page.locator("#progress-text")).to_have_text("Picture 2 of 4")
    expect(page.get_by_role("alert")).to_be_hidden()
    assert site.votes() == [4]

    def lose_the_answer(route: Route) -> None:
        route.fetch()  # it reaches the server
        route.abort()

    page.route("**/vote", lose_the_answer, times=1)
    press(page, "5")
    assert site.votes() == [4, 5]
    ready(page)
    page.route("**/vote", lambda route: route.abort())
    page.keyboard.press("1")
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/vote")
    page.reload()  # the vote that was kept is sent first
    expect(page.locator("#progress-text")).to_have_text("Picture 4 of 4")
    assert site.votes() == [4, 5, 1]
    ready(page)
    page.route("**/vote", lambda route: route.fulfill(status=429, body="<h1>Too many requests</h1>"))  # of a proxy
    page.keyboard.press("2")
    expect(page.get_by_role("alert")).to_be_visible()
    page.unroute("**/vote")
    page.reload()
    expect(page.locator("#progress-text")).to_have_text("4 done")
    assert site.votes() == [4, 5, 1, 2]
    assert all("net::ERR" in text or "status of 429" in text for text in site.complaints)
    site.complaints.clear()


def test_the_slider_wants_a_choice(serve: Serve) -> None:
    site = serve(method="slider")
    page = site.rate()
    ready(page)
    expect(page.get_by_role("button", name="Save")).to_be_disabled()
    page.keyboard.press("Enter")
    page.wait_for_timeout(200)
    assert site.votes() == []
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    press(page, "Enter")
    assert site.votes() == [52]
    ready(page)
    expect(page.get_by_role("button", name="Save")).to_be_disabled()  # the next begins anew
    box = page.locator("#slider").bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#progress-text")).to_have_text("Picture 3 of 4")
    assert site.votes() == [52, 100]


def test_pairs_by_arrows(serve: Serve, tmp_path: Path) -> None:
    listed = [Entry(str(tmp_path / "0.png"), other=str(tmp_path / f"{number}.png")) for number in (1, 2, 3)]
    site = serve(listed=listed, method="pairs")
    page = site.rate()
    expect(page.locator("#pictures img")).to_have_count(2)
    press(page, "ArrowDown", "ArrowLeft")
    ready(page)
    page.get_by_role("button", name="Right").click()
    expect(page.locator("#notice-title")).to_have_text("All done. Thank you!")
    assert site.votes()[0] == 0.5
    assert set(site.votes()[1:]) <= {0.0, 1.0}


def test_skipping_with_a_reason(serve: Serve) -> None:
    site = serve()
    page = site.rate()
    ready(page)
    page.keyboard.press("s")
    page.get_by_role("button", name="I can't judge it").click()
    expect(page.locator("#progress-text")).to_have_text("Picture 2 of 4")
    ready(page)
    page.keyboard.press("s")
    page.get_by_label("Another reason").fill("1 of my own: 5")  # digits are no votes there
    page.keyboard.press("Enter")
    expect(page.locator("#progress-text")).to_have_text("Picture 3 of 4")
    ready(page)
    page.keyboard.press("s")
    page.keyboard.press("Escape")
    ready(page)
    with site.study.reading() as database:
        reasons = [row[0] for row in database.execute("SELECT reason FROM votes ORDER BY id")]
    assert reasons == ["can't judge it", "1 of my own: 5"]


def test_going_on_elsewhere_by_the_raters_own_link(serve: Serve) -> None:
    site = serve()
    page = site.rate()
    press(page, "3")
    page.get_by_role("button", name="Help").click()
    link = page.get_by_label("Your link").input_value()
    assert link.startswith(site.base + "/r/")
    page.keyboard.press("Escape")
    phone = site.open(link.removeprefix(site.base), viewport={"width": 390, "height": 844}, device_scale_factor=3)
    ready(phone)
    expect(phone.locator("#progress-text")).to_have_text("Picture 2 of 4")
    assert "/r/" not in phone.url


def test_native_pixels_or_a_stated_size(serve: Serve) -> None:
    site = serve(drawn=(600, 800))
    page = site.rate()
    image = page.locator("#pictures img")
    assert image.bounding_box()["width"] == 800  # type: ignore[index]
    expect(page.locator("#size-note")).to_be_hidden()
    dense = site.rate(device_scale_factor=2)
    assert dense.locator("#pictures img").bounding_box()["width"] == 400  # type: ignore[index]
    small = site.rate(viewport={"width": 390, "height": 844})
    box = small.locator("#pictures img").bounding_box()
    assert box is not None
    assert box["width"] == pytest.approx(374, abs=1)
    expect(small.locator("#size-note")).to_contain_text("Shown at 47% to fit.")
    press(small, "4")
    small.keyboard.press("z")
    assert small.locator("#pictures img").bounding_box()["width"] == 800  # type: ignore[index]
    assert small.evaluate("document.documentElement.scrollWidth <= innerWidth")
    press(small, "3")
    with site.study.reading() as database:
        scales = [row[0] for row in database.execute("SELECT scale FROM votes ORDER BY id")]
    assert scales == pytest.approx([0.4675, 1.0], abs=0.002)


def test_a_stated_size(serve: Serve) -> None:
    page = serve(drawn=(30, 40), size=200).rate(device_scale_factor=2)
    box = page.locator("#pictures img").bounding_box()
    assert box is not None
    assert (box["width"], box["height"]) == (200, 150)


def test_the_next_picture_is_there_before_it_is_needed(serve: Serve) -> None:
    site = serve()
    page = site.rate()
    ready(page)
    page.wait_for_timeout(300)
    fetched = {url for url in site.requests if "/picture/" in url}
    assert len(fetched) == 2
    expect_next = fetched - {site.base + str(page.locator("#pictures img").get_attribute("src"))}
    press(page, "3")
    ready(page)
    assert {site.base + str(page.locator("#pictures img").get_attribute("src"))} == expect_next


def test_instructions_training_breaks_and_hostile_text(serve: Serve, tmp_path: Path) -> None:
    paths = [str(tmp_path / f"{number}.png") for number in range(4)]
    listed = [Entry(path, reference=paths[3], prompt=HOSTILE) for path in paths[:3]]
    listed.append(Entry(paths[3], reference=paths[0], prompt=HOSTILE, kind="training"))
    asked = Question("quality", HOSTILE, HOSTILE, with_prompt=True)
    labels = (HOSTILE[:30], "b", "c", "d", "e")
    site = serve(listed=listed, instructions=HOSTILE, break_every=2, questions=(asked,), labels=labels)
    (rater,) = site.study.raters()
    page = site.open(f"/r/{rater.secret}")
    expect(page.locator("#notice .own")).to_have_text(HOSTILE)
    page.get_by_role("button", name="Begin").click()
    ready(page)
    expect(page.locator("#progress-text")).to_have_text("Training 1 of 1")
    expect(page.locator("#question")).to_have_text(HOSTILE)
    expect(page.locator("#prompt-text")).to_have_text(HOSTILE)
    expect(page.locator("#prompt-image")).to_be_visible()
    assert page.locator("#bold").count() == 0
    titles = []
    for _ in range(3):
        ready(page)
        page.keyboard.press("3")
        page.wait_for_timeout(400)
        if page.locator("#go").is_visible():
            titles.append(page.locator("#notice-title").inner_text())
            page.keyboard.press("Enter")
    assert titles == ["The training is over", "Time for a break"]


def test_a_picture_that_is_gone_can_be_skipped(serve: Serve, tmp_path: Path) -> None:
    site = serve(2)
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(b"broken")
    (rater,) = site.study.raters()
    page = site.open(f"/r/{rater.secret}")
    page.get_by_role("button", name="Begin").click()
    expect(page.get_by_role("alert")).to_contain_text("could not be loaded")
    page.keyboard.press("3")  # nobody can rate what is not there
    page.get_by_role("button", name="Skip", exact=False).first.click()
    page.get_by_role("button", name="It does not show properly").click()
    expect(page.locator("#progress-text")).to_have_text("Picture 2 of 2")
    assert site.votes() == []
    page.close()  # it goes on trying, and complaining
    site.complaints.clear()


def test_a_closed_study_and_other_links(serve: Serve) -> None:
    site = serve()
    page = site.rate()
    press(page, "3")
    site.study.set_closed(True)
    ready(page)
    page.keyboard.press("3")
    expect(page.locator("#notice-title")).to_have_text("This study is closed")
    assert site.votes() == [3]
    expect(site.open("/r/guess").locator("h1")).to_have_text("This link is not valid")
    assert len(site.complaints) == 2  # 409, 404
    site.complaints.clear()


def test_one_link_for_all_in_the_browser(serve: Serve) -> None:
    site = serve()
    site.study.set_anonymous(True)
    page = site.open(f"/join/{site.study.anonymous_secret}")
    assert serious_issues(page) == []
    page.get_by_role("button", name="Start").click()
    expect(page.locator("#notice-title")).to_have_text("Before you begin")
    assert len(site.study.raters()) == 2


def test_the_studys_page(serve: Serve) -> None:
    site = serve(votes_per_image=3)
    admin = site.open(f"/admin/{site.study.admin_secret}")
    admin.get_by_label("Note on a new rater").fill("<i>Ann</i>")
    admin.get_by_role("button", name="Invite").click()
    expect(admin.locator("tbody").first.locator("tr")).to_have_count(2)
    expect(admin.locator("tbody").first.locator("tr").nth(1)).to_contain_text("r2 <i>Ann</i>")
    page = site.open(f"/r/{site.study.raters()[1].secret}")
    page.get_by_role("button", name="Begin").click()
    press(page, "5")
    admin.locator("#order").select_option("best")
    expect(admin.locator("tbody").nth(1).locator("tr").first).to_contain_text("5.00")
    admin.get_by_role("button", name="Close the study").click()
    expect(admin.get_by_role("button", name="Open the study again")).to_be_visible()
    assert site.study.is_closed
    admin.get_by_role("button", name="Open the study again").click()
    admin.get_by_role("button", name="Make one link for all").click()
    assert admin.get_by_label("Link for all").input_value().startswith(f"{site.base}/join/")
    with admin.expect_download() as download:
        admin.get_by_role("link", name="Export votes").click()
    assert Path(download.value.path()).read_text().count("\n") == 2
    admin.on("dialog", lambda dialog: dialog.accept())
    admin.get_by_role("button", name="Delete r2").click()
    expect(admin.locator("tbody").first.locator("tr")).to_have_count(1)
    assert site.votes() == []


@pytest.mark.parametrize("method", ["grades", "slider", "pairs"])
@pytest.mark.parametrize(
    ("width", "height", "scheme"),
    [(1280, 900, "light"), (390, 844, "dark"), (427, 300, "light")],
    ids=["desk", "phone", "zoomed to 300%"],
)
def test_everybody_can_use_the_pages(
    serve: Serve, tmp_path: Path, method: str, width: int, height: int, scheme: str
) -> None:
    other = str(tmp_path / "1.png") if method == "pairs" else None
    listed = [Entry(str(tmp_path / f"{n}.png"), other, str(tmp_path / "3.png"), "A cat") for n in (0, 2)]
    asked = Question("correspondence", "How well does it match its prompt?", "Compare.", with_prompt=True)
    site = serve(listed=listed, method=method, questions=(asked,), instructions="Look.", drawn=(900, 700))
    options: dict[str, Any] = {"viewport": {"width": width, "height": height}, "color_scheme": scheme}
    (rater,) = site.study.raters()
    page = site.open(f"/r/{rater.secret}", **options)
    expect(page.locator("#go")).to_be_visible()
    issues = serious_issues(page)
    page.locator("#go").click()
    ready(page)
    issues += serious_issues(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for button in ("#help", "#skip"):
        page.locator(button).click()
        issues += serious_issues(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.keyboard.press("Escape")
    admin = site.open(f"/admin/{site.study.admin_secret}", **options)
    issues += serious_issues(admin)
    assert admin.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for table in admin.locator(".scroll").all():
        table.evaluate("scroll => { scroll.scrollLeft = 10000; }")
        name = table.locator("tbody th").first.bounding_box()
        assert name is not None
        assert 0 <= name["x"] < 60  # the name of a row stays in view
        assert name["width"] < width * 0.7
    issues += serious_issues(site.open("/", **options))
    assert issues == []
    assert len(site.complaints) == 1  # 403: a page without its link
    site.complaints.clear()
