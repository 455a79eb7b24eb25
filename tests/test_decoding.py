"""What decoding costs: memory that has a budget, time that is the decoder's own."""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image

from aigciqa import ImageError
from aigciqa.images.decode import BYTES_PER_PIXEL, MOST_BYTES_PER_PIXEL, load_content
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import Preprocess
from aigciqa.scoring import decoding
from aigciqa.utils import memory
from tests.conftest import Watch, draw

RGB = draw(9, 7)


@pytest.fixture
def budget(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many bytes all images that are decoded at a time take together: 1000, if nobody does."""

    def limit(size: int) -> None:
        monkeypatch.setattr(memory.DECODING, "limit", size)

    limit(1000)
    return limit


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.001)


class TestBudget:
    def test_what_does_not_fit_waits(self, budget: Callable[[int], None]) -> None:
        first, second = memory.Share(), memory.Share()
        first.take(600)
        waiting = in_thread(lambda: second.take(500))
        until(lambda: second.is_waiting)
        first.give_back()
        waiting.join()
        assert not second.is_waiting
        second.give_back()

    def test_what_exceeds_it_waits_to_be_alone(self, budget: Callable[[int], None]) -> None:
        first, huge, last = memory.Share(), memory.Share(), memory.Share()
        order: list[str] = []
        first.take(1)
        threads = [in_thread(lambda: (huge.take(5000), order.append("huge")))]
        until(lambda: huge.is_waiting)
        threads.append(in_thread(lambda: (last.take(1), order.append("last"))))  # which would fit, but came later
        until(lambda: last.is_waiting)
        first.give_back()
        until(lambda: order == ["huge"])
        assert last.is_waiting
        huge.give_back()
        for thread in threads:
            thread.join()
        assert order == ["huge", "last"]
        last.give_back()

    def test_one_that_is_given_back_while_it_waits_ends(self, budget: Callable[[int], None]) -> None:
        first, second, third = memory.Share(), memory.Share(), memory.Share()
        first.take(1000)
        errors: list[str] = []

        def work() -> None:
            try:
                second.take(1000)
            except ImageError as error:
                errors.append(str(error))

        waiting = in_thread(work)
        until(lambda: second.is_waiting)
        second.give_back()
        waiting.join()
        assert errors == ["the run was stopped"]
        for share in (first, second, first):
            share.give_back()
        third.take(1000)  # at once
        third.give_back()

    def test_a_child_of_fork_starts_with_all_of_it(self, budget: Callable[[int], None]) -> None:
        share = memory.Share()
        share.take(1000)
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            memory.Share().take(1000)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        share.give_back()

    def test_images_are_decoded_one_after_the_other_where_two_do_not_fit(
        self, tmp_path: Path, budget: Callable[[int], None], watch: Watch
    ) -> None:
        budget(63 * BYTES_PER_PIXEL["PNG"] * 3 // 2)
        paths = [tmp_path / f"{number}.png" for number in range(6)]
        for path in paths:
            Image.fromarray(RGB).save(path)
        alone = threading.Lock()

        def hold(*_: object) -> None:
            assert alone.acquire(blocking=False)
            time.sleep(0.01)
            alone.release()

        watch(Preprocessor, "image", hold)
        pool = decoding.DecoderPool(4, "pillow", torch.device("cpu"))
        spec = Preprocess(resize=None, crop=None)
        results = [pool.result(each) for each in [pool.submit(str(path), None, (spec,)) for path in paths]]
        pool.close()
        assert all(each.keys() == {spec} for each in results)

    def test_an_error_gives_back(self, budget: Callable[[int], None]) -> None:
        data = io.BytesIO()
        Image.fromarray(RGB).save(data, "JPEG")
        for _ in range(3):
            with pytest.raises(ImageError, match="truncated"):
                load_content(data.getvalue()[:-20], "x")
        share = memory.Share()
        share.take(1000)
        share.give_back()


#: How much more memory a process takes at its peak for a large image than for a small one. A process of its own starts
#: both, since Linux counts what the process that started one took.
MEASURE = """
import resource, subprocess, sys

def peak(path):
    code = "import sys; from aigciqa.images.decode import load_image; load_image(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, path], check=True)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

small = peak(sys.argv[1])
print(peak(sys.argv[2]) - small)
"""


def png_of_16_bits(side: int, colour: int) -> bytes:
    row = b"\0" + b"\x12\x34" * ({0: 1, 6: 4}[colour] * side)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 16, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(row * side, 1)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def saved(image_format: str, mode: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((3000, 3000)).convert(mode).save(file, image_format, **options)
    return file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("image_format", "make"),
    [
        ("PNG", partial(png_of_16_bits, 3000, 0)),
        ("PNG", partial(png_of_16_bits, 3000, 6)),
        ("PNG", partial(saved, "PNG", "RGBA")),
        ("JPEG", partial(saved, "JPEG", "CMYK", progressive=True)),
        ("GIF", partial(saved, "GIF", "RGBA")),
        ("BMP", partial(saved, "BMP", "RGB")),
        ("PPM", partial(saved, "PPM", "RGB")),
        ("WEBP", partial(saved, "WEBP", "RGBA", lossless=True, method=0)),
        ("JPEG2000", partial(saved, "JPEG2000", "RGB")),
        ("TIFF", partial(saved, "TIFF", "CMYK", compression="tiff_lzw")),
    ],
)
def test_a_pixel_takes_no_more_than_is_said_of_its_format(
    image_format: str, make: Callable[[], bytes], tmp_path: Path
) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "small.png")
    (tmp_path / "large").write_bytes(make())
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "small.png"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert 2 < int(done.stdout) / 3000**2 <= BYTES_PER_PIXEL.get(image_format, MOST_BYTES_PER_PIXEL)


#: Decodes for 0.6 seconds of its own; an image may take four, of which a stop counts as a tenth of one.
STOPPED = """
import json, sys, time
import torch
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import Preprocess
from aigciqa.scoring import decoding
decoding.DECODE_SECONDS, decoding.TICK_SECONDS = 4.0, 0.1
read = decoding.read_content

def slowly(path, reserve):
    for step in range(60):
        time.sleep(0.01)
        if step == 20:
            print("reading", flush=True)
    return read(path, reserve)

decoding.read_content = slowly
pool = decoding.DecoderPool(1, "pillow", torch.device("cpu"))
result = pool.result(pool.submit(sys.argv[1], None, ()))
print(json.dumps(result), flush=True)
"""


@pytest.mark.slow
def test_time_in_which_the_process_was_stopped_does_not_count(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "x.png")
    command = [sys.executable, "-c", STOPPED, str(tmp_path / "x.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "reading\n"
        child.send_signal(signal.SIGSTOP)
        time.sleep(5)
        child.send_signal(signal.SIGCONT)
        assert json.loads(child.stdout.readline()) == {}


def test_time_in_which_an_image_waits_for_memory_does_not_count(
    tmp_path: Path, decode_seconds: Callable[[float], None]
) -> None:
    decode_seconds(0.4)
    Image.fromarray(RGB).save(tmp_path / "x.png")
    other = memory.Share()
    other.take(memory.DECODING.limit)
    threading.Timer(0.7, other.give_back).start()
    pool = decoding.DecoderPool(1, "pillow", torch.device("cpu"))
    assert pool.result(pool.submit(str(tmp_path / "x.png"), None, ())) == {}
    pool.close()


def test_one_that_hangs_gives_its_memory_back(
    tmp_path: Path, decode_seconds: Callable[[float], None], budget: Callable[[int], None], watch: Watch
) -> None:
    decode_seconds(0.4)
    budget(1)
    released = threading.Event()
    names = [str(tmp_path / name) for name in ("hangs.png", "next.png")]
    for name, size in zip(names, (2, 3), strict=True):
        Image.new("RGB", (size, size)).save(name)
    watch(Preprocessor, "image", lambda _, image: image.width == 2 and released.wait())
    pool = decoding.DecoderPool(2, "pillow", torch.device("cpu"))
    spec = Preprocess(resize=None, crop=None)
    hung, following = [pool.submit(name, None, (spec,)) for name in names]
    assert pool.result(following).keys() == {spec}
    with pytest.raises(ImageError, match=r"hangs.png: decoding timed out after 0.4 seconds"):
        pool.result(hung)
    released.set()
    pool.close()
