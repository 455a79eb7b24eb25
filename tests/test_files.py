"""Files as they come: every odd or broken one ends as the right image or as an error, never as anything else."""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import io
import json
import math
import os
import random
import signal
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from pyarrow import parquet
from tqdm import tqdm

from aigciqa import ImageError, score_files
from aigciqa.cli.score import main
from aigciqa.images.decode import load_image
from aigciqa.images.reading import MAX_BYTES
from aigciqa.scoring.sources import open_sources
from tests.conftest import Watch, call_command, draw, untrained

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")

HANG_SECONDS = 120
RGB = draw(9, 7)
GREY = RGB[:, :, 1]
ALPHA = RGB[:, :, 2]
OVER_WHITE = np.rint(RGB * (ALPHA / 255.0)[..., None] + (255.0 - ALPHA)[..., None]).astype(np.uint8)
#: Grey areas of 8 x 8 pixels, which JPEG at quality 100 keeps to the bit.
AREAS = np.kron(np.array([[10, 90, 200], [40, 150, 250]], np.uint8), np.ones((8, 8), np.uint8))
FRAMES = {"save_all": True, "append_images": [Image.fromarray(RGB[::-1].copy())]}
EXIF_HEADER = b"Exif\0\0"
AVIF = ".avif" in Image.registered_extensions()


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    """Fails a test that hangs, instead of hanging with it."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail(f"took more than {HANG_SECONDS} s"))
    signal.alarm(HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def encoded(pixels: np.ndarray | Image.Image, image_format: str, **options: object) -> bytes:
    image = copy.deepcopy(pixels) if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **copy.deepcopy(options))  # saving leaves traces in an image, so copies are saved
    return buffer.getvalue()


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels] * 3, axis=2)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, depth: int, colour: int, rows: Sequence[bytes], *extra: bytes, height: int | None = None) -> bytes:
    """A PNG of unfiltered rows; colour 0 is grey, 2 RGB, 3 palette."""
    header = struct.pack(">IIBBBBB", width, height or len(rows), depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def interlaced_png(count: int = 7) -> bytes:
    """GREY in the seven passes of an interlaced PNG, or in the first ones."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    rows = (b"\0" + row.tobytes() for x, y, dx, dy in passes[:count] for row in GREY[y::dy, x::dx])
    header = struct.pack(">IIBBBBB", GREY.shape[1], GREY.shape[0], 8, 0, 0, 0, 1)
    pixels = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def tiff(
    width: int, height: int, bits: int, pixels: bytes, *tags: tuple[int, int], samples: int = 1, black_is_0: bool = True
) -> bytes:
    """An uncompressed TIFF in one strip; `tags` of 16 bits replace or add to the usual ones."""
    values = {256: width, 257: height, 258: bits, 259: 1, 262: int(black_is_0), 277: samples, 278: height}
    values |= {273: 0, 279: len(pixels), **dict(tags)}
    start = 8 + 2 + 12 * len(values) + 4
    values[273] = start
    entries = (struct.pack("<HHIHxx", tag, 3, 1, value) for tag, value in sorted(values.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(values)) + b"".join(entries) + bytes(4) + pixels


def bmp_rle(pixels: bytes, width: int = 4) -> bytes:
    """A BMP of 3 rows, run-length encoded, with a palette of the greys 0, 10 .. 150."""
    palette = b"".join(bytes((10 * level, 10 * level, 10 * level, 0)) for level in range(16))
    start = 14 + 40 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, width, 3, 1, 8, 1, len(pixels), 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + sizes + palette + pixels


def _on_canvas(webp: bytes, width: int) -> bytes:
    """An animated WebP whose frames lie on another canvas (24 bits, less one, in the header of its first chunk)."""
    return webp[:24] + struct.pack("<I", width - 1)[:3] + webp[27:]


def exif(orientation: int) -> bytes:
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)


def with_app1(jpeg: bytes, content: bytes) -> bytes:
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content + jpeg[2:]


def changed(data: bytes, where: int, mask: int = 0x10) -> bytes:
    return data[:where] + bytes((data[where] ^ mask,)) + data[where + 1 :]


@dataclass(frozen=True)
class Kind:
    """A kind of file: what is at the path, and the image it shows or the words of its error."""

    content: bytes | Callable[[Path], object]
    pixels: np.ndarray | None = None
    error: str = ""
    tolerance: int = 0

    def make(self, path: Path) -> Path:
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            self.content(path)
        return path


