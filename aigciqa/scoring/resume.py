"""Tables of an interrupted run: their journals read back, the last row maybe torn, and whether this run goes on."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aigciqa.errors import InputError, SourceError
from aigciqa.tables.columns import UNKNOWN, Row, scores_of, to_score
from aigciqa.tables.csv_text import plain
from aigciqa.tables.formats import header
from aigciqa.tables.parquet import utf8
from aigciqa.tables.provenance import WAY_OUT

#: How every row of a journal in JSON lines begins.
FIRST_KEY = b'{"image": '


def is_same(row: Row, other: Row, columns: Sequence[str]) -> bool:
    """Whether two rows are of one image, with one reference, group and metric, and say the same of it but scores.

    What of the other is UNKNOWN counts as the same.
    """
    left_out = {*scores_of(columns), "error", *(name for name in columns if other.get(name) is UNKNOWN)}
    return all(name in left_out or (utf8(row.get(name)) or None) == (utf8(other.get(name)) or None) for name in columns)


def refuse_changed(table: str, paths: Sequence[str | None], written: float) -> None:
    """Refuse to resume a table if files with its images were changed after `written`, in seconds since 1970."""
    for path in paths:
        if path and _changed(path) > written:
            raise SourceError(
                f"can't resume: {path} was changed after {table} was written, so its score may be another by now. "
                f"{WAY_OUT}"
            )


def of_another_run(table: str, difference: str) -> SourceError:
    """The error of a table that can't be resumed."""
    return SourceError(f"can't resume: {table} is of another run: {difference}. {WAY_OUT}")


def difference(row: Row, expected: Row | None, columns: Sequence[str]) -> str:
    """What a row has that this run would write otherwise; `expected` is None if it would write nothing more."""
    has, wants = f"{row['image']!r} by {row['metric']}", "nothing more"
    if expected is not None:
        wants = f"{expected['image']!r} by {expected['metric']}"
        if wants == has:
            name = next(name for name in columns if not is_same(row, {**row, name: expected.get(name)}, columns))
            has += f" with {name} {row.get(name)!r}"
            wants = f"{name} {expected.get(name)!r}"
    return f"it has {has}, this run {wants}"


def begins_row(data: bytes) -> bool:
    """Whether bytes are a row in JSON lines, or the beginning of one."""
    return data.startswith(FIRST_KEY) or FIRST_KEY.startswith(data)


def read_jsonl(stream: Iterable[bytes], name: str) -> Iterator[tuple[dict[str, Any], int]]:
    """The whole rows of a journal's lines, each with the offset of its end; `name` is what errors call it."""
    end = 0
    for line in stream:
        if not line.endswith(b"\n"):
            if not begins_row(line):
                raise SourceError(f"can't resume: {name} ends in a line that is not a score")
            return
        end += len(line)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise SourceError(f"can't resume: {name} holds a line that is not JSON") from None
        if not isinstance(row, dict) or not {"image", "metric"} <= row.keys():
            raise SourceError(f"can't resume: {name} holds a line that is not a score")
        yield row, end


def read_csv(stream: Iterable[bytes], name: str, columns: Sequence[str]) -> Iterator[tuple[dict[str, Any], int]]:
    """The header and the whole rows of a journal's lines, each with the offset of its end."""
    end = 0
    record: list[str] = []  # lines of the row that is being read

    def lines() -> Iterator[str]:
        nonlocal end
        for line in stream:
            if not line.endswith(b"\n"):
                if not end and not header(columns, ".csv").startswith(line):
                    raise SourceError(f"can't resume: {name} is no table of scores: its header is another")
                return
            if b"\0" in line:
                raise SourceError(f"can't resume: {name} holds NUL: it is damaged")
            end += len(line)
            record.append(line.decode("utf-8", "surrogateescape"))
            yield record[-1]

    whole = lines()
    try:
        for number, cells in enumerate(csv.reader(whole, strict=True)):
            record.clear()
            if not cells:  # a line that an editor has left
                continue
            cells = list(map(plain, cells))
            if len(cells) != len(columns) or (number == 0 and tuple(cells) != tuple(columns)):
                raise other_columns(name, cells, columns)
            yield _typed(dict(zip(columns, cells, strict=True)), name, columns), end
    except csv.Error as error:
        torn = next(whole, None) is None  # the file ends inside a quoted cell, which may be the last row, cut off
        if not torn or any(len(cells) == len(columns) for cells in csv.reader(record[1:])):
            raise SourceError(f"can't resume: {name} holds a line that is not CSV: {error}") from None


def other_columns(name: str, found: Iterable[str], columns: Iterable[str]) -> SourceError:
    """The error of a journal that has other columns."""
    return SourceError(
        f"can't resume: {name} has other columns than this run: {', '.join(found)}; expected {', '.join(columns)}. "
        f"Another program saved it, or another manifest made it. {WAY_OUT}"
    )


def _changed(path: str) -> float:
    """When a file was changed, in seconds since 1970; of an image in another file, that file; 0 if it is no file."""
    try:
        return os.stat(path).st_mtime
    except NotADirectoryError:  # ARCHIVE/MEMBER
        return _changed(os.path.dirname(path))
    except FileNotFoundError:  # FILE.parquet#ROW
        return _changed(path.rpartition("#")[0]) if "#" in path else 0.0
    except (OSError, ValueError):
        return 0.0


def _typed(row: dict[str, Any], name: str, columns: Sequence[str]) -> dict[str, Any]:
    scores = set(scores_of(columns))
    for column, cell in row.items():
        if cell == "" and column not in ("image", "metric"):
            row[column] = None
        elif column in scores and cell != column:
            try:
                row[column] = to_score(cell)
            except InputError:
                raise SourceError(f"can't resume: {name} holds {cell!r} in the column {column!r}") from None
    return row
