"""Tables with named columns, as other programs write them: spreadsheets, CSV, JSON and Parquet."""

from __future__ import annotations

import contextlib
import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError
from aigciqa.images import parquet as parquet_images
from aigciqa.images.names import is_image_name
from aigciqa.tables.columns import finite
from aigciqa.tables.csv_text import CsvError, delimiter_of, from_windows, read_csv
from aigciqa.tables.formats import read_rows
from aigciqa.tables.parquet import import_parquet, parts_of
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.paths import counted, shown

#: A number with a decimal comma, as a spreadsheet writes it in much of Europe.
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*")
#: With three digits behind every comma, it may as well part thousands.
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})?\s*")


class TableError(InputError):
    """A table that can't be used; the message says why and leaves its path to the caller."""


class MissingColumnError(TableError):
    """A table without a column that it must have."""


@dataclass(frozen=True)
class ColumnTable:
    """A table with named columns.

    Attributes:
        columns: their names, in order, stripped; numbers from 1 where the file has no header.
        rows: cells of each row, as many as `columns`; None where a cell is empty.
        first: number of the first row, as a spreadsheet counts.
        has_semicolons: whether semicolons stand between the cells of its file, so that a comma is a decimal one.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    first: int
    has_semicolons: bool = False

    def column(self, name: str) -> list[Any]:
        """The cells of one column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]

    def texts(self, name: str) -> list[str]:
        """A column of text, stripped; empty where a cell is."""
        return ["" if cell is None else str(cell).strip() for cell in self.column(name)]

    def numbers(self, name: str) -> list[float]:
        """A column of numbers; NaN where a cell holds none that is finite."""
        cells = self.column(name)
        if _has_decimal_commas(cells, self.has_semicolons):
            cells = [cell and cell.replace(",", ".") for cell in cells]
        return list(map(finite, cells))


def read_columns(path: Path, columns: Sequence[str], header: bool = True) -> ColumnTable:
    """A table by its suffix: the first sheet of `.xlsx`, `.parquet`, `.json`, `.jsonl`, else CSV.

    CSV is in UTF-8, UTF-16 or Windows' code page, with commas, semicolons or tabs. Parquet may be a folder of parts.
    Images in it stay there, and their cells are paths of them (`aigciqa.images.parquet`). Empty rows at the end are
    left out. Rows of JSON count from 1.

    Args:
        path: of the file.
        columns: names it must have; of CSV, the first has the images.
        header: whether the first row names the columns.

    Raises:
        TableError: it can't be read, lacks a column (`MissingColumnError`) or has it twice, has no rows, or a row with
            too many cells.
        SourceError: a file of JSON, or a folder of parts, that can't be read.
    """
    suffix = path.suffix.lower()
    is_json = suffix in (".json", ".jsonl")
    if suffix == ".xlsx":
        cells = _spreadsheet(path)
    elif suffix == parquet_images.SUFFIX:
        cells = _parquet(path)
    else:
        cells = _json(path) if is_json else _csv(path, columns[0])
    while cells and _is_empty(cells[-1]):
        cells.pop()
    if header and cells:
        names = ["" if cell is None else str(cell).strip() for cell in cells.pop(0)]
    else:
        names = [str(number) for number in range(1, max(map(len, cells), default=0) + 1)]
    _check_columns(names, columns)
    if not cells:
        raise TableError("no rows")
    first = 2 if header and not is_json else 1
    wide = [f"row {row}" for row, row_cells in enumerate(cells, first) if not _is_empty(row_cells[len(names) :])]
    if wide:
        raise TableError(f"{counted(wide, 'row')} with more cells than columns: {shown(wide)}")
    rows = tuple(tuple(map(unblank, (row + (None,) * len(names))[: len(names)])) for row in cells)
    is_csv = suffix not in (".xlsx", parquet_images.SUFFIX) and not is_json
    return ColumnTable(tuple(names), rows, first, is_csv and delimiter_of(path, columns[0]) == ";")


