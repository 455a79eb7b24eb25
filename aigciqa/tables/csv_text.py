"""CSV as this package writes and reads it: safe to open in a spreadsheet, and no row is lost without an error."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from aigciqa.errors import InputError

Cell = TypeVar("Cell")

#: What a spreadsheet takes for a formula (OWASP, "CSV injection"), after any apostrophes.
_FORMULA = re.compile(r"'*(?:\s*[=+\-@＝＋－＠]|[\t\r\n])")
#: What begins like a formula and is a number, as programs write it.
_NUMBER = re.compile(r"-(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_DELIMITERS = ",;\t"
SWALLOWED = "a cell holds what looks like rows of the file: is there a quotation mark too many?"
# Of the whole process: by default, a cell of more than 128 KiB, such as a workflow, is written and can't be read.
# There is a limit, since a quotation mark too many makes one cell of all that follows.
csv.field_size_limit(1 << 24)


class CsvError(InputError):
    """Text that is not CSV; the message names the file and the line."""


def protected(cell: Cell) -> Cell | str:
    """A cell to be written: text that a spreadsheet would compute gets an apostrophe in front, NUL is an escape."""
    if not isinstance(cell, str):
        return cell
    text = without_nul(cell)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def plain(cell: str) -> str:
    """A cell as it was before `protected`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def without_nul(text: str) -> str:
    """Text with NUL as an escape: a table that has it can't be told from a damaged one."""
    return text.replace("\0", r"\x00")


def csv_line(cells: Iterable[object]) -> str:
    """Cells as one line, protected."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(map(protected, cells))  # with "\n", a cell's "\r" stays unquoted
    return buffer.getvalue()[:-2] + "\n"


def csv_lines(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Rows as CSV with a header."""
    return "".join(map(csv_line, (columns, *([row[name] for name in columns] for row in rows))))


def from_windows(text: str) -> str:
    """Text; bytes in it that are not UTF-8 are those of Windows' code page cp1252, or it raises a `UnicodeError`."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    return text


def read_csv(
    path: str | os.PathLike[str], column: str, names_image: Callable[[str], bool] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Rows of a file as spreadsheets and programs write them, each with the number of its first line.

    UTF-8, or UTF-16 with its mark; bytes that are not UTF-8 come as surrogates. Between cells stand commas, semicolons
    or tabs, whichever the header has beside `column`. Blank lines are left out.

    Args:
        path: of the file.
        column: one that the header has.
        names_image: whether a cell can be of that column. By it, rows that a quotation mark too many has swallowed are
            told from lines of a text; without it, they are not looked for.

    Raises:
        CsvError: a quotation mark that is never closed or stands within a cell; a cell that holds other rows; NUL.
    """
    delimiter = delimiter_of(path, column)
    with open(path, newline="", encoding=encoding_of(path), errors="surrogateescape") as stream:
        first = stream.readline()
        lines = _without_nul(itertools.chain([first] if first else [], stream))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header: list[str] = []
        start = 1
        try:
            for cells in reader:
                header = header or [cell.strip() for cell in cells]
                if (
                    names_image is not None
                    and reader.line_num > start
                    and column in header
                    and swallows(cells, len(header), header.index(column), delimiter, names_image)
                ):
                    raise csv.Error(SWALLOWED)
                if cells:
                    yield start, [plain(cell) for cell in cells]
                start = reader.line_num + 1
        except (csv.Error, UnicodeError) as error:
            raise CsvError(f"{os.fspath(path)}: line {start}: {_reason(error)}") from None


def delimiter_of(path: str | os.PathLike[str], column: str) -> str:
    """What stands between cells: a comma, a semicolon or a tab, whichever the header has beside `column`."""
    with open(path, newline="", encoding=encoding_of(path), errors="surrogateescape") as stream:
        try:
            first = stream.readline()
        except UnicodeError as error:  # UTF-16 that is cut
            raise CsvError(f"{os.fspath(path)}: line 1: {_reason(error)}") from None
    return next((each for each in _DELIMITERS if column in _stripped(first, each)), ",")


def read_records(path: str | os.PathLike[str], column: str) -> Iterator[dict[str, str]]:
    """Rows of a file whose header has `column`, as column -> cell; what is read and refused is as for `read_csv`."""
    rows = read_csv(path, column)
    _, header = next(rows, (0, []))
    return (dict(zip(header, cells, strict=False)) for _, cells in rows)


def encoding_of(path: str | os.PathLike[str]) -> str:
    """What a text is written in by the mark at its start: UTF-8, also without one, or UTF-16."""
    with open(path, "rb") as stream:
        marked = stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return "utf-16" if marked else "utf-8-sig"


def _stripped(line: str, delimiter: str) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def _without_nul(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        if "\0" in line:
            raise csv.Error("NUL: a damaged file, or UTF-16 without its mark: save it as UTF-8")
        yield line


def swallows(cells: Sequence[str], width: int, index: int, delimiter: str, names_image: Callable[[str], bool]) -> bool:
    """Whether a cell with line breaks holds rows of the file, which are told by their cell in the column `index`.

    In a row of as many cells as the header, a line with a row of the file, or with a part of one, has just as many as
    its place asks for; a line of a text such as `fox.png, by night` has not.
    """
    for column, cell in enumerate(cells):
        lines = cell.splitlines()
        last = len(lines) - 1
        for number, line in enumerate(lines if last > 0 else ()):
            inner = _stripped(line, delimiter)
            at = index - (column if number == 0 else 0)
            expected = width - column if number == 0 else column + 1 if number == last else width
            fits = len(inner) == expected or len(cells) != width
            is_row = len(inner) > 1 or (len(cells) == 1 and number < last)  # else a name with a line break
            if fits and is_row and 0 <= at < len(inner) and names_image(inner[at].strip('"')):
                return True
    return False


def _reason(error: Exception) -> str:
    text = str(error)
    if text == "unexpected end of data":
        return "a quotation mark that begins a cell here is never closed"
    if "expected after" in text:
        return 'a quotation mark inside a cell: quote the whole cell, and double the marks in it ("a 27"" screen")'
    return text
