"""TIFFs whose data is damaged so that libtiff prints an error and Pillow raises none."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from PIL import Image

from aigciqa import ImageError
from aigciqa.images.decode import load_content, load_image
from tests.conftest import draw

IMAGE = Image.fromarray(draw(160, 200))


def tiff(compression: str, mode: str, *, size: tuple[int, int] = IMAGE.size, **options: object) -> bytes:
    file = io.BytesIO()
    IMAGE.resize(size).convert(mode).save(file, "TIFF", compression=compression, **options)
    return file.getvalue()


#: Compression, mode, how an image is saved so; tag 292 holds the options of Group 3.
WAYS = {
    "modified Huffman": partial(tiff, "tiff_ccitt", "1"),
    "Group 3": partial(tiff, "group3", "1"),
    "Group 3, two-dimensional": partial(tiff, "group3", "1", tiffinfo={292: 1}),
    "Group 4": partial(tiff, "group4", "1"),
    "JPEG": partial(tiff, "jpeg", "RGB"),
    "JPEG in YCbCr": partial(tiff, "jpeg", "YCbCr"),
    "grey JPEG": partial(tiff, "jpeg", "L"),
    "LZMA": partial(tiff, "lzma", "RGB"),
    "LZMA in YCbCr": partial(tiff, "lzma", "YCbCr"),
    "deflate in YCbCr": partial(tiff, "tiff_adobe_deflate", "YCbCr"),
    "LZW in YCbCr": partial(tiff, "tiff_lzw", "YCbCr"),
}


def damaged(data: bytes) -> bytes:
    """A TIFF whose first strip has junk, an empty segment of a JPEG, or a wrong checksum in it."""
    with Image.open(io.BytesIO(data)) as image:
        start, length = image.tag_v2[273][0], image.tag_v2[279][0]
        compression = image.info["compression"]
    changed = bytearray(data)
    junk = random.Random(0).randbytes(length // 2)
    middle = start + length // 2
    if compression == "jpeg":
        changed[middle : middle + 4] = b"\xff\xc4\0\1"
    elif compression == "lzma":
        changed[start + length - 32] ^= 1  # after its last pixel
    else:
        changed[middle : middle + len(junk)] = junk
    return bytes(changed)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("way", WAYS)
class TestLibtiffsErrors:
    def test_a_damaged_image_is_refused_in_libtiffs_words(self, way: str, capfd: pytest.CaptureFixture[str]) -> None:
        data = damaged(WAYS[way]())
        pixels(data)  # Pillow takes what there is for the image
        printed = capfd.readouterr().err.splitlines()[0].removeprefix("tempfile.tif: ").rstrip(".")
        with pytest.raises(ImageError, match=r"^x\.tif: broken TIFF: \w+") as caught:
            load_content(data, "x.tif")
        assert printed in str(caught.value)
        assert capfd.readouterr().err == ""

    def test_an_intact_one_is_as_pillow_decodes_it(self, way: str, capfd: pytest.CaptureFixture[str]) -> None:
        data = WAYS[way]()
        assert np.array_equal(load_content(data, "x.tif"), pixels(data))
        assert capfd.readouterr().err == ""

    def test_a_tag_that_libtiff_does_not_know_does_no_harm(self, way: str) -> None:
        options = WAYS[way].keywords.get("tiffinfo", {})
        data = WAYS[way](tiffinfo={**options, 65000: "of our own"})
        with Image.open(io.BytesIO(data)) as image:
            assert image.tag_v2[65000] == "of our own"
        assert np.array_equal(load_content(data, "x.tif"), pixels(WAYS[way]()))


class TestStandardError:
    def test_what_others_print_meanwhile_is_kept(self, capfd: pytest.CaptureFixture[str]) -> None:
        data, done = tiff("group4", "1", size=(1000, 1000)), threading.Event()
        lines: list[bytes] = []

        def print_lines() -> None:
            while not done.wait(0.002):
                lines.append(b"line %d\n" % len(lines))
                os.write(2, lines[-1])

        printing = threading.Thread(target=print_lines)
        printing.start()
        for each in (data, damaged(data)) * 3:
            with contextlib.suppress(ImageError):
                load_content(each, "x.tif")
        done.set()
        printing.join()
        assert capfd.readouterr().err.encode() == b"".join(lines)

    def test_each_thread_gets_the_errors_of_its_own_image(self) -> None:
        whole = [WAYS[way]() for way in WAYS]
        ways = [(each, broken) for data in whole for each, broken in ((data, False), (damaged(data), True))] * 3

        def is_refused(data: bytes) -> bool:
            try:
                load_content(data, "x.tif")
            except ImageError:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(is_refused, [data for data, _ in ways])) == [broken for _, broken in ways]

    def test_the_errors_of_other_tiffs_are_not_taken_for_its_own(self) -> None:
        sound, broken = tiff("tiff_lzw", "YCbCr"), damaged(tiff("tiff_lzw", "L"))
        done = threading.Event()

        def fail() -> int:
            count = 0
            while not done.is_set():
                with pytest.raises(ImageError):
                    load_content(broken, "broken.tif")
                count += 1
            return count

        with ThreadPoolExecutor(3) as pool:
            failing = [pool.submit(fail) for _ in range(3)]
            try:
                for _ in range(50):
                    load_content(sound, "sound.tif")
            finally:
                done.set()
            assert all(each.result() for each in failing)

    def test_a_child_of_fork_has_it(self, capfd: pytest.CaptureFixture[str]) -> None:
        data, done = tiff("group4", "1", size=(1000, 1000)), threading.Event()

        def decode(content: bytes) -> None:
            while not done.is_set():
                load_content(content, "x.tif")

        decoding = [threading.Thread(target=decode, args=(each,)) for each in (data, tiff("tiff_lzw", "RGB"))]
        for thread in decoding:
            thread.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                os.write(2, b"child\n")
                load_content(data, "x.tif")
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        done.set()
        for thread in decoding:
            thread.join()
        assert capfd.readouterr().err == "child\n" * 5

    def test_a_closed_one(self) -> None:
        code = """
import os, sys
from aigciqa.images.decode import load_content
data = sys.stdin.buffer.read()
os.close(2)
try:
    load_content(data, "x.tif")
except ValueError as error:
    print(error)
try:
    os.fstat(2)
except OSError:
    print("still closed")
"""
        command = [sys.executable, "-c", code]
        ran = subprocess.run(command, input=damaged(tiff("group4", "1")), capture_output=True, check=True)
        first, last = ran.stdout.decode().splitlines()
        assert "broken TIFF: Fax4Decode: " in first
        assert last == "still closed"


def test_an_open_image_is_refused_as_a_file_is() -> None:
    with (
        Image.open(io.BytesIO(damaged(tiff("group4", "1")))) as image,
        pytest.raises(ImageError, match="PIL image: broken TIFF: Fax4Decode: "),
    ):
        load_image(image)