def _link(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def _link_to_image(path: Path) -> None:
    target = path.with_suffix(".target")
    target.write_bytes(encoded(RGB, "PNG"))
    path.symlink_to(target.name)


def _sparse(path: Path) -> None:
    path.write_bytes(encoded(RGB, "PNG"))
    os.truncate(path, MAX_BYTES + 1)


def _cut(data: bytes, share: float = 0.6) -> bytes:
    return data[: int(len(data) * share)]


def _table() -> dict[str, Kind]:
    plain, jpeg = encoded(RGB, "PNG"), encoded(AREAS, "JPEG", quality=100)
    rgba = np.dstack([RGB, ALPHA])
    palette = Image.fromarray(RGB).quantize(16)
    half_clear = Image.fromarray(np.dstack([RGB, np.where(GREY > 90, 255, 0).astype(np.uint8)]))
    bilevel = Image.fromarray(GREY).convert("1", dither=Image.Dither.NONE)
    turned = {3: AREAS[::-1, ::-1], 6: np.rot90(AREAS, -1), 8: np.rot90(AREAS), 2: AREAS[:, ::-1], 5: AREAS.T}
    grey16 = np.array([[0, 257, 25700, 65535, 1000, 128]], np.uint16)
    from16 = np.array([[0, 1, 100, 255, 4, 0]], np.uint8)
    strip = draw(3, 2000)
    inks = np.array([[[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0]]], np.uint8)
    in_rgb = np.array([[[0, 255, 255], [255, 0, 255], [255, 255, 0], [0, 0, 0], [255, 255, 255]]], np.uint8)
    cmyk = Image.frombytes("CMYK", (5, 1), inks.tobytes())
    cmyk_areas = Image.merge("CMYK", [Image.fromarray(AREAS)] * 3 + [Image.new("L", AREAS.shape[::-1])])
    floats = struct.pack("<2f", 0.0, 0.5)
    jp2, j2k = (encoded(RGB, "JPEG2000", no_jp2=raw) for raw in (False, True))
    no_image = "not an image in a format that can be read"
    kinds = {
        # PNG
        "png": Kind(plain, RGB),
        "png 1 x 1": Kind(encoded(RGB[:1, :1], "PNG"), RGB[:1, :1]),
        "png 2000 x 3": Kind(encoded(strip, "PNG"), strip),
        "png 3 x 2000": Kind(encoded(strip.swapaxes(0, 1).copy(), "PNG"), strip.swapaxes(0, 1)),
        "png black": Kind(encoded(RGB * 0, "PNG"), RGB * 0),
        "png grey": Kind(encoded(GREY, "PNG"), grey(GREY)),
        "png LA": Kind(
            encoded(Image.merge("LA", [Image.new("L", (7, 9), 100), Image.new("L", (7, 9), 128)]), "PNG"),
            np.full((9, 7, 3), 177, np.uint8),
        ),
        "png RGBA": Kind(encoded(rgba, "PNG"), OVER_WHITE, tolerance=1),
        "png transparent all over": Kind(encoded(rgba * np.uint8([1, 1, 1, 0]), "PNG"), np.full_like(RGB, 255)),
        "png bilevel": Kind(encoded(bilevel, "PNG"), grey(np.where(GREY > 127, 255, 0).astype(np.uint8))),
        "png palette": Kind(encoded(palette, "PNG"), np.asarray(palette.convert("RGB"))),
        "png palette, one colour transparent": Kind(
            png(3, 8, 3, [b"\0\1\2"], chunk(b"PLTE", bytes((9, 8, 7, 1, 2, 3, 60, 70, 80))), chunk(b"tRNS", b"\xff\0")),
            np.uint8([[[9, 8, 7], [255, 255, 255], [60, 70, 80]]]),
        ),
        "png palette, two colours translucent": Kind(
            png(
                3, 8, 3, [b"\0\1\2"], chunk(b"PLTE", bytes((0, 0, 0, 0, 0, 0, 60, 70, 80))), chunk(b"tRNS", b"\x80\x40")
            ),
            np.uint8([[[127] * 3, [191] * 3, [60, 70, 80]]]),
        ),
        "png palette missing": Kind(png(2, 8, 3, [b"\0\5"]), error="broken"),
        "png 2 bits": Kind(png(4, 2, 0, [b"\x1b"]), grey(np.uint8([[0, 85, 170, 255]]))),
        "png 2 bits, one level transparent": Kind(
            png(4, 2, 0, [b"\x1b"], chunk(b"tRNS", b"\0\1")), grey(np.uint8([[0, 255, 170, 255]]))
        ),
        "png 4 bits, one level transparent": Kind(
            png(2, 4, 0, [b"\x12"], chunk(b"tRNS", b"\0\2")), grey(np.uint8([[17, 255]]))
        ),
        "png 16 bits": Kind(encoded(grey16, "PNG"), grey(from16)),
        "png 16 bits, one level transparent": Kind(
            png(3, 16, 0, [struct.pack(">3H", 0, 1000, 25700)], chunk(b"tRNS", struct.pack(">H", 1000))),
            grey(np.uint8([[0, 255, 100]])),
        ),
        "png 16 bits RGB": Kind(
            png(2, 16, 2, [struct.pack(">6H", 0, 257, 25700, 65535, 2570, 5140)]),
            np.uint8([[[0, 1, 100], [255, 10, 20]]]),
        ),
        "png RGB, one colour transparent": Kind(
            png(2, 8, 2, [bytes((1, 2, 3, 1, 2, 4))], chunk(b"tRNS", bytes((0, 1, 0, 2, 0, 3)))),
            np.uint8([[[255, 255, 255], [1, 2, 4]]]),
        ),
        "png 16 bits RGB, one colour transparent": Kind(
            png(
                2,
                16,
                2,
                [struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 257, 257, 257)],
                chunk(b"tRNS", b"\x124Vx\x9a\xbc"),
            ),
            np.uint8([[[255, 255, 255], [1, 1, 1]]]),
        ),
        "png interlaced": Kind(interlaced_png(), grey(GREY)),
        "png animated": Kind(encoded(RGB, "PNG", **FRAMES), RGB),
        "png turned by EXIF": Kind(encoded(RGB, "PNG", exif=EXIF_HEADER + exif(6)), np.rot90(RGB, -1)),
        "png with broken EXIF": Kind(
            png(2, 8, 0, [b"\1\2"], chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff")), grey(np.uint8([[1, 2]]))
        ),
        "png with EXIF that is none": Kind(png(2, 8, 0, [b"\1\2"], chunk(b"eXIf", b"junk")), grey(np.uint8([[1, 2]]))),
        "png with a corrupt ICC profile": Kind(
            png(2, 8, 0, [b"\1\2"], chunk(b"iCCP", b"name\0\0junk")), grey(np.uint8([[1, 2]]))
        ),
        "png with 5 MB of text": Kind(
            png(2, 8, 0, [b"\1\2"], chunk(b"tEXt", b"parameters\0" + b"x" * 5_000_000)), grey(np.uint8([[1, 2]]))
        ),
        "png with a text bomb": Kind(
            png(2, 8, 0, [b"\1\2"], chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50_000_000)))),
            grey(np.uint8([[1, 2]])),
        ),
        "png with junk at the end": Kind(plain + b"junk", RGB),
        "png with junk at the start": Kind(b"junk" + plain, error=no_image),
        "png with a bad CRC": Kind(changed(plain, plain.index(b"IDAT") + 40), error="checksum"),
        "png with a bad header": Kind(changed(plain, 17), error="checksum"),
        "png truncated": Kind(_cut(plain), error="truncated"),
        "png of one byte": Kind(plain[:1], error=no_image),
        "png with fewer rows than it says": Kind(png(2, 8, 0, [b"\1\2"], height=2), error="truncated"),
        "png without pixels": Kind(png(2, 8, 0, [], height=2), error="truncated"),
        "png interlaced, without its last pass": Kind(interlaced_png(6), error="truncated"),
        "png of 0 x 5": Kind(png(0, 8, 0, [b""] * 5), error=no_image),
        "png bomb": Kind(png(30_000, 1, 0, [bytes(3750)], height=30_000), error="bomb"),
        "png wider than any image": Kind(png(300_000, 1, 0, [bytes(37_500)]), error="side of more than"),
        "png strip of 1 x 3000": Kind(encoded(RGB[:1, :1].repeat(3000, 0), "PNG"), RGB[:1, :1].repeat(3000, 0)),
        # JPEG
        "jpeg": Kind(jpeg, grey(AREAS)),
        "jpeg progressive": Kind(encoded(AREAS, "JPEG", quality=100, progressive=True), grey(AREAS)),
        "jpeg named .png": Kind(jpeg, grey(AREAS)),
        "jpeg with junk at the end": Kind(jpeg + b"junk", grey(AREAS)),
        "jpeg with junk at the start": Kind(b"\n" + jpeg, error=no_image),
        "jpeg with broken EXIF": Kind(with_app1(jpeg, EXIF_HEADER + b"MM\0*\0\0\0\x08\xff\xff"), grey(AREAS)),
        "jpeg with a corrupt ICC profile": Kind(encoded(AREAS, "JPEG", quality=100, icc_profile=b"junk"), grey(AREAS)),
        "jpeg turned to nowhere": Kind(with_app1(jpeg, EXIF_HEADER + exif(99)), grey(AREAS)),
        "jpeg truncated": Kind(_cut(encoded(draw(40, 40), "JPEG"), 0.9), error="truncated"),
        "jpeg CMYK": Kind(encoded(cmyk_areas, "JPEG", quality=100), grey(255 - AREAS), tolerance=2),
        "jpeg bomb": Kind(jpeg.replace(struct.pack(">HH", *AREAS.shape), b"\xff\xff\xff\xff"), error="bomb"),
        "mpo": Kind(
            encoded(AREAS, "MPO", quality=100, save_all=True, append_images=[Image.new("L", (9, 9))]), grey(AREAS)
        ),
        # GIF and WebP
        "gif": Kind(encoded(GREY, "GIF"), grey(GREY)),
        "gif animated": Kind(
            encoded(GREY, "GIF", save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())]), grey(GREY)
        ),
        "gif transparent": Kind(
            encoded(Image.new("RGBA", (2, 2), (9, 9, 9, 0)), "GIF"), np.full((2, 2, 3), 255, np.uint8)
        ),
        "gif truncated": Kind(_cut(encoded(GREY, "GIF"), 0.95), error="truncated"),
        "gif bomb": Kind(b"GIF89a\xff\xff\xff\xff\0\0\0," + bytes(4) + b"\xff\xff\xff\xff\0\2\0;", error="bomb"),
        "webp lossless": Kind(encoded(RGB, "WEBP", lossless=True), RGB),
        "webp with alpha": Kind(encoded(half_clear, "WEBP", lossless=True), np.where(grey(GREY) > 90, RGB, 255)),
        "webp animated": Kind(encoded(RGB, "WEBP", lossless=True, **FRAMES), RGB),
        "webp animated on a huge canvas": Kind(_on_canvas(encoded(RGB, "WEBP", **FRAMES), 7_077_918), error="bomb"),
        "webp truncated": Kind(_cut(encoded(RGB, "WEBP", lossless=True)), error="could not create decoder"),
        # BMP
        "bmp": Kind(encoded(RGB, "BMP"), RGB),
        "bmp bilevel": Kind(encoded(bilevel, "BMP"), grey(np.where(GREY > 127, 255, 0).astype(np.uint8))),
        "bmp run-length encoded": Kind(
            bmp_rle(bytes((4, 3, 0, 0, 0, 4, 5, 6, 7, 8, 0, 0, 4, 9, 0, 1))),
            grey(np.uint8([[90] * 4, [50, 60, 70, 80], [30] * 4])),
        ),
        "bmp run-length encoded, truncated": Kind(bmp_rle(bytes((4, 3, 0, 0, 0, 4, 5, 6))), error="not enough"),
        "bmp run-length encoded, of huge rows": Kind(bmp_rle(bytes((0, 0, 0, 1)), width=2**24), error="bomb"),
        "bmp of negative width": Kind(changed(encoded(RGB, "BMP"), 21, 0xFF), error="bomb"),
        "bmp bomb": Kind(
            encoded(RGB, "BMP").replace(struct.pack("<ii", 7, 9), struct.pack("<ii", 30_000, 30_000)), error="bomb"
        ),
        # TIFF
        "tiff of pages": Kind(encoded(RGB, "TIFF", **FRAMES), RGB),
        "tiff LZW": Kind(encoded(RGB, "TIFF", compression="tiff_lzw"), RGB),
        "tiff turned": Kind(
            tiff(3, 2, 8, bytes((1, 2, 3, 4, 5, 6)), (274, 6)), grey(np.uint8([[4, 1], [5, 2], [6, 3]]))
        ),
        "tiff of pages, turned": Kind(encoded(RGB, "TIFF", tiffinfo={274: 6}, **FRAMES), np.rot90(RGB, -1)),
        "tiff 16 bits": Kind(tiff(6, 1, 16, grey16.tobytes()), grey(from16)),
        "tiff 16 bits, white is 0": Kind(tiff(6, 1, 16, grey16.tobytes(), black_is_0=False), error="black as 0"),
        "tiff 12 bits": Kind(tiff(2, 1, 12, b"\x12\x34\x56"), error="12 bits"),
        "tiff white is 0": Kind(tiff(3, 1, 8, b"\0\x64\xff", black_is_0=False), grey(np.uint8([[255, 155, 0]]))),
        "tiff of floats": Kind(tiff(2, 1, 32, floats, (339, 3)), error="32 bits"),
        "tiff of 32-bit integers": Kind(tiff(2, 1, 32, floats, (339, 2)), error="32 bits"),
        "tiff of signed 16-bit integers": Kind(tiff(2, 1, 16, bytes(4), (339, 2)), error="no agreed range"),
        "tiff CMYK": Kind(encoded(cmyk, "TIFF"), in_rgb),
        "tiff with premultiplied alpha": Kind(
            tiff(1, 1, 8, bytes((100, 0, 50, 128)), (262, 2), (338, 1), samples=4),
            np.uint8([[[227, 127, 177]]]),
            tolerance=1,
        ),
        "tiff truncated": Kind(_cut(encoded(RGB, "TIFF")), error="truncated"),
        "tiff whose pages go round": Kind(
            tiff(2, 1, 8, b"\1\2").replace(bytes(4) + b"\1\2", struct.pack("<I", 8) + b"\1\2"), grey(np.uint8([[1, 2]]))
        ),
        # PPM and its family
        "ppm": Kind(encoded(RGB, "PPM"), RGB),
        "ppm in plain text": Kind(b"P3\n2 1\n255\n1 2 3 40 50 60\n", np.uint8([[[1, 2, 3], [40, 50, 60]]])),
        "ppm in plain text, truncated": Kind(b"P3\n2 1\n255\n1 2 3 40 50 6", error="truncated"),
        "ppm of 100 levels": Kind(b"P5\n3 1\n100\n\0\x14\x64", grey(np.uint8([[0, 51, 255]]))),
        "pbm": Kind(b"P4\n8 1\n\x0f", grey(np.uint8([[255] * 4 + [0] * 4]))),
        "pgm 16 bits": Kind(b"P5\n6 1\n65535\n" + grey16.astype(">u2").tobytes(), grey(from16)),
        "pfm": Kind(b"Pf\n2 1\n-1.0\n" + floats, error="32 bits"),
        "ppm bomb": Kind(b"P6\n30000 30000\n255\n", error="bomb"),
        # JPEG 2000
        "jp2": Kind(jp2, RGB),
        "jp2 with a box at the end": Kind(jp2 + b"\0\0\0\x0cfree\0\0\0\0", RGB),
        "jp2 of unstated length": Kind(
            jp2.replace(struct.pack(">I", len(jp2) - jp2.index(b"jp2c") + 4) + b"jp2c", b"\0\0\0\0jp2c"), RGB
        ),
        "j2k": Kind(j2k, RGB),
        "j2k without its end mark": Kind(j2k[:-2], error="broken data stream"),
        # no images
        "zero bytes": Kind(b"", error="the file is empty"),
        "text named .png": Kind(b"not an image\n", error=no_image),
        "html named .png": Kind(b"<!DOCTYPE html><html><body>404</body></html>", error=no_image),
        "random bytes": Kind(random.Random(0).randbytes(3000), error=no_image),
        "eps": Kind(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", error=no_image),
        "pdf": Kind(b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n", error=no_image),
        "svg": Kind(b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", error=no_image),
        "ico": Kind(encoded(Image.new("RGB", (16, 16)), "ICO"), error=no_image),
        "numpy array": Kind(b"\x93NUMPY\x01\0v\0" + bytes(200), error=no_image),
        # no files
        "missing": Kind(lambda path: None, error="no such file"),
        "folder": Kind(Path.mkdir, error="not a regular file"),
        "FIFO": Kind(os.mkfifo, error="not a regular file"),
        "device": Kind(_link("/dev/zero"), error="not a regular file"),
        "dangling link": Kind(_link("nowhere"), error="no such file"),
        "looping link": Kind(lambda path: path.symlink_to(path.name), error="symbolic links"),
        "link to an image": Kind(_link_to_image, RGB),
        "longer than any image": Kind(_sparse, error="bytes are more than"),
    }
    for orientation, pixels in turned.items():
        data = with_app1(jpeg, EXIF_HEADER + exif(orientation))
        kinds[f"jpeg turned by EXIF, {orientation}"] = Kind(data, grey(pixels))
    if AVIF:
        avif = encoded(Image.merge("RGB", [Image.fromarray(AREAS)] * 3), "AVIF", quality=100)
        kinds["avif"] = Kind(avif, grey(AREAS), tolerance=2)
        kinds["avif truncated"] = Kind(_cut(avif), error=no_image)
    return kinds


KINDS = _table()
DECODED = {name: kind for name, kind in KINDS.items() if kind.pixels is not None}


def _bytes_of(name: str) -> bytes:
    content = KINDS[name].content
    assert isinstance(content, bytes)
    return content


def check(kind: Kind, path: Path) -> None:
    """The path gives the image or the error of its kind."""
    if kind.pixels is None:
        with pytest.raises(ImageError) as caught:
            load_image(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert kind.error in str(caught.value).lower()
        return
    image = load_image(path)
    assert image.mode == "RGB"
    pixels = np.asarray(image)
    assert pixels.shape == kind.pixels.shape
    assert np.abs(pixels.astype(int) - kind.pixels).max() <= kind.tolerance


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_is_its_image_or_an_error(name: str, tmp_path: Path) -> None:
    check(KINDS[name], KINDS[name].make(tmp_path / "x.png"))


def test_paths_that_are_none(tmp_path: Path) -> None:
    for path, words in ((tmp_path / ("x" * 300), "name too long"), ("a\0b.png", "null"), ("", "No such file")):
        with pytest.raises(ImageError, match=words):
            load_image(path)


def test_a_large_blank_image_is_no_bomb(tmp_path: Path) -> None:
    """Deflate at its best: 1,032 bytes of eight white pixels each from one byte."""
    path = tmp_path / "white.png"
    path.write_bytes(png(5000, 1, 0, [b"\xff" * 625] * 5000))
    assert load_image(path).getextrema() == ((255, 255),) * 3


def test_what_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    """In a process without root's privileges, which would read it all the same."""
    closed, opened = (tmp_path / name for name in ("closed.png", "opened.png"))
    for path in (closed, opened):
        path.write_bytes(encoded(RGB, "PNG"))
        path.chmod(0o644)
    closed.chmod(0)
    tmp_path.chmod(0o755)
    folder, (read, write) = os.open(tmp_path, os.O_RDONLY), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setuid(65534)
            os.fchdir(folder)  # the folders above are closed to others
            for path in (opened, closed):
                os.write(write, f"{_outcome(path.name)}\n".encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as answers:
        assert answers.read().splitlines() == ["(7, 9)", "closed.png: Permission denied"]
    os.waitpid(child, 0)
    os.close(folder)


def _outcome(path: str) -> str:
    try:
        return str(load_image(path).size)
    except ImageError as error:
        return str(error)


def test_no_other_program_is_started(tmp_path: Path, watch: Watch) -> None:
    started = [watch(subprocess, "Popen"), watch(os, "system")]
    for name in ("eps", "pdf", "svg"):
        for suffix in (".png", f".{name}"):
            check(KINDS[name], KINDS[name].make(tmp_path / f"x{suffix}"))
    assert started == [[], []]


class TestTruncated:
    """A file that ends early is an error or the whole image, never another image."""

    @staticmethod
    def images() -> dict[str, bytes]:
        image = Image.fromarray(draw(11, 10))
        levels, palette, bilevel = image.convert("L"), image.quantize(40), image.convert("1")
        rgba = image.copy()
        rgba.putalpha(levels)
        frames = {"save_all": True, "append_images": [image.rotate(180)]}
        found = {
            "PNG": encoded(image, "PNG"),
            "PNG interlaced": interlaced_png(),
            "PNG palette": encoded(palette, "PNG"),
            "PNG black": encoded(Image.new("L", (10, 11)), "PNG"),
            "PNG animated": encoded(image, "PNG", **frames),
            "JPEG": encoded(image, "JPEG"),
            "JPEG progressive": encoded(image, "JPEG", progressive=True),
            "JPEG with restarts": encoded(image, "JPEG", restart_marker_blocks=1),
            "JPEG turned": encoded(image, "JPEG", exif=EXIF_HEADER + exif(6)),
            "JPEG CMYK": encoded(image.convert("CMYK"), "JPEG"),
            "MPO": encoded(image, "MPO", **frames),
            "WebP": encoded(image, "WEBP"),
            "WebP lossless": encoded(image, "WEBP", lossless=True),
            "WebP with alpha": encoded(rgba, "WEBP"),
            "WebP animated": encoded(image, "WEBP", **frames),
            "GIF": encoded(palette, "GIF"),
            "GIF not interlaced": encoded(palette, "GIF", interlace=0),
            "GIF animated": encoded(palette, "GIF", **frames),
            "BMP": encoded(image, "BMP"),
            "BMP palette": encoded(palette, "BMP"),
            "BMP run-length encoded": bmp_rle(bytes((4, 3, 0, 0, 0, 4, 5, 6, 7, 8, 0, 0, 4, 9, 0, 1))),
            "TIFF": encoded(image, "TIFF"),
            "TIFF pages": encoded(image, "TIFF", **frames),
            "TIFF in tiles": encoded(image, "TIFF", compression="tiff_deflate", tiffinfo={322: 16, 323: 16}),
            "TIFF 16 bits": encoded(np.asarray(levels).astype(np.uint16) * 257, "TIFF"),
            "PPM": encoded(image, "PPM"),
            "PGM": encoded(levels, "PPM"),
            "PBM": encoded(bilevel, "PPM"),
            "PPM in plain text": b"P3 4 2 255\n" + b" ".join(b"%d" % level for level in range(100, 124)) + b"\n",
            "PBM in plain text": b"P1 4 2\n0 1 1 0 1 0 0 1\n",
            "JPEG 2000": encoded(image, "JPEG2000"),
            "JPEG 2000 in tiles": encoded(image, "JPEG2000", tile_size=(8, 8)),
            "JPEG 2000 bare": encoded(image, "JPEG2000", no_jp2=True, tile_size=(8, 8)),
            "JPEG 2000 lossy": encoded(image, "JPEG2000", irreversible=True, quality_layers=[20, 5]),
        }
        for compression in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg"):
            found[f"TIFF {compression}"] = encoded(image, "TIFF", compression=compression)
        for compression in ("group3", "group4"):
            found[f"TIFF {compression}"] = encoded(bilevel, "TIFF", compression=compression)
        if AVIF:
            found["AVIF"] = encoded(image, "AVIF")
            found["AVIF with alpha"] = encoded(rgba, "AVIF")
        return found

    IMAGES = images()

    @pytest.mark.parametrize("name", IMAGES)
    def test_at_any_byte(self, name: str, tmp_path: Path) -> None:
        data = self.IMAGES[name]
        path = tmp_path / "x.png"
        path.write_bytes(data)
        whole = load_image(path)
        errors = 0
        for length in range(len(data)):
            path.write_bytes(data[:length])
            try:
                assert load_image(path) == whole, f"another image from the first {length} of {len(data)} bytes"
            except ImageError:
                errors += 1
        assert errors >= min(100, 0.4 * len(data))

    @pytest.mark.parametrize("name", ["PNG", "JPEG", "WebP lossless", "TIFF tiff_lzw", "GIF"])
    def test_even_where_pillow_was_told_to_fill_up(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        paths = [tmp_path / f"{number}.png" for number in range(8)]
        for path in paths:
            path.write_bytes(_cut(self.IMAGES[name], 0.8))
        with pytest.raises(ImageError):
            load_image(paths[0])
        records = list(score_files(paths, metric=untrained("nr-resnet18"), workers=4))
        assert all(record.error for record in records)
        with pytest.raises(ImageError, match="PIL image: "):
            load_image(Image.open(io.BytesIO(_bytes_of("jpeg truncated"))))
        assert ImageFile.LOAD_TRUNCATED_IMAGES


class TestPngDamage:
    IMAGES = (
        encoded(draw(10, 8), "PNG"),
        encoded(Image.fromarray(draw(10, 8)).quantize(5), "PNG", transparency=2),
        png(4, 8, 0, [b"\0\1\2\3"], chunk(b"gAMA", b"\0\0\xb1\x8f"), chunk(b"tRNS", b"\0\1"), chunk(b"eXIf", exif(6))),
    )

    @pytest.mark.parametrize("data", IMAGES)
    def test_a_bad_crc_in_any_chunk_of_pixels(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        start = 8
        while start < len(data):
            length, kind = struct.unpack_from(">I4s", data, start)
            start += 12 + length
            if kind not in (b"IEND", b"gAMA"):  # colours of which nothing is known are sRGB
                path.write_bytes(changed(data, start - 1))
                with pytest.raises(ImageError):
                    load_image(path)

    @pytest.mark.parametrize("data", IMAGES)
    def test_any_changed_byte(self, data: bytes, tmp_path: Path) -> None:
        path = tmp_path / "x.png"
        path.write_bytes(data)
        whole = load_image(path)
        for where in range(len(data)):
            for mask in (0x01, 0x20, 0xFF):
                path.write_bytes(changed(data, where, mask))
                assert _same_or_error(path, whole), f"another image after byte {where} was changed by {mask:#x}"


def _same_or_error(path: Path, whole: Image.Image) -> bool:
    try:
        return load_image(path) == whole
    except ImageError:
        return True


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(TestTruncated.IMAGES)),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 4), st.binary(max_size=4)), max_size=4),
)
def test_no_bytes_lead_to_anything_but_an_image_or_an_error(
    name: str, edits: list[tuple[float, int, bytes]], tmp_path: Path
) -> None:
    data = bytearray(TestTruncated.IMAGES[name])
    for share, length, replacement in edits:
        where = int(share * len(data))
        data[where : where + length] = replacement
    path = tmp_path / "x.png"
    path.write_bytes(data)
    with contextlib.suppress(ImageError):
        assert load_image(path).mode == "RGB"


class TestPilImages:
    """Images that the caller opened."""

    def test_modes(self) -> None:
        palette = Image.fromarray(GREY).convert("P").convert("PA")
        palette.putalpha(0)
        assert (np.asarray(load_image(palette)) == 255).all()
        for mode in ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "I;16"):
            image = load_image(Image.new(mode, (3, 2)))
            assert (image.mode, image.size) == ("RGB", (3, 2))
        for mode in ("I", "F"):
            with pytest.raises(ImageError, match=r"PIL image: .*no agreed range"):
                load_image(Image.new(mode, (3, 2)))

    def test_the_callers_image_stays_as_it_is(self) -> None:
        for name in ("png 2 bits, one level transparent", "png turned by EXIF", "png RGBA"):
            image = Image.open(io.BytesIO(_bytes_of(name)))
            before = dict(image.info)
            assert np.abs(np.asarray(load_image(image)).astype(int) - KINDS[name].pixels).max() <= 1
            assert dict(image.info) == before
            assert image == Image.open(io.BytesIO(_bytes_of(name)))

    def test_broken_ones(self) -> None:
        for name in ("png with a bad CRC", "jpeg truncated", "bmp run-length encoded, truncated"):
            with pytest.raises(ImageError, match="PIL image: "):
                load_image(Image.open(io.BytesIO(_bytes_of(name))))
        closed = Image.new("RGB", (2, 2))
        closed.close()
        with pytest.raises(ImageError, match="PIL image: "):
            load_image(closed)


