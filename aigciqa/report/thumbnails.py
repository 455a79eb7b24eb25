"""Small copies of images, inside the page or, where they are many, in a folder beside it."""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from aigciqa.images.decode import load_content
from aigciqa.images.reading import read_content
from aigciqa.utils import object_stores
from aigciqa.utils.lookahead import map_ahead

#: Longest side of a thumbnail.
SIDE = 256
QUALITY = 80
#: Bytes of JPEG that a page holds; with more, thumbnails go to a folder. In base64 they take a third more.
INLINE_BYTES = 16_000_000
MAX_WORKERS = 8
_AHEAD = 64
_RUN = re.compile("[0-9a-f]{16}")


class Thumbnails:
    """The thumbnails of one report: `sources` fill an `img` once `make` has run.

    In the folder `REPORT_files` each run has a folder of its own, so that an earlier report stays whole until the new
    one has taken its place.
    """

    def __init__(self, report: Path) -> None:
        self.folder = report.with_name(report.stem + "_files")
        self.run = secrets.token_hex(8)
        self.is_inline = True
        self.sources: list[str] = []

    def make(self, paths: Iterable[str]) -> None:
        """Make a thumbnail of every path, in order; the source of one that can't be read is empty."""
        held: list[bytes] = []
        size = 0
        for number, data in enumerate(_thumbnails(paths)):
            size += len(data)
            if self.is_inline and size > INLINE_BYTES:
                self._spill(held)
            if self.is_inline:
                held.append(data)
            else:
                self.sources.append(self._write(number, data))
        if self.is_inline:
            self.sources = [base64.b64encode(data).decode() for data in held]

    def discard(self) -> None:
        """Remove what this run wrote."""
        shutil.rmtree(self.folder / self.run, ignore_errors=True)
        self._remove_if_empty()

    def replace_earlier(self) -> None:
        """Remove what earlier runs wrote; other files in the folder stay."""
        for entry in self.folder.glob("*"):
            if _RUN.fullmatch(entry.name) and entry.name != self.run:
                shutil.rmtree(entry, ignore_errors=True)
        self._remove_if_empty()

    def _spill(self, held: list[bytes]) -> None:
        self.is_inline = False
        (self.folder / self.run).mkdir(parents=True)
        self.sources = [self._write(number, data) for number, data in enumerate(held)]
        held.clear()

    def _write(self, number: int, data: bytes) -> str:
        if not data:
            return ""
        name = f"{self.run}/{number:06}.jpg"
        (self.folder / name).write_bytes(data)
        return f"{quote(os.fsencode(self.folder.name))}/{name}"

    def _remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            self.folder.rmdir()


def thumbnail(path: str) -> bytes:
    """An image as a small JPEG; empty if it can't be read."""
    stream = io.BytesIO()
    try:
        if object_stores.refusal(path) is not None:  # the table may be a stranger's
            return b""
        image = load_content(read_content(path), path, at_least=SIDE)
        image.thumbnail((SIDE, SIDE))
        image.save(stream, "JPEG", quality=QUALITY)
    except Exception:  # decoders raise anything on broken data
        return b""
    return stream.getvalue()


def _thumbnails(paths: Iterable[str]) -> Iterator[bytes]:
    """Thumbnails in order, made in threads, a few ahead of who takes them."""
    with ThreadPoolExecutor(min(MAX_WORKERS, os.cpu_count() or 1), thread_name_prefix="aigciqa-thumbnail") as pool:
        yield from map_ahead(pool, thumbnail, paths, _AHEAD)
