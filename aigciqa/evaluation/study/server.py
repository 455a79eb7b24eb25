"""The pages of a study, served to raters and to whoever runs it.

Each page is opened by a link whose end is a secret, which becomes a cookie. What changes the study needs a token of
that page as well. Of files, only the study's pictures are served, by their ids.
"""

from __future__ import annotations

import importlib.resources
import os
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from typing import Any

from aigciqa.errors import ImageError, InputError
from aigciqa.evaluation.study import progress
from aigciqa.evaluation.study.pictures import Pictures
from aigciqa.evaluation.study.settings import BETTER, SAME, WORSE
from aigciqa.evaluation.study.steps import Rater, Step
from aigciqa.evaluation.study.store import Study
from aigciqa.evaluation.study.votes import votes_csv
from aigciqa.evaluation.study.web import HEADERS, SafeHeaders, is_same, json_of, number_of, text_of
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.paths import relative

with needs_extra("rate", "rating pages need starlette and jinja2"):
    import jinja2
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
    from starlette.routing import Route

_STATIC = {"study.css": "text/css", "study.js": "text/javascript", "icon.svg": "image/svg+xml"}
_COOKIE_SECONDS = 180 * 86_400
_PICTURE_SECONDS = 86_400
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}


def make_app(study: Study, url: str | None = None) -> Starlette:
    """The application that serves a study; `url` is where raters reach it, if that is not where the browser does."""
    return _Pages(study, url).app()


