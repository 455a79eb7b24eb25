"""The files that tables of scores, and manifests, are in: CSV, JSON, JSON lines, Parquet."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aigciqa.errors import SourceError
from aigciqa.images.names import is_image_name
from aigciqa.tables import parquet
from aigciqa.tables.columns import Row, check_columns
from aigciqa.tables.csv_text import CsvError, csv_line, encoding_of, read_csv
from aigciqa.tables.text import encoded
from aigciqa.utils.object_stores import check_is_path

#: Of tables of scores.
TABLE_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")


def format_of(path: str | os.PathLike[str]) -> str:
    """The suffix of a table that is to be written; a `SourceError` if none can be written so."""
    path = os.fspath(path)
    check_is_path(path)
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in TABLE_SUFFIXES:
        raise SourceError(f"{path!r}: the output ends in one of {', '.join(TABLE_SUFFIXES)}")
    if os.path.isdir(path):
        raise SourceError(f"{path!r} is a folder; name a file")
    if suffix == parquet.SUFFIX:
        parquet.import_parquet()
    return suffix


def read_rows(path: str | os.PathLike[str], columns: Iterable[str] | None = None) -> Iterator[dict[str, Any] | str]:
    """Rows of a table of any kind with a column `image`; instead of one that can't be read, why.

    JSON is read whole, the others as rows are asked for. Parquet may be a folder; only its `columns` are read.

    Raises:
        SourceError: a file that can't be read, no table, one without a column `image` or with two of a name.
    """
    path = os.fspath(path)
    suffix = os.path.splitext(os.path.normpath(path))[1].lower()
    try:
        if suffix == parquet.SUFFIX:
            for part in parquet.parts_of(path):
                yield from parquet.read_parquet(part, columns)
        else:
            yield from {".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}[suffix](path)
    except OSError as error:
        raise SourceError(f"{path!r}: {error.strerror or error}") from None


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row], columns: Sequence[str], suffix: str) -> None:
    """Write a table of scores as the format of a suffix, whatever the file is called."""
    if suffix == parquet.SUFFIX:
        parquet.write_parquet(path, rows, columns)
        return
    with open(path, "wb") as stream:
        if suffix == ".json":
            stream.write(b"[")
            for number, row in enumerate(rows):
                stream.write((b",\n" if number else b"\n") + json.dumps(row, allow_nan=False).encode())
            stream.write(b"\n]\n")
            return
        stream.write(header(columns, suffix))
        for row in rows:
            stream.write(lines([row], columns, suffix))


def header(columns: Sequence[str], suffix: str) -> bytes:
    """What a table in lines begins with."""
    return encoded(csv_line(columns)) if suffix == ".csv" else b""


def lines(rows: Iterable[Row], columns: Sequence[str], suffix: str) -> bytes:
    """Rows as lines of CSV, or else of JSON."""
    if suffix == ".csv":
        return encoded("".join(csv_line(row[name] for name in columns) for row in rows))
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode()


def _read_csv(path: str) -> Iterator[dict[str, Any] | str]:
    folder = os.path.dirname(path)
    rows = read_csv(path, "image", lambda text: is_image_name(text) or os.path.isfile(os.path.join(folder, text)))
    try:
        _, names = next(rows, (0, []))
        names = [name.strip() for name in names]
        check_columns(path, names)
        for line, cells in rows:
            if any(cells[len(names) :]):
                raise SourceError(
                    f"{path}: line {line} has {len(cells)} cells, the header {len(names)}: quote a cell with a "
                    "delimiter in it"
                )
            given: dict[str, Any] = dict.fromkeys(names) | dict(zip(names, cells, strict=False))
            given.pop("", None)
            yield given | ({"": None} if len(cells) > len(names) else {})  # whoever is strict about cells sees it
    except CsvError as error:
        raise SourceError(str(error)) from None


def _read_jsonl(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding=encoding_of(path), errors="surrogateescape") as stream:
        for line in filter(str.strip, stream):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"not JSON: {error}"
                continue
            yield _object(row)


def _read_json(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding=encoding_of(path), errors="surrogateescape") as stream:
        try:
            rows = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise SourceError(f"{path!r} holds no list of rows but {type(rows).__name__}")
    yield from map(_object, rows)


def _object(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"
