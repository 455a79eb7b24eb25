"""What a study's server answers: its routes, who may do what, the headers, the pictures, hostile input as text."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import re
import socket
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from aigciqa.errors import ImageError, InputError
from aigciqa.evaluation.study import Entry, Question, Rater, Study, StudySettings, create_study, read_votes
from aigciqa.evaluation.study import pictures as pictures_module
from aigciqa.evaluation.study.pictures import Pictures
from aigciqa.evaluation.study.server import make_app
from aigciqa.evaluation.study.web import HEADERS, listen
from aigciqa.images.decode import load_image
from tests.conftest import draw

KEYS = (f"key-{number:08}" for number in itertools.count())
HOSTILE = '<script>alert("x")</script> & <img src=x onerror=alert(1)>'


class Page:
    """A rater's browser."""

    def __init__(self, app: Starlette, rater: Rater) -> None:
        self.client = TestClient(app)
        self.client.get(f"/r/{rater.secret}")
        text = self.client.get("/rate").text
        self.token = text.partition('name="token" content="')[2].partition('"')[0]

    def step(self) -> dict[str, Any]:
        return dict(self.client.get("/step").json())

    def post(self, path: str, **body: Any) -> Any:
        sent = json.dumps({"key": next(KEYS), **body})
        return self.client.post(path, content=sent, headers={"X-Token": self.token})

    def vote(self, score: Any = 4, **body: Any) -> Any:
        step = self.step()
        return self.post("/vote", **{"slot": step["slot"], "question": step["question"], "score": score, **body})


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    listed = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.fromarray(draw(20, 30, number)).save(path)
        listed.append(Entry(str(path), prompt=HOSTILE))
    asked = Question("mood", HOSTILE, HOSTILE, with_prompt=True)
    chosen = StudySettings(questions=(asked,), instructions=HOSTILE, labels=(HOSTILE[:90], "b", "c", "d", "e"))
    with create_study(tmp_path / "study.db", listed, chosen) as made:
        yield made


@pytest.fixture
def app(study: Study) -> Starlette:
    return make_app(study)


@pytest.fixture
def page(study: Study, app: Starlette) -> Page:
    return Page(app, study.invite(HOSTILE))


@pytest.fixture
def admin(study: Study, app: Starlette) -> Page:
    page = Page.__new__(Page)
    page.client = TestClient(app)
    page.client.get(f"/admin/{study.admin_secret}")
    page.token = page.client.get("/admin").text.partition('name="token" content="')[2].partition('"')[0]
    return page


def test_the_routes_are_these(app: Starlette) -> None:
    found = {(route.path, *sorted(route.methods or ())) for route in app.routes if isinstance(route, Route)}
    read = {
        "/", "/r/{secret}", "/join/{secret}", "/rate", "/step", "/picture/{picture}/{key}", "/static/{name}",
        "/admin", "/admin/{secret}", "/admin/votes.csv",
    }  # fmt: skip
    write = {
        "/vote", "/skip", "/undo", "/join/{secret}", "/admin/invite", "/admin/close", "/admin/anonymous",
        "/admin/delete",
    }  # fmt: skip
    assert found == {(path, "GET", "HEAD") for path in read} | {(path, "POST") for path in write}
    assert len(app.routes) == len(found)


@pytest.mark.parametrize("path", ["/", "/rate", "/step", "/static/study.js", "/nothing", "/r/guess", "/admin", "/vote"])
def test_every_answer_has_the_security_headers(page: Page, path: str) -> None:
    answer = page.client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'; ")
    assert "server" not in answer.headers
    assert answer.headers["Cache-Control"] in ("no-store", "no-cache")


def test_a_failure_of_the_server_has_them_too(study: Study) -> None:
    client = TestClient(make_app(study), raise_server_exceptions=False)
    with contextlib.closing(sqlite3.connect(study.path)) as database:
        database.execute("DROP TABLE raters")
        database.commit()
    answer = client.get(f"/r/{study.admin_secret}")
    assert answer.status_code == 500
    assert answer.json() == {"error": "The server failed: try again."}
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS


def test_no_page_has_inline_script_or_style_or_leaves_the_server(page: Page, admin: Page, study: Study) -> None:
    study.set_anonymous(True)
    stranger = TestClient(page.client.app)
    join = stranger.get(f"/join/{study.anonymous_secret}").text
    for text in (page.client.get("/rate").text, admin.client.get("/admin").text, join, stranger.get("/").text):
        assert text.count("<script") == text.count('<script src="/static/study.js" defer></script>') == 1
        assert "style=" not in text
        assert "<style" not in text
        assert " onclick" not in text
        assert "//cdn" not in text