@functools.cache
def _alone(name: str) -> float:
    """The score of the image that a kind of file shows."""
    pixels = DECODED[name].pixels
    assert pixels is not None
    return untrained("nr-resnet18")(np.ascontiguousarray(pixels)).item()


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (7, 2)])
def test_a_record_for_every_kind_in_order(batch_size: int, workers: int, tmp_path: Path) -> None:
    order = list(KINDS)
    random.Random(batch_size).shuffle(order)
    paths = [kind.make(tmp_path / f"{number}.png") for number, kind in enumerate(KINDS[name] for name in order)]
    metric = untrained("nr-resnet18")
    records = list(score_files(iter(paths), metric=metric, batch_size=batch_size, workers=workers))
    assert [record.image for record in records] == [str(path) for path in paths]
    for name, record in zip(order, records, strict=True):
        assert (record.error is None) == bool(record.scores), name
        if name in UNPRESENTABLE:
            assert "1000:1" in (record.error or "")
        elif name in DECODED:
            assert record.error is None, name
            tolerance = 1e-5 if DECODED[name].tolerance == 0 else 0.05
            assert math.isclose(record.scores[metric.dimension], _alone(name), rel_tol=tolerance, abs_tol=tolerance), (
                name
            )
        else:
            assert KINDS[name].error in (record.error or "").lower(), name


