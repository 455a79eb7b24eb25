"""What raters and whoever runs a study wait for: the server, the next picture, the study's page.

    python benchmarks/rating.py [PART ...]

PART is one or more of ready, next, admin; all by default.

ready: seconds from the command to the first page, with a folder of 1000 pictures. At most 2.
next: milliseconds from a click to the next picture, for 20 raters who click at once, each a second after the picture
came: the vote, and the picture of 512 x 512 pixels, which a browser has loaded ahead. At most 100 for 95 of 100.
admin: seconds for the study's page with 100,000 pictures and 1,000,000 votes of 100 raters. At most 2.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from aigciqa.evaluation.study import Entry, create_study, open_study

RATERS, PICTURES, PAUSE = 20, 1000, 1.0
VOTES_EACH = 30
MANY_ITEMS, MANY_RATERS, MANY_VOTES = 100_000, 100, 1_000_000


def main() -> None:
    """Print a line for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=("ready", "next", "admin"), metavar="PART")
    parts = parser.parse_args().parts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "ready" in parts or "next" in parts:
            draw(folder / "outputs")
            begin = time.perf_counter()
            with serving(folder, "outputs", "--invite", str(RATERS)) as (port, links, _):
                get(port, f"/r/{links[0]}")
                print(f"ready after {time.perf_counter() - begin:.2f} s (at most 2)", flush=True)
                if "next" in parts:
                    print_waits(port, links)
        if "admin" in parts:
            print_admin(folder)


def draw(folder: Path) -> None:
    """Noisy pictures of half a megabyte."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        first = folder / "0000.png"
        if number == 0:
            Image.fromarray(rng.integers(100, 140, (512, 512, 3), dtype=np.uint8)).save(first)
        else:
            (folder / f"{number:04}.png").hardlink_to(first)


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[tuple[int, list[str], str]]:
    """`aigciqa rate` as a process: its port, the raters' secrets, the admin's."""
    command = [sys.executable, "-m", "aigciqa.cli", "rate", *arguments, "--study", "study.db", "--no-browser"]
    process = subprocess.Popen(
        [*command, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder
    )
    assert process.stdout is not None
    links: list[str] = []
    try:
        for line in process.stdout:
            links += re.findall(r"/r/(\S+)", line)
            if (admin := re.search(r":(\d+)/admin/(\S+)", line)) is not None:
                yield int(admin[1]), links, admin[2]
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait()


def get(port: int, path: str, cookie: str = "") -> tuple[bytes, str]:
    """An answer's body and cookie."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", path, headers={"Cookie": cookie})
        answer = connection.getresponse()
        return answer.read(), (answer.headers.get("set-cookie") or "").partition(";")[0]


def print_waits(port: int, links: list[str]) -> None:
    """Percentiles of the time from click to next picture."""
    waits: list[float] = []

    def rate(link: str) -> None:
        cookie = get(port, f"/r/{link}")[1]
        token = re.search(rb'name="token" content="(\w+)"', get(port, "/rate", cookie)[0])
        assert token is not None
        headers = {"Cookie": cookie, "X-Token": token[1].decode()}
        step = json.loads(get(port, "/step", cookie)[0])
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
            for _ in range(VOTES_EACH):
                time.sleep(random.uniform(0, 2 * PAUSE))
                vote = {"key": uuid.uuid4().hex, "slot": step["slot"], "question": step["question"], "score": 4}
                begin = time.perf_counter()
                connection.request("POST", "/vote", json.dumps(vote), headers)
                step = json.loads(connection.getresponse().read())
                connection.request("GET", step["pictures"][0], headers=headers)
                connection.getresponse().read()
                waits.append(1000 * (time.perf_counter() - begin))

    threads = [threading.Thread(target=rate, args=[link]) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    median, most = np.percentile(waits, [50, 95])
    print(
        f"click to next picture, {len(links)} raters, {len(waits)} clicks: median {median:.0f} ms, "
        f"95th percentile {most:.0f} ms (at most 100)",
        flush=True,
    )


def print_admin(folder: Path) -> None:
    """How long the study's page takes with many pictures and votes."""
    path = folder / "study.db"
    path.unlink(missing_ok=True)
    fill(path)
    with serving(folder) as (port, _, secret):
        cookie = get(port, f"/admin/{secret}")[1]
        times = []
        for order in ("votes", "best", "worst", "unsure", "listed"):
            begin = time.perf_counter()
            size = len(get(port, f"/admin?order={order}&page=7", cookie)[0])
            times.append(time.perf_counter() - begin)
        print(
            f"study's page, {MANY_ITEMS:,} pictures, {MANY_VOTES:,} votes: {times[0]:.2f} s, other orders up to "
            f"{max(times):.2f} s (at most 2), {size / 1e3:.0f} kB; file {os.path.getsize(path) / 1e6:.0f} MB",
            flush=True,
        )


def fill(path: Path) -> None:
    """A study with votes, written straight into its tables; one in twenty is on a repeat, one in fifty is quick."""
    rng = random.Random(0)
    each = MANY_VOTES // MANY_RATERS
    with create_study(path, (Entry(f"outputs/{number:06}.png") for number in range(MANY_ITEMS))) as study:
        raters = [study.invite().id for _ in range(MANY_RATERS)]
    with open_study(path) as study, study._writing() as database:
        for rater in raters:
            items = rng.sample(range(1, MANY_ITEMS + 1), each)
            first = each * (rater - 1)
            slots, votes = [], []
            for place, item in enumerate(items, 1):
                slot = first + place
                repeats = slot - 10 if place % 20 == 0 else None
                kind, item = ("rated", item) if repeats is None else ("repeat", items[place - 11])
                slots.append((slot, rater, place, item, kind, repeats, 0, 0.0, 1, "done"))
                seconds = rng.uniform(0.5, 20)
                votes.append(
                    (f"key-{slot}", rater, slot, item, kind, "quality", rng.randint(1, 5), seconds, "2026-01-01")
                )
            database.executemany("INSERT INTO slots VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", slots)
            database.executemany(
                "INSERT INTO votes (key, rater, slot, item, kind, question, score, seconds, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                votes,
            )
        database.execute("UPDATE raters SET finished = ?", [each])
        database.execute("UPDATE items SET done = COALESCE((SELECT votes FROM item_tally WHERE item = items.id), 0)")


if __name__ == "__main__":
    main()