class _Pages:
    def __init__(self, study: Study, url: str | None) -> None:
        self.study, self.url = study, url
        self.pictures = Pictures()
        self.rater_cookie, self.admin_cookie = f"aigciqa-rater-{study.id}", f"aigciqa-admin-{study.id}"
        self.static = {name: _read("static", name) for name in _STATIC}
        self.templates = jinja2.Environment(
            loader=jinja2.PackageLoader("aigciqa.evaluation.study"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        self.templates.globals["picture_url"] = self.picture_url

    def app(self) -> Starlette:
        def get(path: str, endpoint: Callable[[Request], Any]) -> Route:
            return Route(path, endpoint, methods=["GET"])

        def post(path: str, endpoint: Callable[[Request], Any]) -> Route:
            return Route(path, endpoint, methods=["POST"])

        routes = [
            get("/", self.home),
            get("/r/{secret}", self.enter),
            get("/join/{secret}", self.join_page),
            post("/join/{secret}", self.join),
            get("/rate", self.rate),
            get("/step", self.step),
            post("/vote", self.rating(self.vote)),
            post("/skip", self.rating(self.skip)),
            post("/undo", self.rating(self.undo)),
            get("/picture/{picture}/{key}", self.picture),
            get("/static/{name}", self.static_file),
            get("/admin/votes.csv", self.export),
            get("/admin/{secret}", self.enter_admin),
            get("/admin", self.admin),
            post("/admin/invite", self.managing(self.invite)),
            post("/admin/close", self.managing(self.close)),
            post("/admin/anonymous", self.managing(self.anonymous)),
            post("/admin/delete", self.managing(self.delete)),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: self.refused, InputError: self.wrong, Exception: self.failed}
        app = Starlette(routes=routes, exception_handlers=handlers)
        app.add_middleware(SafeHeaders)
        return app

    # Pages and links

    def home(self, request: Request) -> Response:
        return RedirectResponse("/rate", 303) if self._rater(request) else self._message(*_NO_LINK)

    def enter(self, request: Request) -> Response:
        rater = self.study.rater(request.path_params["secret"])
        return self._message(*_WRONG_LINK) if rater is None else self._enter_as(request, rater)

    def join_page(self, request: Request) -> Response:
        if not self._is_joining(request):
            return self._message(*_WRONG_LINK)
        if self._rater(request) is not None:  # who comes by the same link again goes on
            return RedirectResponse("/rate", 303)
        if self.study.is_closed:
            return self._message("This study is closed", "No more votes are taken. Thank you for your interest.", 200)
        return self._page("join.html.j2", token=self.study.sign("join"))

    def join(self, request: Request) -> Response:
        if not self._is_joining(request) or self.study.is_closed:
            raise HTTPException(403, "This link is not valid any more.")
        if not is_same(request.headers.get("X-Token"), self.study.sign("join")):  # a form of another site's
            raise HTTPException(403, "This is not the page of the link: open it once more.")
        rater = self._rater(request) or self.study.invite("by the link for all")
        response = JSONResponse({"location": "/rate"})
        self._set_cookie(request, response, self.rater_cookie, rater.secret)
        return response

    def rate(self, request: Request) -> Response:
        rater = self._rater(request)
        if rater is None:
            return self._message(*_NO_LINK)
        # Who rates on the machine that serves is most likely who runs the study, and is told what to do with the votes.
        # The browser's word alone does not do, nor that of a server in front, which may call this one by its address.
        is_own = self.url is None and {request.url.hostname, request.client and request.client.host} <= _LOOPBACK
        own_study = shlex.quote(relative(self.study.path, os.curdir)) if is_own else None
        return self._page(
            "rate.html.j2",
            rater=rater,
            token=self._token(rater),
            settings=self.study.settings,
            own_study=own_study,
        )

    def step(self, request: Request) -> Response:
        rater = self._rater(request)
        if rater is None:
            raise HTTPException(403, _NO_LINK[1])
        return JSONResponse(self._shown(self.study.step(rater.id)))

    # What raters do

    def vote(self, rater: Rater, sent: dict[str, Any]) -> tuple[bool, Step]:
        score = sent.get("score")
        if self.study.settings.method == "pairs":
            score = {"left": BETTER, "right": WORSE, "same": SAME}.get(str(score))
        return self.study.vote(
            rater.id, text_of(sent, "key"), number_of(sent, "slot"), text_of(sent, "question"), score,  # type: ignore[arg-type]
            sent.get("seconds"), sent.get("scale"),
        )  # fmt: skip

    def skip(self, rater: Rater, sent: dict[str, Any]) -> tuple[bool, Step]:
        return self.study.skip(rater.id, text_of(sent, "key"), number_of(sent, "slot"), text_of(sent, "reason"))

    def undo(self, rater: Rater, sent: dict[str, Any]) -> tuple[bool, Step]:
        return self.study.undo(rater.id, text_of(sent, "key"))

    def rating(
        self, act: Callable[[Rater, dict[str, Any]], tuple[bool, Step]]
    ) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that changes what a rater has said; the answer leaves when that is on the disk."""

        async def endpoint(request: Request) -> Response:
            sent = await json_of(request)

            def record() -> Response:
                rater = self._rater(request)
                if rater is None:
                    raise HTTPException(403, _NO_LINK[1])
                if not is_same(request.headers.get("X-Token"), self._token(rater)):
                    raise HTTPException(403, "This page was opened by another link: load it again.")
                recorded, step = act(rater, sent)
                return JSONResponse({"recorded": recorded, **self._shown(step)}, 200 if recorded else 409)

            return await run_in_threadpool(record)

        return endpoint

    # Pictures and files

    def picture(self, request: Request) -> Response:
        picture, key = request.path_params["picture"], request.path_params["key"]
        path = self.study.path_of(int(picture)) if is_same(key, self._key(picture)) else None
        if path is None:
            raise HTTPException(404, "There is no such picture.")
        try:
            content, media_type = self.pictures.content(path)
        except ImageError:  # its text has the path, which is no rater's business
            raise HTTPException(404, "This picture can't be read.") from None
        return Response(content, 200, {"Cache-Control": f"private, max-age={_PICTURE_SECONDS}"}, media_type)

    def static_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self.static:
            raise HTTPException(404, "There is no such page.")
        return Response(self.static[name], 200, {"Cache-Control": "no-cache"}, _STATIC[name])

    # For whoever runs the study

    def enter_admin(self, request: Request) -> Response:
        if not is_same(request.path_params["secret"], self.study.admin_secret):
            return self._message(*_WRONG_LINK)
        response = RedirectResponse("/admin", 303)
        self._set_cookie(request, response, self.admin_cookie, self.study.admin_secret)
        return response

    def admin(self, request: Request) -> Response:
        if not self._is_admin(request):
            return self._message(*_NO_LINK)
        study, query = self.study, request.query_params
        names = list(study.settings.by_name)
        question = query.get("question") if query.get("question") in names else names[0]
        order = query.get("order") if query.get("order") in progress.ORDERS else "votes"
        pages = max(1, -(-study.sizes.rated // progress.PAGE))
        asked = query.get("page", "1")
        page = min(pages, max(1, int(asked))) if asked.isdecimal() and len(asked) < 10 else 1
        return self._page(
            "admin.html.j2",
            study=study,
            token=self.study.sign("admin"),
            overview=progress.overview(study),
            items=progress.items(study, str(question), order, page - 1),  # type: ignore[arg-type]
            question=question,
            order=order,
            orders=progress.ORDERS,
            page=page,
            pages=pages,
            closed=study.is_closed,
            base=(self.url or str(request.base_url)).rstrip("/"),
        )

    def export(self, request: Request) -> Response:
        if not self._is_admin(request):
            return self._message(*_NO_LINK)
        headers = {"Content-Disposition": 'attachment; filename="votes.csv"', "Cache-Control": "no-store"}
        return StreamingResponse(votes_csv(self.study.path), 200, headers, "text/csv; charset=utf-8")

    def invite(self, sent: dict[str, Any]) -> None:
        self.study.invite(text_of(sent, "label"))

    def close(self, sent: dict[str, Any]) -> None:
        self.study.set_closed(sent.get("on") is True)

    def anonymous(self, sent: dict[str, Any]) -> None:
        self.study.set_anonymous(sent.get("on") is True)

    def delete(self, sent: dict[str, Any]) -> None:
        self.study.delete_rater(number_of(sent, "rater"))

    def managing(self, act: Callable[[dict[str, Any]], None]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that changes the study."""

        async def endpoint(request: Request) -> Response:
            sent = await json_of(request)
            if not self._is_admin(request) or not is_same(request.headers.get("X-Token"), self.study.sign("admin")):
                raise HTTPException(403, _NO_LINK[1])
            await run_in_threadpool(act, sent)
            return JSONResponse({"done": True})

        return endpoint

    # Helpers

    def picture_url(self, picture: int) -> str:
        return f"/picture/{picture}/{self._key(str(picture))}"

    def refused(self, request: Request, error: HTTPException) -> Response:
        if request.method == "GET" and request.url.path not in ("/step",):
            return self._message("Not here", str(error.detail), error.status_code)
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    def wrong(self, request: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    def failed(self, request: Request, error: Exception) -> Response:
        """What nobody foresaw: Starlette answers outside of `SafeHeaders`, and raises it for the log."""
        return JSONResponse({"error": "The server failed: try again."}, 500, {**HEADERS, "Cache-Control": "no-store"})

    def _shown(self, step: Step) -> dict[str, Any]:
        """A step as the page's script takes it."""
        question = self.study.settings.by_name[step.question] if step.question is not None else None
        return {
            **asdict(step),
            "text": question and question.text,
            "hint": question and question.hint,
            "pictures": [self.picture_url(each) for each in step.pictures],
            "upcoming": [self.picture_url(each) for each in step.upcoming],
            "reference": None if step.reference is None else self.picture_url(step.reference),
        }

    def _rater(self, request: Request) -> Rater | None:
        secret = request.cookies.get(self.rater_cookie)
        return self.study.rater(secret) if secret else None

    def _is_admin(self, request: Request) -> bool:
        return is_same(request.cookies.get(self.admin_cookie), self.study.admin_secret)

    def _is_joining(self, request: Request) -> bool:
        secret = self.study.anonymous_secret
        return secret is not None and is_same(request.path_params["secret"], secret)

    def _token(self, rater: Rater) -> str:
        return self.study.sign("rater", rater.id)

    def _key(self, picture: str) -> str:
        return self.study.sign("picture", picture)[:16]

    def _enter_as(self, request: Request, rater: Rater) -> Response:
        response = RedirectResponse("/rate", 303)
        self._set_cookie(request, response, self.rater_cookie, rater.secret)
        return response

    def _set_cookie(self, request: Request, response: Response, name: str, secret: str) -> None:
        secure = request.url.scheme == "https"
        # Lax, not strict: a rater comes by a link in a message. Votes need the token in a header besides.
        response.set_cookie(name, secret, _COOKIE_SECONDS, httponly=True, samesite="lax", secure=secure)

    def _page(self, template: str, status: int = 200, **values: Any) -> Response:
        text = self.templates.get_template(template).render(**values)
        # Bytes of a file's name that are not UTF-8 are lone surrogates.
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), status)

    def _message(self, title: str, text: str, status: int = 403) -> Response:
        return self._page("message.html.j2", status, title=title, text=text)


_NO_LINK = ("Open your link", "This page needs the link that you were sent: open it once more in this browser.")
_WRONG_LINK = ("This link is not valid", "It is incomplete, or it was taken back. Ask whoever sent it to you.", 404)


def _read(folder: str, name: str) -> bytes:
    return (importlib.resources.files("aigciqa.evaluation.study") / folder / name).read_bytes()