UNPRESENTABLE = ("png strip of 1 x 3000",)

ODD_NAMES = (
    "plain.png", "UPPER.PNG", "new\nline.png", "carriage\rreturn.png", "tab\t.png", 'quo"te.png', "apos'trophe.png",
    "com,ma.png", "semi;colon.png", "-dash.png", "--output=x.png", ".hidden.png", " space .png", "#hash.png",
    "=1+1.png", "תמונה.png", "right\u202eleft.png", "🙂🏳️‍🌈.png", "e\u0301.png",
    "é.png", "图像.png", "line\u2028separator.png",
    "escape\x1b[31m.png", "percent%s{0}.png", "back\\slash.png", "star*[a]?.png", "~.png", "$HOME.png", "nan.png",
    "x" * 196 + ".png", os.fsdecode(b"\xff\xfe.png"), os.fsdecode(b"latin-\xe9.png"),
)  # fmt: skip


def _odd_folder(folder: Path) -> list[str]:
    """A folder of oddly named images, links and broken files; returns the paths to be scored, in order."""
    (folder / "folder.png").mkdir(parents=True)
    for name in (*ODD_NAMES, "folder.png/inner.png"):
        (folder / name).write_bytes(encoded(RGB, "PNG"))
    (folder / "empty, zero\nbytes.png").touch()
    (folder / "link to a file.png").symlink_to("plain.png")
    (folder / "link to a folder.png").symlink_to("folder.png")
    (folder / "link to nowhere.png").symlink_to("nowhere")
    (folder / "link to itself.png").symlink_to("link to itself.png")
    (folder / "no image.txt").write_text("not listed")
    names = [*ODD_NAMES, "folder.png", "empty, zero\nbytes.png"]
    names += ["link to a file.png", "link to nowhere.png", "link to itself.png"]
    return [f"{folder}/{name}" + ("/inner.png" if name == "folder.png" else "") for name in sorted(names)]


