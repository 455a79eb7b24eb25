"""What the pages need of HTTP: a socket, headers that keep strangers out, and bodies that are checked."""

from __future__ import annotations

import hmac
import json
import socket
from typing import Any
from urllib.parse import urlsplit

from aigciqa.errors import InputError
from aigciqa.evaluation.study.settings import is_text
from aigciqa.utils.extras import needs_extra

with needs_extra("rate", "rating pages need starlette and uvicorn"):
    import uvicorn
    from starlette.datastructures import MutableHeaders
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
#: Bytes of a request, at most: a vote has a few hundred.
_MOST_BYTES = 65_536


def serve(app: ASGIApp, listening: socket.socket) -> None:
    """Serve on a socket that listens, until SIGINT or SIGTERM comes."""
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none", lifespan="off")
    uvicorn.Server(config).run(sockets=[listening])


def check_url(url: str | None) -> None:
    """Refuse where a server can't be reached; addresses within its pages count from the root."""
    try:
        parts = urlsplit(url or "http://none")
        fits = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and parts.path in ("", "/")
    except ValueError:  # such as brackets that don't close, or a port that is none
        fits = False
    if not fits or parts.query or parts.fragment:
        raise InputError(f"`url={url!r}`: expected http:// or https:// and a host, such as https://rate.example.org")


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; raises InputError if that address can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:  # the latter where a part of the name is empty or too long
        raise InputError(f"--host {host}: {getattr(error, 'strerror', None) or error}") from None
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows, REUSEADDR would share a port that is in use
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)
    except OSError as error:
        listening.close()
        raise InputError(f"can't listen on {host} port {port}: {error.strerror}; name another with --port") from None
    return listening


class SafeHeaders:
    """Puts the security headers on every answer; what is not a picture or a file is not kept by caches."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


async def json_of(request: Request) -> dict[str, Any]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BYTES:
            raise HTTPException(413, "This is too long.")
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        sent = None
    if not isinstance(sent, dict):
        raise HTTPException(400, "Expected a JSON object.")
    return sent


def text_of(sent: dict[str, Any], name: str) -> str:
    value = sent.get(name)
    if not isinstance(value, str) or len(value) > 1000 or not is_text(value):
        raise HTTPException(400, f"{name} is a text of at most 1000 characters.")
    return value


def number_of(sent: dict[str, Any], name: str) -> int:
    value = sent.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise HTTPException(400, f"{name} is a number.")
    return value


def is_same(given: str | None, expected: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode())
