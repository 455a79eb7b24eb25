"""Pictures decoded and resized once, then read from one file as often as training wants them.

The file holds the resized pictures' bytes, one after the other; a random crop reads the rows it needs and no more.
Nothing stays in memory but where each picture lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigciqa.decode import load_image
from aigciqa.errors import DatabaseError, ImageError
from aigciqa.preprocess import present_image
from aigciqa.registry import Preprocess

#: Of many pictures that can't be read, an error names these first ones.
SHOWN = 10
Pixels = NDArray[np.uint8]


def default_folder() -> Path:
    """Where caches are kept if nothing else is said: `$XDG_CACHE_HOME/aigciqa` or `~/.cache/aigciqa`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aigciqa"


@dataclass(frozen=True)
class PictureCache:
    """Resized pictures in a file.

    Attributes:
        file: their bytes, each picture (height, width, 3) in RGB.
        places: path of a picture -> (offset in the file, height, width).
    """

    file: Path
    places: Mapping[str, tuple[int, int, int]]

    def size(self, path: str) -> tuple[int, int]:
        """Height and width of a resized picture."""
        _, height, width = self.places[path]
        return height, width

    def crop(self, descriptor: int, path: str, top: int, left: int, side: int) -> Pixels:
        """A square of a picture: (side, side, 3).

        Args:
            descriptor: of `file`, opened for reading; any number of threads may use it.
        """
        offset, _, width = self.places[path]
        rows = os.pread(descriptor, 3 * side * width, offset + 3 * top * width)
        return np.frombuffer(rows, np.uint8).reshape(side, width, 3)[:, left : left + side]


def build_cache(paths: Iterable[str], spec: Preprocess, folder: Path, *, workers: int, progress: bool) -> PictureCache:
    """Decode and resize pictures into a cache, or find the cache that an earlier run made of the same files.

    Args:
        paths: of the pictures; each is kept once.
        spec: how the metric presents pictures; its crop is left to the reader.
        folder: where caches are kept, made if absent.
        workers: decoding threads.
        progress: whether to show a bar.

    Raises:
        DatabaseError: pictures can't be read; all are tried, and the message names the first ones.
    """
    distinct = list(dict.fromkeys(paths))
    folder.mkdir(parents=True, exist_ok=True)
    name = _key(distinct, spec)
    file, index = folder / f"{name}.rgb", folder / f"{name}.json"
    if not (file.exists() and index.exists()):
        _write(distinct, replace(spec, crop=None), file, index, workers, progress)
    places = {path: tuple(place) for path, place in json.loads(index.read_text(encoding="utf-8")).items()}
    return PictureCache(file, places)


def _key(paths: Sequence[str], spec: Preprocess) -> str:
    """Changes with the files, their sizes and times, and the resize."""
    facts: list[object] = [spec.resize, spec.max_side]
    for path in paths:
        try:
            status = os.stat(path)
            facts.append((path, status.st_size, status.st_mtime_ns))
        except OSError:
            facts.append((path, None, None))  # reading it will say why
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _write(paths: Sequence[str], spec: Preprocess, file: Path, index: Path, workers: int, progress: bool) -> None:
    from tqdm import tqdm

    places: dict[str, tuple[int, int, int]] = {}
    bad: list[str] = []
    descriptor, temporary = tempfile.mkstemp(dir=file.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as out:
            decoded = tqdm(
                _in_order(paths, spec, workers),
                total=len(paths),
                desc="decoding pictures, once",
                unit="picture",
                disable=None if progress else True,
            )
            for path, pixels in decoded:
                if isinstance(pixels, str):
                    bad.append(pixels)
                else:
                    places[path] = (out.tell(), *pixels.shape[:2])
                    out.write(pixels)
        if bad:
            more = f"\n- and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
            listed = "\n- ".join(bad[:SHOWN])
            raise DatabaseError(f"{len(bad)} of {len(paths)} pictures can't be read:\n- {listed}{more}")
        os.replace(temporary, file)
        index_temporary = index.with_name(f"{index.name}.{os.getpid()}.tmp")
        index_temporary.write_text(json.dumps(places), encoding="utf-8")
        os.replace(index_temporary, index)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _in_order(paths: Sequence[str], spec: Preprocess, workers: int) -> Iterator[tuple[str, Pixels | str]]:
    """Decoded pictures in the order of their paths; few are in memory at a time."""
    with ThreadPoolExecutor(max(1, workers)) as pool:
        waiting: deque[tuple[str, Future[Pixels | str]]] = deque()
        for path in paths:
            waiting.append((path, pool.submit(_decode, path, spec)))
            if len(waiting) > 4 * max(1, workers):
                first, future = waiting.popleft()
                yield first, future.result()
        for path, future in waiting:
            yield path, future.result()


def _decode(path: str, spec: Preprocess) -> Pixels | str:
    try:
        pixels: Pixels = np.ascontiguousarray(present_image(load_image(path), spec).permute(1, 2, 0).numpy())
        return pixels
    except ImageError as error:
        return str(error)
