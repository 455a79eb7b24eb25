"""Fuzz the way from a file's bytes to pixels: mutated images must end as an image or an `ImageError`.

    python benchmarks/fuzz_decoder.py [--seconds 600] [--seed 0] [--keep FOLDER]

A process of its own decodes, so that a crash or a hang is a finding, too. An input whose outcome is of a new kind
(another size or another message) joins the inputs that are mutated further. Exit status: 1 if anything was found.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import re
import resource
import struct
import tempfile
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from aigciqa.errors import ImageError
from aigciqa.images.decode import load_image
from aigciqa.images.reading import MAX_PIXELS

COMPRESSIONS = ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "tiff_ccitt", "group3", "group4", "zstd", "lzma")
#: An input that takes longer than this hangs.
HANG_SECONDS = 5.0
#: What the decoding process may allocate: room for the largest image allowed and its copies.
MEMORY = 12 * 2**30
#: Inputs that grew beyond this are cut, to keep the rate up.
MAX_INPUT = 20_000
#: Kept inputs, the seeds included.
MAX_CORPUS = 5_000

_EXIF = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
_INTERESTING = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 127, 128, 254, 255, 256, 1000, 4096, 32767, 32768, 65535)
_INTERESTING_32 = (*_INTERESTING, 13_377, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def seeds() -> list[bytes]:
    """Small images: every format, every way it stores pixels, frames, alpha, EXIF and profiles."""
    rng = np.random.default_rng(0)
    rgb = Image.fromarray(rng.integers(0, 256, (12, 15, 3), dtype=np.uint8)).resize((30, 24))
    frames = {"save_all": True, "append_images": [rgb.rotate(180)]}
    rgba = rgb.copy()
    rgba.putalpha(rgb.convert("L"))
    grey16 = Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257)
    palette = rgb.quantize(20)
    modes = (rgb, rgba, palette, rgb.convert("L"), rgb.convert("LA"), rgb.convert("1"), rgb.convert("CMYK"), grey16)
    profiled = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    variants: dict[str, list[Any]] = {
        "PNG": [{}, profiled, frames, {"exif": _EXIF, "icc_profile": b"x" * 200}, {"transparency": 3}],
        "JPEG": [{}, profiled, {"progressive": True}, {"exif": _EXIF}, {"restart_marker_blocks": 1, "subsampling": 0}],
        "WEBP": [{}, {"lossless": True}, frames, {"exif": _EXIF, "icc_profile": b"x" * 200}],
        "GIF": [{}, {"interlace": 0}, frames, {"transparency": 3}],
        "BMP": [{}],
        "TIFF": [
            profiled,
            *({"compression": name} for name in COMPRESSIONS),
            frames,
            {"exif": _EXIF},
            {"big_tiff": True},
            {"compression": "tiff_deflate", "tiffinfo": {322: 16, 323: 16}},
        ],
        "PPM": [{}],
        "MPO": [frames],
        "AVIF": [{}, frames, {"exif": _EXIF}],
        "JPEG2000": [{}, {"no_jp2": True}, {"tile_size": (16, 16)}, {"irreversible": True, "quality_layers": [30, 5]}],
    }
    found = {
        b"P3\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n",
        b"P1\n3 2\n1 0 1 0 1 0\n",
        b"P5\n2 1\n1000\n\0\1\2\3",
        b"Pf\n1 1\n-1.0\n\0\0\0\0",
        _bmp_rle(),
        _interlaced_png(),
    }
    for name, choices in variants.items():
        for options in choices:
            for image in modes:
                buffer = io.BytesIO()
                try:
                    image.save(buffer, name, **options)
                except Exception:
                    continue  # a mode that this format, or this build of Pillow, does not store
                found.add(buffer.getvalue())
    return sorted(found)


def _bmp_rle() -> bytes:
    palette = b"".join(bytes((level, level, level, 0)) for level in range(16))
    pixels = bytes((4, 3, 0, 0, 0, 4, 5, 6, 7, 8, 0, 0, 4, 7, 0, 1))
    start = 14 + 40 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 8, 1, len(pixels), 0, 0, 16, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + sizes + palette + pixels


def _interlaced_png() -> bytes:
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)), (b"IDAT", zlib.compress(b"\0\1\0\2\0\3\4")))
    return png_of((*chunks, (b"IEND", b"")))


def png_of(chunks: tuple[tuple[bytes, bytes], ...] | list[tuple[bytes, bytes]]) -> bytes:
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mutate(data: bytes, corpus: list[bytes], rng: random.Random) -> bytes:
    """One to six random changes; the checksums of a PNG are put right in most cases."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        _change(changed, corpus, rng)
    mutated = bytes(changed[:MAX_INPUT])
    return _with_checksums(mutated) if mutated.startswith(b"\x89PNG") and rng.random() < 0.8 else mutated


