"""Tables in Parquet: a file, or a folder `NAME.parquet` of files, which is one table in the order of their names."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aigciqa.errors import SourceError
from aigciqa.images import parquet as parquet_images
from aigciqa.tables.columns import MANIFEST_COLUMNS, Row, check_columns, scores_of
from aigciqa.utils.extras import needs_extra

SUFFIX = parquet_images.SUFFIX
#: Bytes that are read at a time, about: images may be in the rows.
_BYTES = 8 << 20
_ROWS_READ = 65_536
_ROWS_WRITTEN = 10_000


def import_parquet() -> Any:
    """pyarrow's parquet module."""
    with needs_extra("parquet", "Parquet files need pyarrow"):
        from pyarrow import parquet
    return parquet


def is_folder_of_parts(path: str) -> bool:
    """Whether it is a folder of Parquet files, as `--engine ray` writes it."""
    return os.path.isdir(path) and os.path.normpath(path).lower().endswith(SUFFIX)


def parts_of(path: str) -> list[str]:
    """The files of a table."""
    return sorted(glob.glob(os.path.join(glob.escape(path), "*.parquet"))) if is_folder_of_parts(path) else [path]


def text_columns(path: str) -> list[str]:
    """The columns of a file that can be those of a manifest; lists, structs and bytes are no text."""
    from pyarrow import types

    with _open(path) as file:
        check_columns(path, file.schema_arrow.names)
        other = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
        return [
            field.name
            for field in file.schema_arrow
            if field.name in MANIFEST_COLUMNS or not any(check(field.type) for check in other)
        ]


def holds_images(path: str) -> bool:
    """Whether images are in a file, not only their paths."""
    from pyarrow import types

    with _open(path) as file:
        columns = {field.name: field.type for field in file.schema_arrow}
    kinds = (columns[name] for name in ("image", "reference") if name in columns)
    return any(types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind) for kind in kinds)


def read_parquet(path: str, columns: Iterable[str] | None) -> Iterator[dict[str, Any] | str]:
    """Rows of a file, with the columns that are needed (None: all); a last one that can't be read is why."""
    with _open(path) as file:
        names = file.schema_arrow.names
        check_columns(path, names)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        rows = min(_ROWS_READ, max(1, _BYTES // max(1, largest)))
        if holds_images(path):  # of which many rows may share one that the file has once
            rows = 1
        wanted = [name for name in columns if name in names] if columns else names
        try:
            for batch in file.iter_batches(rows, columns=wanted):
                yield from batch.to_pylist()
        except (OSError, ValueError, MemoryError) as error:
            yield f"not Parquet: {error or 'a row that does not fit in memory'}"


def write_parquet(target: Any, rows: Iterable[Row], columns: Sequence[str]) -> None:
    """Write a table of scores to a path or an open file; rows have all columns."""
    rest = iter(rows)
    with import_parquet().ParquetWriter(target, _schema(columns)) as writer:
        while part := list(itertools.islice(rest, _ROWS_WRITTEN)):
            writer.write_table(arrow_table(part, columns))


def arrow_table(rows: Iterable[Row], columns: Sequence[str]) -> Any:
    """Rows of scores as a `pyarrow.Table`."""
    import pyarrow

    valid = [{name: utf8(cell) for name, cell in row.items()} for row in rows]
    return pyarrow.Table.from_pylist(valid, schema=_schema(columns))


def utf8(cell: Any) -> Any:
    """Parquet holds UTF-8 only: bytes of a name that are none are written as escapes."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


def _schema(columns: Sequence[str]) -> Any:
    import pyarrow

    scores = scores_of(columns)
    return pyarrow.schema([(name, pyarrow.float64() if name in scores else pyarrow.string()) for name in columns])


def _open(path: str) -> Any:
    try:
        return parquet_images.open_parquet(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path!r} is not Parquet: {error}") from None
