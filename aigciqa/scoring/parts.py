"""A table of scores as a folder of Parquet files, one for each numbered shard of the input.

Whoever writes a part, and however often, writes the same file: under a name of its own first, then renamed. So the
folder holds each part whole or not at all, and parts in the order of their names are the table in input order.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aigciqa.errors import SourceError
from aigciqa.scoring.resume import of_another_run
from aigciqa.tables import provenance
from aigciqa.tables.columns import Row
from aigciqa.tables.parquet import SUFFIX, import_parquet, write_parquet
from aigciqa.utils import object_stores
from aigciqa.utils.paths import absolute

_PART = re.compile(r"part-\d{8}\.parquet")
_UNFINISHED = re.compile(r"\.part-\d{8}\.parquet\.\w+")


class Parts:
    """The folder, by a URL or a path that all who write see; `made_by` says what makes it, so that runs can go on."""

    def __init__(self, path: str, columns: Sequence[str], made_by: Mapping[str, Any]) -> None:
        if not path.lower().endswith(SUFFIX):
            raise SourceError(f"{path!r}: --engine ray writes a folder of Parquet files; its name ends in {SUFFIX}")
        if os.path.isfile(path):
            raise SourceError(f"{path!r} is a file; --engine ray writes a folder of parts: name another")
        import_parquet()
        self.path = absolute(path)
        self.columns = tuple(columns)
        self.made_by = made_by

    def begin(self, keep: bool) -> None:
        """Make the folder, and remove what an interrupted run left half written, and unless `keep`, its parts."""
        filesystem, folder = object_stores.resolve(self.path)
        filesystem.create_dir(folder, recursive=True)
        names = object_stores.names_in(self.path)
        strange = [name for name in names if not (_PART.fullmatch(name) or _UNFINISHED.fullmatch(name))]
        if strange:
            raise SourceError(f"{self.path!r} is a folder that holds {strange[0]!r}; name another for the scores")
        keep = keep and any(map(_PART.fullmatch, names))
        if keep:
            provenance.check_same(self.path, self.made_by)
        else:
            provenance.read(self.path)
        for name in names:
            if not (keep and _PART.fullmatch(name)):
                filesystem.delete_file(f"{folder}/{name}")
        if not keep:
            provenance.write(self.path, self.made_by)

    def check(self, count: int) -> None:
        """Refuse parts beyond those of a run of so many."""
        parts = [name for name in object_stores.names_in(self.path) if _PART.fullmatch(name)]
        if parts and parts[-1] >= _name(count):
            raise of_another_run(self.path, f"it has {parts[-1]}, this run {count} parts")

    def read(self, number: int) -> list[dict[str, Any]] | None:
        """Rows of a part; None if it is not there, or torn."""
        filesystem, folder = object_stores.resolve(self.path)
        try:
            with filesystem.open_input_file(f"{folder}/{_name(number)}") as file:
                table = import_parquet().read_table(file)
        except (FileNotFoundError, ValueError):  # pyarrow.lib.ArrowInvalid: no Parquet
            return None
        if tuple(table.column_names) != self.columns:
            raise of_another_run(self.path, f"its columns are {', '.join(table.column_names)}")
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def write(self, number: int, rows: Iterable[Row]) -> None:
        """Write a part; it is there whole when this returns, also if others write it at the same time."""
        filesystem, folder = object_stores.resolve(self.path)
        unfinished = f"{folder}/.{_name(number)}.{uuid.uuid4().hex}"
        with filesystem.open_output_stream(unfinished) as file:
            write_parquet(file, rows, self.columns)
        filesystem.move(unfinished, f"{folder}/{_name(number)}")

    def written(self, number: int) -> float:
        """When a part was written, in seconds since 1970."""
        filesystem, folder = object_stores.resolve(self.path)
        moment = filesystem.get_file_info(f"{folder}/{_name(number)}").mtime_ns
        return float("inf") if moment is None else moment / 1e9

    def finish(self, count: int = 0) -> None:
        """Remove what those who were stopped left half written; raises OSError if some of so many parts are gone."""
        filesystem, folder = object_stores.resolve(self.path)
        names = object_stores.names_in(self.path)
        for name in filter(_UNFINISHED.fullmatch, names):
            filesystem.delete_file(f"{folder}/{name}")
        gone = sorted({_name(number) for number in range(count)} - set(names))
        if gone:
            raise OSError(f"{len(gone)} parts of {self.path} were removed during the run, such as {gone[0]}")


def _name(number: int) -> str:
    return f"part-{number:08}.parquet"
