"""A study under fire: thirty raters at once, a server that is killed, lost connections, double clicks, two tabs."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aigciqa.evaluation.study import open_study, read_votes

pytestmark = pytest.mark.slow

RATERS, IMAGES, KILLS = 30, 100, 3
SECONDS = 400.0


class Server:
    """`aigciqa rate` as a process of its own, on one port however often it is started."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.links = self.start(*arguments)

    def start(self, *arguments: str) -> list[str]:
        """Start it; returns the secrets of the raters whom it invites."""
        options = ["--study", "study.db", "--port", str(self.port), "--no-browser"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aigciqa.cli", "rate", *arguments, *options],
            stdout=subprocess.PIPE, text=True, cwd=self.folder,
        )  # fmt: skip
        assert self.process.stdout is not None
        links = []
        for line in self.process.stdout:
            links += re.findall(r"^r\d+: .*/r/(\S+)$", line)
            if "for you alone" in line:
                return links
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Browser:
    """One rater, with all the accidents that happen to one; what was acknowledged is in `votes`."""

    def __init__(self, port: int, secret: str, seed: int, deadline: float) -> None:
        self.port, self.random, self.deadline = port, random.Random(seed), deadline
        self.votes: dict[str, float] = {}  # picture -> score
        self.accidents: Counter[str] = Counter()
        self.cookie = ""
        self.cookie = self.patiently(lambda: self.once("GET", f"/r/{secret}"))[2].split(";")[0]
        page = self.patiently(lambda: self.once("GET", "/rate"))[1]
        self.token = re.search(r'name="token" content="(\w+)"', page)[1]  # type: ignore[index]

    def once(self, method: str, path: str, body: Any = None) -> tuple[int, str, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        with contextlib.closing(connection):
            headers = {"Cookie": self.cookie, "X-Token": getattr(self, "token", "")}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.headers.get("set-cookie", "")

    def patiently(self, request: Callable[[], tuple[int, str, str]]) -> tuple[int, str, str]:
        """Ask until there is an answer, as the page does."""
        while True:
            try:
                return request()
            except (OSError, http.client.HTTPException):
                self.accidents["no answer"] += 1
                assert time.monotonic() < self.deadline
                time.sleep(0.1)

    def step(self) -> dict[str, Any]:
        return dict(json.loads(self.patiently(lambda: self.once("GET", "/step"))[1]))

    def act(self, path: str, body: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
        status, text, _ = self.patiently(lambda: self.once("POST", path, body))
        assert status in (200, 409), text
        told = json.loads(text)
        return told["recorded"], told

    def hang_up(self, path: str, body: dict[str, Any]) -> None:
        """Send, and lose the connection before the answer."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            connection.request("POST", path, json.dumps(body), {"Cookie": self.cookie, "X-Token": self.token})
            connection.close()

    def vote(self, step: dict[str, Any], chance: str) -> dict[str, Any]:
        body = {"slot": step["slot"], "question": step["question"], "score": self.random.randint(1, 5), "seconds": 2}
        body["key"] = uuid.uuid4().hex
        self.accidents[chance] += 1
        if chance == "no choice":
            assert self.once_refused({**body, "score": None})
        if chance == "lost connection":
            self.hang_up("/vote", body)
        if chance == "double click":  # both on their way at once, each with a key of its own
            other = {**body, "key": uuid.uuid4().hex, "score": self.random.randint(1, 5)}
            answers: list[tuple[int, bool]] = []
            thread = threading.Thread(target=lambda: answers.append((other["score"], self.act("/vote", other)[0])))
            thread.start()
            answers.append((body["score"], self.act("/vote", body)[0]))
            thread.join()
            (score,) = [score for score, recorded in answers if recorded]  # one of them, whichever came first
            self.votes[step["pictures"][0]] = score
            return self.step()
        recorded, told = self.act("/vote", body)
        assert recorded
        self.votes[step["pictures"][0]] = body["score"]
        if chance == "second tab":  # which still shows the picture before
            late, same = self.act("/vote", {**body, "key": uuid.uuid4().hex, "score": 6 - body["score"]})
            assert (late, same["slot"]) == (False, told["slot"])
        if chance == "reload":
            assert self.step()["slot"] == told["slot"]
        if chance == "undo":
            undo = {"key": uuid.uuid4().hex}
            self.hang_up("/undo", undo)
            recorded, told = self.act("/undo", undo)
            assert recorded
            assert told["slot"] == step["slot"]
            del self.votes[step["pictures"][0]]
        return told

    def once_refused(self, body: dict[str, Any]) -> bool:
        return self.patiently(lambda: self.once("POST", "/vote", body))[0] == 400

    def rate_all(self) -> None:
        chances = ["reload", "double click", "second tab", "lost connection", "undo", "no choice"]
        step = self.step()
        while step["status"] == "rate":
            step = self.vote(step, self.random.choice(chances) if self.random.random() < 0.3 else "none")


def test_every_acknowledged_vote_is_there_exactly_once(tmp_path: Path, write_images: Callable[..., list[str]]) -> None:
    write_images("outputs", *(f"{number:03}.png" for number in range(IMAGES)), size=(16, 16))
    server = Server(tmp_path, "outputs", "--invite", str(RATERS))
    deadline = time.monotonic() + SECONDS
    browsers = [Browser(server.port, link, seed, deadline) for seed, link in enumerate(server.links)]
    problems: list[BaseException] = []

    def run(browser: Browser) -> None:
        try:
            browser.rate_all()
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=run, args=[browser], daemon=True) for browser in browsers]
    for thread in threads:
        thread.start()
    for number in range(1, KILLS + 1):
        while sum(len(browser.votes) for browser in browsers) < RATERS * IMAGES * number / (KILLS + 1):
            assert time.monotonic() < deadline
            assert not problems
            time.sleep(0.05)
        server.kill()
        server.start()
    for thread in threads:
        thread.join(deadline - time.monotonic())
    assert not problems
    assert not any(thread.is_alive() for thread in threads)
    assert sum((browser.accidents for browser in browsers), Counter())["no answer"] >= KILLS

    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0
    with open_study(tmp_path / "study.db") as study, study.reading() as database:
        names = {row[0]: os.fsdecode(row[1]) for row in database.execute("SELECT id, name FROM pictures")}
        assert database.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert database.execute("SELECT SUM(votes) FROM item_tally").fetchone()[0] == RATERS * IMAGES
    votes = list(read_votes(tmp_path / "study.db"))
    clicks = {
        (f"r{number}", names[int(picture.split("/")[2])]): score
        for number, browser in enumerate(browsers, 1)
        for picture, score in browser.votes.items()
    }
    assert len(votes) == len(clicks) == RATERS * IMAGES
    assert {(each.rater, each.image): each.score for each in votes} == clicks


def test_a_second_server_on_the_study_is_refused_and_a_killed_one_leaves_no_lock(
    tmp_path: Path, write_images: Callable[..., list[str]]
) -> None:
    write_images("outputs", "a.png")
    server = Server(tmp_path, "outputs", "--invite", "1")
    command = [sys.executable, "-m", "aigciqa.cli", "rate", "--study", "study.db", "--no-browser", "--port", "0"]
    second = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert second.returncode == 2
    assert "study.db is being written by another run" in second.stderr
    server.kill()
    for stop in (signal.SIGINT, signal.SIGTERM):
        server.start()
        server.process.send_signal(stop)
        assert server.process.wait(20) == 0
        assert not (tmp_path / "study.db-wal").exists()
