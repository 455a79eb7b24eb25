"""Tables of text and numbers: aligned for the terminal, Markdown, CSV; and how numbers look in them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aigciqa.errors import InputError
from aigciqa.tables.csv_text import csv_line
from aigciqa.utils.files import write_file

Writer = TypeVar("Writer")

#: Decimals in tables to be read.
DECIMALS = 3


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Attributes:
        title: what it shows.
        header: a name per column.
        rows: a cell per column.
        left: how many columns are names, aligned left; the others are numbers, aligned right.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int


def aligned(table: Table) -> str:
    """A table in columns of equal width."""
    lines = [[printable(cell) for cell in line] for line in (table.header, *table.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < table.left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, lines))


def markdown(table: Table) -> str:
    """A table in GitHub's Markdown."""
    rule = ["---" if column < table.left else "---:" for column in range(len(table.header))]
    escaped = [[markdown_text(printable(cell)) for cell in line] for line in (table.header, *table.rows)]
    lines = [escaped[0], rule, *escaped[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Text as Markdown that shows it as it is, in a cell of a table as well."""
    return re.sub(r"[\\`*_|~&]|<(?=\S)|\](?=[(\[:])", r"\\\g<0>", text)


def printable(text: str) -> str:
    """Text without characters that would move a terminal's cursor or can't be encoded."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def csv_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV with a header."""
    return "".join(map(csv_line, (columns, *([row[name] for name in columns] for row in rows))))


def rounded(value: float, *, signed: bool = False) -> str:
    """With three decimals and a true minus; `n/a` for what could not be computed."""
    if math.isnan(value):
        return "n/a"
    text = f"{value:{'+' if signed else ''}.{DECIMALS}f}"
    return text.replace("-", "−")


def with_interval(value: float, low: float, high: float, *, signed: bool = False) -> str:
    """A number and its interval, where there is one."""
    if math.isnan(low):
        return rounded(value, signed=signed)
    return f"{rounded(value, signed=signed)} [{rounded(low, signed=signed)}, {rounded(high, signed=signed)}]"


def probability(p: float) -> str:
    """A p value."""
    if math.isnan(p):
        return "n/a"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """A share without decimals."""
    return "n/a" if math.isnan(share) else f"{share:.0%}"


def without_nan(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def writer_of(path: str | os.PathLike[str], writers: Mapping[str, Writer], what: str) -> Writer:
    """The writer of a file's suffix.

    Raises:
        ValueError: there is none; `what` is the file to be.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in writers:
        raise InputError(f"{os.fspath(path)!r}: the {what} ends in one of {', '.join(writers)}")
    return writers[suffix]


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a file, whole or not at all, making its folder if absent."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_file(path, encoded(text))


def encoded(text: str) -> bytes:
    """Text as UTF-8: names that are none keep their bytes; any other lone surrogate is an escape."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace")
