"""A Hub on loopback: what huggingface_hub needs to create a repo, upload a commit and download files."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """The repos of a server: repo -> path -> bytes; one commit each."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.requests: list[str] = []
        self.agents: set[str] = set()

    def commit_of(self, repo: str) -> str:
        content = json.dumps({name: hashlib.sha1(data).hexdigest() for name, data in self.repos[repo].items()})
        return hashlib.sha1(content.encode()).hexdigest()


@contextmanager
def serve() -> Iterator[tuple[str, Hub]]:
    """Run a Hub on a free port: (its address, its content)."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self._resolve(body=False)

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            repo, found, _ = path.removeprefix("/api/models/").partition("/revision/")
            if found and repo in hub.repos:
                self._json({"id": repo, "sha": hub.commit_of(repo)})
            else:
                self._resolve(body=True)

        def do_POST(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"POST {path}")
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if path == "/api/repos/create":
                name = json.loads(sent)
                repo = f"{name['organization']}/{name['name']}" if name.get("organization") else name["name"]
                hub.repos.setdefault(repo, {})
                self._json({"url": f"{self._origin()}/{repo}"})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif "/preupload/" in path:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(sent)["files"]
                ]
                self._json({"files": files})
            elif "/commit/" in path:
                repo = path.removeprefix("/api/models/").split("/commit/")[0]
                for line in sent.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        hub.repos[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                commit = hub.commit_of(repo)
                self._json({"commitOid": commit, "commitUrl": f"{self._origin()}/{repo}/commit/{commit}"})
            else:
                self._error(404, "EntryNotFound")

        def _resolve(self, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.agents.add(self.headers.get("User-Agent", ""))
            repo, _, rest = unquote(urlsplit(self.path).path).strip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            if repo not in hub.repos:
                self._error(401 if "private" in repo else 404, "RepoNotFound")
            elif revision not in ("main", hub.commit_of(repo)):
                self._error(404, "RevisionNotFound")
            elif name not in hub.repos[repo]:
                self._error(404, "EntryNotFound")
            else:
                self._file(hub.repos[repo][name], hub.commit_of(repo), body)

        def _file(self, data: bytes, commit: str, body: bool) -> None:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def _json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _origin(self) -> str:
            return f"http://{self.headers['Host']}"

    return Handler