def _spreadsheet(path: Path) -> list[tuple[Any, ...]]:
    with needs_extra("train", "Spreadsheets need openpyxl"):
        import openpyxl
    try:
        with contextlib.closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some writers note a wrong size
            return [tuple(row) for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # zipfile, the XML parser and openpyxl each raise their own
        raise TableError(f"not a spreadsheet (.xlsx) that can be read: {error}") from error


def _csv(path: Path, column: str) -> list[tuple[Any, ...]]:
    try:
        return [tuple(map(from_windows, row)) for _, row in read_csv(path, column, is_image_name)]
    except CsvError as error:
        raise TableError(f"not CSV: {str(error).removeprefix(f'{path}: ')}") from error
    except UnicodeError as error:
        raise TableError(f"neither in UTF-8 nor in Windows' code page: {error}; save it as UTF-8") from error


def _json(path: Path) -> list[tuple[Any, ...]]:
    rows, wrong = [], []
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, str):
            wrong.append(f"row {number}: {row}")
        else:
            rows.append(row)
    if wrong:
        raise TableError(f"{counted(wrong, 'row')} that can't be read: {shown(wrong)}")
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return [names, *(tuple(map(row.get, names)) for row in rows)]


def _parquet(path: Path) -> list[tuple[Any, ...]]:
    parts = [_parquet_part(path, Path(part)) for part in parts_of(str(path))]
    if any(part[0] != parts[0][0] for part in parts):
        raise TableError("its parts have not the same columns")
    return [*(parts[0][:1] if parts else ()), *(row for part in parts for row in part[1:])]


def _parquet_part(path: Path, part: Path) -> list[tuple[Any, ...]]:
    try:
        with import_parquet().ParquetFile(part) as file:
            name = part.relative_to(path.parent).as_posix()
            cells = {field.name: _parquet_column(name, file, field) for field in file.schema_arrow}
    except (OSError, ValueError) as error:
        raise TableError(f"not Parquet that can be read: {error}") from error
    return [tuple(cells), *zip(*cells.values(), strict=True)]


def _parquet_column(path: str, file: Any, field: Any) -> list[Any]:
    """The cells of one column; of images, only their names are read."""
    from pyarrow import types

    names: Sequence[str | None] = [None] * file.metadata.num_rows
    if types.is_struct(field.type) and "bytes" in {part.name for part in field.type}:
        if "path" in {part.name for part in field.type}:
            cells = file.read([f"{field.name}.path"]).column(0).to_pylist()
            names = [cell and cell["path"] for cell in cells]
    elif types.is_nested(field.type):
        return list(names)  # nothing that labels have, such as embeddings
    elif not (types.is_binary(field.type) or types.is_large_binary(field.type)):
        return list(file.read([field.name]).column(0).to_pylist())
    return [parquet_images.path_of(path, field.name, row, name) for row, name in enumerate(names)]


def _check_columns(names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        plural = "column" if len(missing) == 1 else "columns"
        found = ", ".join(repr(name) for name in names if name) or "none"
        raise MissingColumnError(
            f"no {plural} {', '.join(with_nearest(name, names) for name in missing)}; found: {found}"
        )
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise TableError(f"several columns are called {', '.join(map(repr, repeated))}")


def with_nearest(name: str, names: Sequence[str]) -> str:
    """A name that is not there, and the most similar one that is."""
    folded = {other.lower(): other for other in names if other}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    return repr(name) + (f" (nearest: {folded[near[0]]!r})" if near else "")


def unblank(cell: Any) -> Any:
    """A cell; None for a blank one, and for NaN: pandas has no other empty cell."""
    is_blank = not cell.strip() if isinstance(cell, str) else isinstance(cell, Real) and math.isnan(cell)
    return None if is_blank else cell


def _is_empty(row: Iterable[Any]) -> bool:
    return all(unblank(cell) is None for cell in row)


def _has_decimal_commas(cells: Sequence[Any], sure: bool) -> bool:
    """Whether all numbers can have decimal commas, and unless that is `sure`, can't have commas between thousands."""
    given = [cell for cell in cells if cell is not None]
    return all(isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell) for cell in given) and (
        sure or not all(map(_THOUSANDS.fullmatch, given))
    )
