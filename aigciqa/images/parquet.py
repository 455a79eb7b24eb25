"""Images inside Parquet files, as the Hugging Face Hub has them: each has a path of its own below its file.

`data.parquet/image/12/cat.png` is the image in row 12, from 0, of the column `image`; what follows the row is how the
column calls it. Nothing else can lie below a regular file, so such a path stands for nothing else.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError
from aigciqa.utils.extras import needs_extra

SUFFIX = ".parquet"
#: Images, and bytes of them, that are kept for threads that come a little late.
_KEPT_IMAGES, _KEPT_BYTES = 32, 8 << 20
#: Of a column, read at a time; without it, pyarrow reads all of a row group at once.
_BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Place:
    """Where an image lies in a Parquet file."""

    file: str
    column: str
    row: int


def open_parquet(path: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`, which is read little by little."""
    with needs_extra("parquet", "Parquet files need pyarrow"):
        from pyarrow import parquet
    return parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


def path_of(file: str, column: str, row: int, name: str | None) -> str:
    """The path of an image in a Parquet file."""
    called = os.path.basename((name or "").replace("\\", "/"))
    return os.path.join(file, column, str(row), called).rstrip(os.sep)


def place_of(path: str | os.PathLike[str]) -> Place | None:
    """Where a path leads to in a Parquet file; None for any other path."""
    parts = Path(path).parts
    for number, part in enumerate(parts):
        if part.lower().endswith(SUFFIX):
            file = os.path.join(*parts[: number + 1])
            _, column, row, *name = [*parts[number:], "", ""]
            if row.isdecimal() and row.isascii() and len(name) <= 3 and os.path.isfile(file):
                return Place(file, column, int(row))
    return None


def read_image(place: Place) -> bytes:
    """The bytes of an image in a Parquet file.

    Images that are asked for in the order of their rows, by any number of threads, are read once; another order reads
    again from the start of their row group. In memory at a time: the latest images, and what the writer has put into
    one page, which pyarrow makes of up to 1024 rows, and `datasets` of 100.

    Raises:
        MissingExtraError: pyarrow is missing.
        OSError, ValueError: the file can't be read, is no such file, or has no image there.
    """
    status = os.stat(place.file)
    reader = _reader(place.file, place.column, status.st_size, status.st_mtime_ns, os.getpid())
    return reader.read(place.row)


@functools.lru_cache(maxsize=4)
def _reader(file: str, column: str, size: int, time: int, process: int) -> _Reader:
    """A reader of the file as it is now, and of this process alone: one that was forked can't share it."""
    return _Reader(file, column)


class _Reader:
    """Reads the images of a column, forward."""

    def __init__(self, file: str, column: str) -> None:
        self.file = open_parquet(file)
        names = [self.file.schema.column(number).path for number in range(len(self.file.schema.names))]
        found = [name for name in (column, f"{column}.bytes") if name in names]
        if not found:
            raise InputError(f"no images in the column {column!r}")
        self.column = found[0]
        self.rows: list[range] = []
        for number in range(self.file.num_row_groups):
            start = self.rows[-1].stop if self.rows else 0
            self.rows.append(range(start, start + self.file.metadata.row_group(number).num_rows))
        self.lock = threading.Lock()
        self.reading: Iterator[tuple[int, bytes | None]] = iter(())
        self.kept: dict[int, bytes | None] = {}

    def read(self, row: int) -> bytes:
        """The image of a row."""
        with self.lock:
            if row not in self.kept:
                self._read_up_to(row)
            content = self.kept[row]
        if content is None:
            raise InputError(f"row {row} has no image in the column {self.column.partition('.')[0]!r}")
        return content

    def _read_up_to(self, row: int) -> None:
        group = next((number for number, rows in enumerate(self.rows) if row in rows), None)
        if group is None:
            raise InputError(f"no row {row}: there are {self.rows[-1].stop if self.rows else 0}")
        last = next(reversed(self.kept), -1)
        if not (last < row and last in self.rows[group]):
            self.reading, self.kept = self._read(group), {}
        for number, content in self.reading:
            self.kept[number] = content
            while len(self.kept) > 1 and (len(self.kept) > _KEPT_IMAGES or self._kept_bytes() > _KEPT_BYTES):
                del self.kept[next(iter(self.kept))]
            if number == row:
                return
        raise InputError(f"row {row} is missing")

    def _kept_bytes(self) -> int:
        return sum(len(content or b"") for content in self.kept.values())

    def _read(self, group: int) -> Iterator[tuple[int, bytes | None]]:
        """Row after row: several may share one value, and to hold each of them would cost its size as often."""
        batches = self.file.iter_batches(1, row_groups=[group], columns=[self.column], use_threads=False)
        for row, batch in zip(self.rows[group], batches, strict=True):
            (cell,) = batch.column(0).to_pylist()
            content = cell.get("bytes") if isinstance(cell, dict) else cell
            yield row, content if isinstance(content, bytes) else None