def test_votes_reach_the_study(page: Page, study: Study) -> None:
    shown = page.step()
    assert (shown["status"], shown["question"], shown["finished"], shown["total"]) == ("rate", "mood", 0, 3)
    assert len(shown["pictures"]) == 1
    answer = page.vote(4, seconds=1.5, scale=0.5)
    assert answer.status_code == 200
    assert answer.json()["recorded"] is True
    assert answer.json()["finished"] == 1
    assert [(each.rater, each.question, each.score, each.seconds) for each in read_votes(study.path)] == [
        ("r1", "mood", 4.0, 1.5)
    ]
    assert page.post("/undo").json()["recorded"] is True
    assert page.post("/skip", slot=page.step()["slot"], reason="can't judge it").json()["finished"] == 1
    assert list(read_votes(study.path)) == []


def test_a_second_tab_is_told_what_comes_next(page: Page) -> None:
    before = page.step()
    page.vote(4)
    late = page.post("/vote", slot=before["slot"], question="mood", score=1)
    assert late.status_code == 409
    assert late.json()["recorded"] is False
    assert late.json()["slot"] == page.step()["slot"] != before["slot"]


@pytest.mark.parametrize(
    "body",
    [
        {"score": None}, {"score": 7}, {"score": "4"}, {"slot": "1"}, {"slot": True}, {"slot": -1}, {"question": 5},
        {"key": "short"}, {"key": None}, {"key": "x" * 1001}, {"key": "\ud800" * 10},
    ],
)  # fmt: skip
def test_malformed_votes_are_refused(page: Page, study: Study, body: dict[str, Any]) -> None:
    answer = page.vote(**body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert list(read_votes(study.path)) == []


@pytest.mark.parametrize(("body", "status"), [("{", 400), ("[]", 400), ("[" * 60_000, 400), ("x" * 70_000, 413)])
def test_bodies_that_are_no_json_object(page: Page, body: str, status: int) -> None:
    answer = page.client.post("/vote", content=body, headers={"X-Token": page.token})
    assert answer.status_code == status


def test_a_vote_needs_the_cookie_and_the_token_of_the_same_rater(page: Page, study: Study, app: Starlette) -> None:
    other = Page(app, study.invite())
    step = page.step()
    body = {"key": next(KEYS), "slot": step["slot"], "question": "mood", "score": 4}
    stranger = TestClient(app)
    refused = [
        page.client.post("/vote", json=body),
        page.client.post("/vote", json=body, headers={"X-Token": other.token}),
        page.client.post("/vote", json=body, headers={"X-Token": "wörong".encode()}),
        stranger.post("/vote", json=body, headers={"X-Token": page.token}),
        stranger.post("/undo", json=body, headers={"X-Token": page.token}),
        stranger.get("/step"),
        stranger.get("/rate"),
    ]
    assert [answer.status_code for answer in refused] == [403] * len(refused)
    assert list(read_votes(study.path)) == []


def test_cookies_are_same_site_and_out_of_the_scripts_reach(study: Study, app: Starlette) -> None:
    for path in (f"/r/{study.invite().secret}", f"/admin/{study.admin_secret}"):
        cookie = TestClient(app).get(path, follow_redirects=False).headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        assert "Secure" not in cookie
        secure = TestClient(app, base_url="https://rate.example").get(path, follow_redirects=False)
        assert "Secure" in secure.headers["set-cookie"]


def test_links_that_are_wrong(app: Starlette, study: Study) -> None:
    stranger = TestClient(app)
    for path in ("/r/guess", "/admin/guess", "/join/guess", f"/join/{study.admin_secret}", f"/admin/{'x' * 5000}"):
        assert stranger.get(path).status_code == 404
    assert stranger.post("/join/guess", json={}).status_code == 403
    assert stranger.get("/admin").status_code == 403
    assert stranger.get("/admin/votes.csv").status_code == 403
    assert not stranger.cookies


def test_only_the_studys_pictures_are_served(page: Page, study: Study, tmp_path: Path) -> None:
    url = page.step()["pictures"][0]
    answer = page.client.get(url)
    served = Path(study.path_of(int(url.split("/")[2])) or "")
    assert answer.content == served.read_bytes()
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["Cache-Control"] == "private, max-age=86400"
    key = url.rpartition("/")[2]
    for wrong in (
        f"/picture/999/{key}", f"/picture/{int(url.split('/')[2]) % 3 + 1}/{key}", "/picture/1/0", "/picture/-1/0",
        f"/picture/{'9' * 5000}/0",
        f"/picture/{2**70}/{key}", "/picture/..%2f..%2fetc%2fpasswd/0", "/static/..%2fserver.py",
        "/static/../server.py", "/static/%2e%2e/study.db", f"/{served}",
    ):  # fmt: skip
        assert page.client.get(wrong).status_code == 404
    served.unlink()
    gone = page.client.get(url)
    assert gone.status_code == 404
    assert str(tmp_path) not in gone.text


def test_hostile_names_questions_and_prompts_appear_as_text(page: Page, admin: Page, study: Study) -> None:
    for text in (page.client.get("/rate").text, admin.client.get("/admin").text):
        assert "<script>alert" not in text
        assert "<img src=x" not in text
    assert "&lt;script&gt;alert" in page.client.get("/rate").text  # instructions, a label
    assert "&lt;script&gt;alert" in admin.client.get("/admin").text  # a rater's note
    assert page.step()["prompt"] == HOSTILE  # JSON, which the script puts in as text
    script = (Path(pictures_module.__file__).parent / "static/study.js").read_text()
    assert "innerHTML" not in script
    assert "insertAdjacent" not in script


def test_one_link_for_all(study: Study, app: Starlette, admin: Page) -> None:
    assert admin.post("/admin/anonymous", on=True).status_code == 200
    link = f"/join/{study.anonymous_secret}"
    one, two = TestClient(app), TestClient(app)
    assert "Start" in one.get(link).text
    assert one.post(link, data={}).status_code == 403
    assert study.raters() == []  # a preview of the link makes no rater, nor does a form of another site's
    token = {"X-Token": one.get(link).text.partition('name="token" content="')[2].partition('"')[0]}
    for client in (one, two, one):
        assert client.post(link, json={}, headers=token).json() == {"location": "/rate"}
    assert len(study.raters()) == 2  # one was there already
    assert one.get(link, follow_redirects=False).headers["location"] == "/rate"
    study.set_closed(True)
    assert "closed" in TestClient(app).get(link).text
    assert TestClient(app).post(link, json={}, headers=token).status_code == 403
    study.set_closed(False)
    admin.post("/admin/anonymous", on=False)
    assert two.get(link).status_code == 404


def test_whoever_runs_the_study_invites_closes_and_deletes(admin: Page, study: Study, app: Starlette) -> None:
    assert admin.post("/admin/invite", label="Ann").status_code == 200
    (rater,) = study.raters()
    text = admin.client.get("/admin").text
    assert f"http://testserver/r/{rater.secret}" in text
    assert "Ann" in text
    page = Page(app, rater)
    page.vote(5)
    assert "5.00" in admin.client.get("/admin?order=best&question=mood&page=1").text
    assert admin.client.get("/admin?order=drop&question=none&page=-9").status_code == 200
    assert admin.client.get(f"/admin?page={'9' * 5000}").status_code == 200
    admin.post("/admin/close", on=True)
    assert page.step()["status"] == "closed"
    assert page.vote(5).status_code in (400, 409)
    admin.post("/admin/close", on=False)
    assert page.step()["status"] == "rate"
    assert admin.post("/admin/delete", rater=99).status_code == 400
    assert admin.post("/admin/delete", rater=rater.id).status_code == 200
    assert page.client.get("/step").status_code == 403
    assert list(read_votes(study.path)) == []


@pytest.mark.parametrize("path", ["/admin/invite", "/admin/close", "/admin/anonymous", "/admin/delete"])
def test_raters_and_strangers_change_nothing(path: str, page: Page, admin: Page, study: Study) -> None:
    body = {"label": "", "on": True, "rater": 1}
    assert page.post(path, **body).status_code == 403
    page.client.cookies.update(admin.client.cookies)
    assert page.post(path, **body).status_code == 403  # the page's token is not the study's
    assert admin.client.post(path, json=body).status_code == 403
    assert TestClient(page.client.app).post(path, json=body, headers={"X-Token": admin.token}).status_code == 403
    assert len(study.raters()) == 1
    assert not study.is_closed
    assert study.anonymous_secret is None


def test_links_name_the_url_by_which_raters_come(study: Study) -> None:
    client = TestClient(make_app(study, "https://rate.example/"))
    rater = study.invite()
    assert f"https://rate.example/r/{rater.secret}" in client.get(f"/admin/{study.admin_secret}").text


def test_only_who_rates_on_the_own_machine_is_told_where_the_study_is(study: Study, app: Starlette) -> None:
    rater = study.invite()

    def told(app: Starlette, host: str, client: str) -> bool:
        browser = TestClient(app, f"http://{host}:8570", client=(client, 50000))
        browser.get(f"/r/{rater.secret}")
        return "aigciqa mos" in browser.get("/rate").text

    assert told(app, "127.0.0.1", "127.0.0.1")
    assert not told(app, "localhost", "192.0.2.7")  # by a forged header, or through a server in front
    assert not told(make_app(study, "https://rate.example"), "127.0.0.1", "127.0.0.1")


def test_the_export_is_csv_in_long_form(page: Page, admin: Page, study: Study) -> None:
    page.vote(2)
    page.vote(5)
    answer = admin.client.get("/admin/votes.csv")
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert 'filename="votes.csv"' in answer.headers["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert list(rows[0]) == ["image", "rater", "question", "score", "kind", "prompt", "seconds", "at"]
    assert [(row["rater"], row["question"], row["score"], row["kind"]) for row in rows] == [
        ("r1", "mood", "2", "rated"),
        ("r1", "mood", "5", "rated"),
    ]
    assert [row["image"] for row in rows] == [each.image for each in read_votes(study.path)]


def test_pairs_take_left_right_and_same(tmp_path: Path) -> None:
    listed = [Entry("a.png", other="b.png"), Entry("c.png", other="d.png"), Entry("e.png", other="f.png")]
    with create_study(tmp_path / "study.db", listed, StudySettings(method="pairs")) as study:
        page = Page(make_app(study), study.invite())
        assert len(page.step()["pictures"]) == 2
        assert page.vote(1).status_code == page.vote("up").status_code == 400
        for side in ("left", "same", "right"):
            assert page.vote(side).json()["recorded"]
        assert sorted(each.score for each in read_votes(study.path))[1] == 0.5
        admin = TestClient(make_app(study))
        rows = admin.get(f"/admin/{study.admin_secret}")
        assert "against" in rows.text
        text = admin.get("/admin/votes.csv").text
        assert text.startswith("image,other,rater,question,score,kind,")


def _profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif


def _pixels(mode: str) -> Image.Image:
    return Image.fromarray(draw(20, 30)).convert(mode)


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [("a.png", "RGB", {}), ("a.jpg", "RGB", {}), ("a.jpg", "L", {}), ("a.webp", "RGB", {}), ("a.png", "P", {})],
)
def test_what_a_browser_shows_alike_is_served_as_it_is(
    tmp_path: Path, name: str, mode: str, options: dict[str, Any]
) -> None:
    path = tmp_path / name
    _pixels(mode).save(path, **options)
    content, media_type = Pictures().content(str(path))
    assert content == path.read_bytes()
    assert media_type == {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}[name[2:]]


@pytest.mark.parametrize(
    ("name", "mode", "options"),
    [
        ("a.tif", "RGB", {}), ("a.jpg", "CMYK", {}), ("a.bmp", "RGB", {}), ("a.ppm", "RGB", {}), ("a.png", "RGBA", {}),
        ("a.png", "RGB", {"icc_profile": _profile()}), ("a.jpg", "RGB", {"icc_profile": _profile()}),
        ("a.gif", "P", {}), ("a.webp", "RGB", {"exif": _turned()}), ("a.png", "RGB", {"exif": _turned()}),
        ("a.jpg", "RGB", {"exif": _turned()}),
    ],
)  # fmt: skip
def test_other_pictures_become_what_metrics_see(tmp_path: Path, name: str, mode: str, options: dict[str, Any]) -> None:
    path = tmp_path / name
    _pixels(mode).save(path, **options)
    pictures = Pictures()
    for _ in range(2):  # the second time it is kept
        content, media_type = pictures.content(str(path))
        assert media_type == "image/png"
        shown = np.asarray(Image.open(io.BytesIO(content)))
        np.testing.assert_array_equal(shown, np.asarray(load_image(path)))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_half_a_picture_is_not_served(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    _pixels("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError):
        Pictures().content(str(path))


def test_converted_pictures_are_kept_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Callable[..., list[Any]]
) -> None:
    names = [str(tmp_path / f"{number}.bmp") for number in range(3)]
    for number, name in enumerate(names):
        Image.fromarray(draw(40, 40, number)).save(name)
    pictures = Pictures()
    sizes = [len(pictures.content(name)[0]) for name in names]
    monkeypatch.setattr(pictures_module, "_KEPT_BYTES", max(sizes) * 2)
    pictures = Pictures()
    reads = watch(pictures_module, "read_content")
    for name in (*names, names[2], names[1], names[0]):
        pictures.content(name)
    assert len(reads) == 4  # the first was given up for the third


def test_a_port_in_use_is_named() -> None:
    with listen("127.0.0.1", 0) as one:
        port = one.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port}: .*--port"):
            listen("127.0.0.1", port)
    for host in ("no.such.invalid", "a..b", "x" * 70):
        with pytest.raises(InputError, match=f"--host {re.escape(host)}: "):
            listen(host, 0)
    assert one.family == socket.AF_INET
