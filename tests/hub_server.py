"""A Hub on loopback: what huggingface_hub needs to create repos, upload commits and download files; and its faults."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]
SHA256_OF_LARGE = (".safetensors",)


@dataclass
class Fault:
    """What goes wrong.

    Attributes:
        status: answered instead of the file, with `code` as the Hub's own name of the error.
        times: how often, before all is well.
        delay: seconds before an answer.
        truncate: a download has half of the bytes that were announced.
        flip: a download has one bit the other way.
        headers: added to answers for files, errors among them, or replacing what they have.
        redirect: address that answers for files send to.
        endless: a download never ends, and no length is announced.
        only: `"METHOD name"`, what the answers begin and end with that go wrong.
    """

    status: int = 0
    code: str = ""
    times: int = 10**9
    delay: float = 0.0
    truncate: bool = False
    flip: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    redirect: str = ""
    endless: bool = False
    only: str = " "

    def meets(self, request: str) -> bool:
        """Whether the answer to `"METHOD path"` goes wrong."""
        method, _, name = self.only.partition(" ")
        return request.startswith(method) and request.endswith(name)


@dataclass
class Hub:
    """The state of a server.

    Attributes:
        repos: repo -> branch -> path -> content; a branch is one commit.
        private: repos that need `TOKEN`.
        requests: `"METHOD path"` of all that came.
        agents, tokens: what came in the headers.
        uploads: large files by sha256, before their commit.
        sent: bytes of downloads.
    """

    repos: dict[str, dict[str, Files]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    fault: Fault = field(default_factory=Fault)
    requests: list[str] = field(default_factory=list)
    agents: set[str] = field(default_factory=set)
    tokens: set[str] = field(default_factory=set)
    uploads: Files = field(default_factory=dict)
    sent: int = 0

    def add(self, repo: str, files: Files, branch: str = "main") -> str:
        """Add a repo or a branch of it; returns its commit."""
        self.repos.setdefault(repo, {})[branch] = dict(files)
        return self.commit_of(repo, branch)

    def commit_of(self, repo: str, branch: str = "main") -> str:
        files = self.repos[repo][branch]
        return hashlib.sha1(json.dumps({n: hashlib.sha1(d).hexdigest() for n, d in files.items()}).encode()).hexdigest()

    def at(self, repo: str, revision: str) -> str | None:
        """Name of the branch that a revision is."""
        return next((b for b in self.repos[repo] if revision in (b, self.commit_of(repo, b))), None)


@contextmanager
def serve() -> Iterator[tuple[str, Hub]]:
    """Run a Hub on a free port: (its address, its state)."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", hub
    finally:
        server.shutdown()
        server.server_close()


TOKEN = "hf_test"


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        fault = Fault()

        def log_message(self, *_args: object) -> None:
            """Quiet."""

        def do_HEAD(self) -> None:
            self._answer(b"")

        def do_GET(self) -> None:
            self._answer(b"")

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

        def do_PUT(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            hub.uploads[hashlib.sha256(sent).hexdigest()] = sent
            self._json({})

        def _answer(self, sent: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            hub.agents.add(self.headers.get("User-Agent", ""))
            hub.tokens.add(self.headers.get("Authorization", "").removeprefix("Bearer "))
            self.fault = hub.fault if hub.fault.meets(hub.requests[-1]) else Fault()
            time.sleep(self.fault.delay)
            if self.fault.status and self.fault.times:
                self.fault.times -= 1
                self._error(self.fault.status, self.fault.code)
            elif self.command == "POST":
                self._post(path, sent)
            elif path.startswith("/api/models/"):
                repo, _, revision = path.removeprefix("/api/models/").partition("/revision/")
                branch = hub.at(repo, revision or "main")
                self._json({"id": repo, "sha": hub.commit_of(repo, branch or "main")})
            else:
                self._resolve(path)

        def _post(self, path: str, sent: bytes) -> None:
            if TOKEN not in self.headers.get("Authorization", ""):
                self._error(401, "")
            elif path == "/api/repos/create":
                asked = json.loads(sent)
                repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
                hub.repos.setdefault(repo, {"main": {}})
                if asked.get("visibility") == "private" or asked.get("private"):
                    hub.private.add(repo)
                self._json({"url": f"{self._origin()}/{repo}"})
            elif path == "/api/validate-yaml":
                self._json({"errors": [], "warnings": []})
            elif path.endswith("/info/lfs/objects/batch"):
                self._json(
                    {"transfer": "basic", "objects": [self._upload(entry) for entry in json.loads(sent)["objects"]]}
                )
            elif "/branch/" in path:
                repo, _, branch = path.removeprefix("/api/models/").partition("/branch/")
                hub.repos[repo].setdefault(branch, dict(hub.repos[repo]["main"]))
                self._json({})
            elif "/preupload/" in path:
                modes = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(SHA256_OF_LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(sent)["files"]
                ]
                self._json({"files": modes})
            else:
                self._commit(path, sent)

        def _upload(self, entry: dict[str, object]) -> dict[str, object]:
            return {**entry, "actions": {"upload": {"href": f"{self._origin()}/lfs/{entry['oid']}"}}}

        def _commit(self, path: str, sent: bytes) -> None:
            repo, _, branch = path.removeprefix("/api/models/").partition("/commit/")
            files = hub.repos[repo][branch]
            for line in map(json.loads, sent.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.uploads[value["oid"]]
            commit = hub.commit_of(repo, branch)
            self._json({"commitOid": commit, "commitUrl": f"{self._origin()}/{repo}/commit/{commit}"})

        def _resolve(self, path: str) -> None:
            repo, _, rest = path.strip("/").partition("/resolve/")
            revision, _, name = rest.rpartition("/")
            hidden = repo in hub.private and TOKEN not in self.headers.get("Authorization", "")
            if repo not in hub.repos or hidden:
                self._error(401 if hidden else 404, "RepoNotFound")
                return
            branch = hub.at(repo, revision)
            if branch is None:
                self._error(404, "RevisionNotFound")
            elif name not in hub.repos[repo][branch]:
                self._error(404, "EntryNotFound")
            else:
                self._file(hub.repos[repo][branch][name], hub.commit_of(repo, branch))

        def _file(self, data: bytes, commit: str) -> None:
            etag = hashlib.sha256(data).hexdigest()
            if self.command == "GET" and self.fault.truncate:
                data = data[: len(data) // 2]
            if self.command == "GET" and self.fault.flip:
                data = data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, **self.fault.headers}
            if not self.fault.endless:
                headers["Content-Length"] = str(len(data))
            self.send_response(302 if self.fault.redirect else 200)
            if self.fault.redirect:
                headers["Location"] = self.fault.redirect.replace("{path}", self.path)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                with suppress(ConnectionError):
                    self.wfile.write(data)
                    hub.sent += len(data)
                    while self.fault.endless:
                        self.wfile.write(b" " * (1 << 16))
                        hub.sent += 1 << 16

        def _json(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _error(self, status: int, code: str) -> None:
            self.send_response(status)
            for name, value in self.fault.headers.items():
                self.send_header(name, value)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _origin(self) -> str:
            return f"http://{self.headers['Host']}"

    return Handler
