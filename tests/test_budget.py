"""The encoded images that a run holds have one budget, and nobody waits for ever for room in it."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

import aigciqa
from aigciqa.scoring import decoding
from tests.conftest import COMMAND, Watch, call_command, draw, png
from tests.test_archives import END, IMAGE_THEN_ZEROS, MIB, ZEROS, header, squeezed
from tests.test_remote import pack

Write = Callable[..., list[str]]
BYTES = draw(40, 40).nbytes


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    return lambda size: monkeypatch.setattr("aigciqa.utils.memory.CONTENT_BYTES", size)


class Contents:
    """Arrays that are counted while they are in memory."""

    def __init__(self) -> None:
        self.live = self.most = 0
        self.lock = threading.RLock()

    def make(self, seed: int) -> np.ndarray:
        content = draw(40, 40, seed)
        with self.lock:
            self.live += 1
            self.most = max(self.most, self.live)
        weakref.finalize(content, self._gone)
        return content

    def items(self, count: int) -> Iterator[aigciqa.Item]:
        for number in range(count):
            yield aigciqa.Item(f"{number}", content=self.make(number), reference_content=self.make(1000 + number))

    def _gone(self) -> None:
        with self.lock:
            self.live -= 1


def scores(records: Iterator[aigciqa.Record]) -> list[float]:
    return [record.scores["quality"] for record in records]


@pytest.mark.parametrize("workers", [0, 4])
def test_contents_and_references_are_not_held_until_they_are_scored(limit: Callable[[int], None], workers: int) -> None:
    limit(3 * BYTES)
    contents = Contents()
    found = scores(aigciqa.score_files(contents.items(12), metric="fr-lite", batch_size=16, workers=workers))
    assert len(found) == 12
    assert contents.most <= 3 + 2 + 2  # those of the item that waits, and of the one before


def test_a_content_larger_than_the_budget_passes_alone(
    write_images: Write, limit: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So do files, each read when no other is held; with both kinds in turn, neither waits for the other for ever."""
    paths = write_images("gen", *(f"{number}.png" for number in range(8)))
    items = [
        item for path in paths for item in (aigciqa.Item(path), aigciqa.Item(path, content=Path(path).read_bytes()))
    ]
    expected = scores(aigciqa.score_files(items, metric="nr-lite", workers=4))
    inside, most = 0, 0
    lock = threading.Lock()
    load = decoding.load_content

    def counted(*arguments: Any, **options: Any) -> Image.Image:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        image = load(*arguments, **options)
        time.sleep(0.01)
        with lock:
            inside -= 1
        return image

    monkeypatch.setattr(decoding, "load_content", counted)
    limit(1)
    assert scores(aigciqa.score_files(items, metric="nr-lite", workers=4)) == pytest.approx(expected, abs=1e-5)
    assert most <= 2  # one that was given, one that was read


def test_a_run_that_ends_early_waits_for_nobody(limit: Callable[[int], None]) -> None:
    limit(1)
    before = threading.active_count()
    items = [aigciqa.Item("broken", content=b"x"), *Contents().items(20)]
    with pytest.raises(aigciqa.ImageError, match="broken"):
        list(aigciqa.score_files(items, metric="nr-lite", workers=2, batch_size=2, strict=True))
    records = aigciqa.score_files(Contents().items(20), metric="nr-lite", workers=2, batch_size=2)
    assert next(records).error is None
    records.close()
    assert threading.active_count() == before


def test_one_that_hangs_times_out_while_others_wait_for_its_room(
    write_images: Write, limit: Callable[[int], None], watch: Watch, decode_seconds: Callable[[float], None]
) -> None:
    """Those that waited do not time out: waiting is not decoding."""
    hang = threading.Event()
    watch(decoding, "load_content", lambda _, name, **__: name.endswith("hang.png") and hang.wait())
    decode_seconds(0.3)
    limit(1)
    paths = write_images("gen", "a.png", "hang.png", "z.png")
    given = [aigciqa.Item(path, content=Path(path).read_bytes()) for path in paths]
    for images in (given, paths):
        records = list(aigciqa.score_files(images, metric="nr-lite", workers=2))
        assert [record.error for record in records] == [
            None, f"{paths[1]}: decoding timed out after 0.3 seconds", None,
        ]  # fmt: skip
    hang.set()


def test_overlays_of_archives_are_drawn_all_the_same(tmp_path: Path, limit: Callable[[int], None]) -> None:
    pack(tmp_path / "a.tar", a_png=png(1), b_png=png(2), c_png=b"broken")
    limit(len(png(1)))
    done = call_command("a.tar", "-m", "nr-lite", "--maps", "maps", cwd=tmp_path)
    assert done.returncode == 1
    drawn = sorted((tmp_path / "maps").rglob("*lite.png"))
    assert [path.name for path in drawn] == ["a.png.nr-lite.png", "b.png.nr-lite.png"]
    for path in drawn:
        with Image.open(path) as shown:
            assert shown.size == (80, 70)


@pytest.mark.slow
def test_the_command_holds_no_more_whatever_an_archive_gives(tmp_path: Path) -> None:
    """Images that zeros make 20 MiB long, 1.2 GiB of them, and a batch that takes them all."""
    peaks = []
    for padding in (0, 19):
        pieces = [
            piece
            for number in range(60)
            for piece in (header(f"{number}.png", (1 + padding) * MIB), IMAGE_THEN_ZEROS, (ZEROS, padding))
        ]
        (tmp_path / "a.tar").write_bytes(squeezed(*pieces, END))
        arguments = ["a.tar", "-m", "nr-lite", "-o", f"{padding}.csv", "--batch-size", "64", "--quiet"]
        process = subprocess.Popen([*COMMAND, *arguments], cwd=tmp_path)
        seen, peak = psutil.Process(process.pid), 0
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.poll() is None:
                peak = max(peak, seen.memory_info().rss)
                time.sleep(0.01)
        assert process.wait(timeout=120) == 0
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 400 * MIB, peaks