def _change(data: bytearray, corpus: list[bytes], rng: random.Random) -> None:
    near_start = rng.random() < 0.3  # where headers are
    where = rng.randrange(min(len(data), 120) if near_start else len(data)) if data else 0
    length = min(rng.choice((1, 2, 4, 8, 30, 200)), len(data) - where)
    kind = rng.randrange(9)
    if kind <= 1 and data:
        data[where] ^= 1 << rng.randrange(8)
    elif kind == 2 and data:
        data[where] = rng.randrange(256)
    elif kind == 3:
        data[where : where + 2] = struct.pack(rng.choice("<>") + "H", rng.choice(_INTERESTING))
    elif kind == 4:
        data[where : where + 4] = struct.pack(rng.choice("<>") + "I", rng.choice(_INTERESTING_32))
    elif kind == 5:
        del data[where : where + length]
    elif kind == 6:
        data[where:where] = data[where : where + length]
    elif kind == 7:
        other = rng.choice(corpus)
        start = rng.randrange(len(other)) if other else 0
        data[where : where + length] = other[start : start + length]
    else:
        del data[rng.randrange(len(data) + 1) :]


def _with_checksums(data: bytes) -> bytes:
    parts, start = [data[:8]], 8
    while start + 12 <= len(data):
        end = start + 8 + struct.unpack_from(">I", data, start)[0]
        parts.append(data[start:end])
        if end + 4 > len(data):
            return b"".join(parts)
        parts.append(struct.pack(">I", zlib.crc32(data[start + 4 : end])))
        start = end + 4
    return b"".join((*parts, data[start:]))


def _decoder(pipe: Connection, folder: str) -> None:
    """Decode what comes through the pipe and answer the kind of outcome."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes its complaints there
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    path = Path(folder, "input.png")
    while True:
        path.write_bytes(pipe.recv_bytes())
        try:
            image = load_image(path)
            wrong = image.mode != "RGB" or not 0 < image.width * image.height <= MAX_PIXELS
            outcome = f"{'WRONG' if wrong else 'image'} {image.mode} {len(bin(image.width * image.height))}"
        except ImageError as error:
            reason = str(error).removeprefix(f"{path}: ")
            outcome = "error " + re.sub(r"[^A-Za-z ].*", "", reason, flags=re.DOTALL)
        except BaseException as error:
            outcome = f"WRONG {type(error).__name__}: {error}"
        pipe.send(outcome)


class _Decoding:
    """The decoding process, started anew after a crash or a hang."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._start()

    def outcome(self, data: bytes) -> str:
        try:
            self.pipe.send_bytes(data)
            if self.pipe.poll(HANG_SECONDS):
                return str(self.pipe.recv())
            kind = f"WRONG hang: more than {HANG_SECONDS} s"
        except (EOFError, OSError):
            self.process.join()
            kind = f"WRONG crash: exit code {self.process.exitcode}"
        self.stop()
        self._start()
        return kind

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()

    def _start(self) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("fork").Process(
            target=_decoder, args=(other, self.folder), daemon=True
        )
        self.process.start()
        other.close()


def fuzz(seconds: float, seed: int, found: Callable[[bytes, str], None]) -> tuple[int, Counter[str], int]:
    """Mutate and decode for a time.

    Returns:
        Executions, how many had which outcome, size of the corpus at the end.
    """
    rng = random.Random(seed)
    corpus = seeds()
    outcomes: Counter[str] = Counter()
    executions = 0
    with tempfile.TemporaryDirectory() as folder:
        decoding = _Decoding(folder)
        unmutated = iter(list(corpus))
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = next(unmutated, None) or mutate(rng.choice(corpus), corpus, rng)
            outcome = decoding.outcome(data)
            executions += 1
            if outcome.startswith("WRONG"):
                found(data, outcome)
            elif outcome not in outcomes and len(corpus) < MAX_CORPUS:
                corpus.append(data)
            outcomes[outcome] += 1
        decoding.stop()
    return executions, outcomes, len(corpus)


def main() -> None:
    """Fuzz, print what was found and a table of outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    options = parser.parse_args()
    findings = 0

    def found(data: bytes, outcome: str) -> None:
        nonlocal findings
        findings += 1
        print(f"finding {findings}: {outcome} ({len(data)} bytes, crc32 {zlib.crc32(data):08x})", flush=True)
        if options.keep is not None:
            options.keep.mkdir(parents=True, exist_ok=True)
            (options.keep / f"{zlib.crc32(data):08x}.bin").write_bytes(data)

    executions, outcomes, corpus = fuzz(options.seconds, options.seed, found)
    for outcome, count in outcomes.most_common(40):
        print(f"{count:>9}  {outcome}")
    images = sum(count for outcome, count in outcomes.items() if outcome.startswith("image"))
    print(
        f"{executions} executions in {options.seconds:.0f} s: {images} images, {executions - images - findings} "
        f"errors of {len(outcomes)} kinds, {findings} findings; corpus {corpus}"
    )
    raise SystemExit(1 if findings else 0)


if __name__ == "__main__":
    main()
