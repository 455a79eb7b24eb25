"""Images decoded and resized once, then read from disk as often as training wants them.

Each image has a file of its own, so that runs with other seeds, splits or metrics share it. A random crop reads the
rows it needs and no more; nothing stays in memory but where each image lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aigciqa import __version__
from aigciqa.errors import DatabaseError, ImageError
from aigciqa.images import parquet
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import Preprocess
from aigciqa.utils.files import write_file

#: Of many images that can't be read, an error names these first ones.
SHOWN = 10
#: Height, width, and a CRC-32 of both, of the file's name and of the pixels, which follow.
_HEADER = struct.Struct("<III")
Pixels = NDArray[np.uint8]


def default_folder() -> Path:
    """Where caches are kept if nothing else is said: `$XDG_CACHE_HOME/aigciqa` or `~/.cache/aigciqa`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigciqa"


@dataclass(frozen=True)
class Entry:
    """A resized image on disk: its file has a header, then the pixels (height, width, 3) in RGB."""

    file: Path
    height: int
    width: int


@dataclass(frozen=True)
class ImageCache:
    """Resized images on disk, by the paths of the images. Any number of threads and processes may read it."""

    entries: Mapping[str, Entry]

    def size(self, path: str) -> tuple[int, int]:
        """Height and width of a resized image."""
        return self.entries[path].height, self.entries[path].width

    def random_crop(self, path: str, side: int, rng: np.random.Generator) -> Pixels:
        """A square anywhere in an image, mirrored half of the time; see `crop`."""
        height, width = self.size(path)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        pixels = self.crop(path, top, left, side)
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

    def centre_crop(self, path: str, side: int) -> Pixels:
        """The square in the middle of an image, which the metric scores; see `crop`."""
        top, left = (round((length - side) / 2.0) for length in self.size(path))
        return self.crop(path, top, left, side)

    def crop(self, path: str, top: int, left: int, side: int) -> Pixels:
        """A square of an image: (side, side, 3).

        Raises:
            DatabaseError: its file has been damaged since the cache was built.
            OSError: its file can't be read any more.
        """
        entry = self.entries[path]
        with entry.file.open("rb") as file:
            file.seek(_HEADER.size + 3 * top * entry.width)
            rows = file.read(3 * side * entry.width)
        if len(rows) < 3 * side * entry.width:
            raise DatabaseError(f"{entry.file}: cut short while it was in use; run again, and it is made anew")
        return np.frombuffer(rows, np.uint8).reshape(side, entry.width, 3)[:, left : left + side]


def build_cache(paths: Iterable[str], spec: Preprocess, folder: Path, *, workers: int, progress: bool) -> ImageCache:
    """Decode and resize images into a cache; those it holds already are checked, and made anew if damaged.

    Args:
        paths: of the images; each is kept once.
        spec: how the metric preprocesses images; its crop is left to the reader.
        folder: where caches are kept, made if absent.
        workers: decoding threads.

    Raises:
        DatabaseError: the cache can't be written, or images can't be read; all are tried, the message names the first.
    """
    distinct = list(dict.fromkeys(paths))
    spec = replace(spec, crop=None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DatabaseError(f"{folder}: no place for the image cache: {error.strerror}; choose another") from error
    pool = ThreadPoolExecutor(max(1, workers))
    try:
        found = tqdm(
            pool.map(lambda path: _entry(path, spec, folder), distinct),
            total=len(distinct),
            desc="preparing images",
            unit="image",
            disable=None if progress else True,
        )
        entries = dict(zip(distinct, found, strict=True))
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [str(entry) for entry in entries.values() if isinstance(entry, ImageError)]
    if bad:
        more = f"\n- and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
        listed = "\n- ".join(bad[:SHOWN])
        raise DatabaseError(f"{len(bad)} of {len(distinct)} images can't be read:\n- {listed}{more}")
    return ImageCache({path: entry for path, entry in entries.items() if isinstance(entry, Entry)})


def _entry(path: str, spec: Preprocess, folder: Path) -> Entry | ImageError:
    """An image's entry, made if it is absent or damaged; or why the image can't be read."""
    file = folder / f"{_name(path, spec)}.rgb"
    kept = _kept(file)
    if kept is not None:
        return kept
    try:
        pixels = Preprocessor(spec).image(load_image(path)).permute(1, 2, 0).numpy()
    except ImageError as error:
        return error
    height, width = pixels.shape[:2]
    content = pixels.tobytes()
    try:
        write_file(file, _HEADER.pack(height, width, _checksum(file, height, width, content)) + content)
    except OSError as error:
        raise DatabaseError(
            f"{file}: the image cache can't be written: {error.strerror}; make room, or choose another place for it"
        ) from error
    return Entry(file, height, width)


def _name(path: str, spec: Preprocess) -> str:
    """Changes with the image's path, size and time, the resize, and the version, which may decode otherwise."""
    key: list[object] = [__version__, spec.resize, spec.max_side, spec.interpolation, path]
    place = parquet.place_of(path)
    try:
        status = os.stat(path if place is None else place.file)
        key += [status.st_size, status.st_mtime_ns]
    except OSError:
        pass  # reading it will say why
    return hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]


def _kept(file: Path) -> Entry | None:
    """What an earlier run left; None if that is nothing, or not whole."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    if len(stored) < _HEADER.size:
        return None
    height, width, checksum = _HEADER.unpack_from(stored)
    pixels = memoryview(stored)[_HEADER.size :]
    whole = len(pixels) == 3 * height * width and checksum == _checksum(file, height, width, pixels)
    return Entry(file, height, width) if whole else None


def _checksum(file: Path, height: int, width: int, pixels: bytes | memoryview) -> int:
    return zlib.crc32(pixels, zlib.crc32(f"{file.name} {height} {width}".encode()))