def _broken(path: str) -> bool:
    return os.path.basename(path) in ("empty, zero\nbytes.png", "link to nowhere.png", "link to itself.png")


def test_a_folder_lists_odd_names_and_links(tmp_path: Path) -> None:
    expected = _odd_folder(tmp_path / "odd")
    (opener,) = open_sources([str(tmp_path / "odd")], io.BytesIO(), {})
    assert [found.item.image for found in opener()] == expected


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_the_command_writes_odd_names_as_they_are(suffix: str, tmp_path: Path, checkpoints: dict[str, str]) -> None:
    expected = [os.path.relpath(path, tmp_path) for path in _odd_folder(tmp_path / "odd")]
    (tmp_path / "-o.png").write_bytes(encoded(RGB, "PNG"))
    expected.append("-o.png")
    output = tmp_path / f"scores.{suffix}"
    options = ("-m", "nr-resnet18", "--weights", checkpoints["nr-resnet18"], "-o", str(output), "--quiet")
    done = call_command(*options, "--", "odd", "-o.png", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    rows = _rows(output)
    if suffix == "parquet":  # holds UTF-8 only: other bytes become escapes
        expected = [path.encode("utf-8", "backslashreplace").decode() for path in expected]
    if suffix == "csv":  # where a spreadsheet would compute it
        expected[-1] = "'-o.png"
    assert [row["image"] for row in rows] == expected
    for row in rows:
        assert bool(row["error"]) == _broken(row["image"])
        assert (row["quality"] in (None, "")) == _broken(row["image"])
    assert len({float(row["quality"]) for row in rows if not row["error"]}) == 1  # they are one image


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_resuming_finds_odd_names_again(suffix: str, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(encoded(RGB, "PNG"))
    output = tmp_path / f"scores.{suffix}"
    score(str(tmp_path), "-o", str(output))
    before = _rows(output)
    score(str(tmp_path), "-o", str(output), "--resume")
    assert _rows(output) == before


def test_half_a_surrogate_pair_is_no_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    (tmp_path / "list.jsonl").write_text(json.dumps({"image": "\ud800.png"}) + "\n" + json.dumps({"image": "a.png"}))
    score(str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "scores.csv"), status=1)
    assert [row["error"] for row in _rows(tmp_path / "scores.csv")] == [
        f"{tmp_path}/list.jsonl: row 1: 'image' is '\\ud800.png'; expected text", "",
    ]  # fmt: skip
    assert f"{tmp_path}/a.png,,,nr-lite,0." in score(str(tmp_path / "list.jsonl"), status=1)


def test_the_progress_bar_makes_way_for_rows_on_standard_output_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = []
    monkeypatch.setattr(tqdm, "external_write_mode", lambda *_, **__: contextlib.nullcontext(cleared.append(1)))
    (tmp_path / "a.png").write_bytes(encoded(RGB, "PNG"))
    score(str(tmp_path / "a.png"), "-o", str(tmp_path / "scores.csv"), "--quiet")
    assert cleared == []
    score(str(tmp_path / "a.png"), "--quiet")
    assert cleared == [1]


def score(*arguments: str, status: int = 0) -> str:
    """What the command says."""
    done = CliRunner().invoke(main, [*arguments, "-m", "nr-lite"])
    assert done.exit_code == status, done.output
    return done.output


def _rows(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".parquet":
        return parquet.read_table(path).to_pylist()
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in text.split("\n")[:-1]]
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
