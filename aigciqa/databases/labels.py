"""The label files of databases: spreadsheets, CSV, Parquet, MATLAB matrices; what is wrong with them is noted."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aigciqa.databases.base import Problems, counted
from aigciqa.images import parquet
from aigciqa.images.names import is_image_name
from aigciqa.tables.csv_text import CsvError, from_windows, read_csv
from aigciqa.utils.paths import shown

#: A number with a decimal comma, as a spreadsheet writes it in much of Europe.
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*")
#: With three digits behind every comma, it may as well part thousands.
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})?\s*")
T = TypeVar("T")


class _UnusableError(Exception):
    """A label file that can't be used; the message says why."""


@dataclass(frozen=True)
class Table:
    """A label file.

    Attributes:
        where: its path below the root.
        columns: names of the columns, in order, stripped.
        rows: cells of each row, as long as `columns`; None where a cell is empty.
        first: number of the first row, as a spreadsheet counts.
    """

    where: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    first: int

    def column(self, name: str) -> list[Any]:
        """The cells of one column."""
        index = self.columns.index(name)
        return [row[index] for row in self.rows]


class Reader:
    """Reads label files below a root; what is wrong with them goes to the list of problems."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self.root = root
        self.problems = problems

    def spreadsheet(self, where: str, columns: Sequence[str] = (), header: bool = True) -> Table | None:
        """The first sheet of an `.xlsx` file.

        Args:
            where: its path below the root.
            columns: names it must have.
            header: whether its first row names the columns; they are numbered otherwise.

        Returns:
            The table; None if it can't be used, which has been noted.

        Raises:
            ImportError: openpyxl is missing.
        """
        return self._noted(where, lambda: _table(where, _sheet(self.root / where), columns, header))

    def csv(self, where: str, columns: Sequence[str]) -> Table | None:
        """A `.csv` file with a header, in UTF-8, UTF-16 or Windows' code page, with commas, semicolons or tabs.

        Returns:
            The table; None if it can't be used, which has been noted.
        """
        return self._noted(where, lambda: _table(where, _lines(self.root / where, columns[0]), columns, header=True))

    def parquet(self, where: str, columns: Sequence[str]) -> Table | None:
        """A `.parquet` file; its images are left where they are, and their cells are paths of them.

        Returns:
            The table; None if it can't be used, which has been noted.

        Raises:
            ImportError: pyarrow is missing.
        """
        return self._noted(where, lambda: _table(where, _parquet_cells(self.root / where), columns, header=True))

    def matrix(self, where: str, key: str) -> list[float] | None:
        """The numbers of a MATLAB file's (n, 1) matrix.

        Returns:
            n numbers; None if it can't be used, which has been noted.

        Raises:
            ImportError: scipy is missing.
        """
        return self._noted(where, lambda: _matrix(self.root / where, key))

    def numbers(self, table: Table, name: str) -> list[float]:
        """A column of labels. Cells that hold no number are noted, and NaN in the result."""
        column = table.column(name)
        if _has_decimal_commas(column):
            column = [cell and cell.replace(",", ".") for cell in column]
        cells = [(row, cell, _number(cell)) for row, cell in enumerate(column, table.first)]
        wrong = [f"row {row} {_said(cell)}" for row, cell, number in cells if math.isnan(number)]
        if wrong:
            self.problems.add(table.where, f"{counted(wrong, 'label')} of {name!r} without a number: {shown(wrong)}")
        return [number for *_, number in cells]

    def texts(self, table: Table, name: str, blank: bool = False) -> list[str]:
        """A column of text, stripped.

        Args:
            blank: whether cells may be empty; where they may not be, empty ones are noted.
        """
        texts = ["" if cell is None else str(cell).strip() for cell in table.column(name)]
        empty = [f"row {row}" for row, text in enumerate(texts, table.first) if not text]
        if empty and not blank:
            self.problems.add(table.where, f"{counted(empty, 'cell')} of {name!r} empty: {shown(empty)}")
        return texts

    def _noted(self, where: str, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except _UnusableError as error:
            self.problems.add(where, str(error))
            return None


def _sheet(path: Path) -> list[tuple[Any, ...]]:
    """The cells of a spreadsheet's first sheet."""
    openpyxl = _import("openpyxl", "Spreadsheets")
    try:
        book = openpyxl.load_workbook(path, read_only=True, data_only=True)
        with contextlib.closing(book):
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some writers note a wrong size
            return [tuple(row) for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # zipfile, the XML parser and openpyxl each raise their own
        raise _UnusableError(f"not a spreadsheet (.xlsx) that can be read: {error}") from error


def _lines(path: Path, column: str) -> list[tuple[Any, ...]]:
    """The cells of a CSV file."""
    try:
        return [tuple(map(from_windows, cells)) for _, cells in read_csv(path, column, is_image_name)]
    except CsvError as error:
        raise _UnusableError(f"not CSV: {str(error).removeprefix(f'{path}: ')}") from error
    except UnicodeError as error:
        raise _UnusableError(f"neither in UTF-8 nor in Windows' code page: {error}; save it as UTF-8") from error


def _parquet_cells(path: Path) -> list[tuple[Any, ...]]:
    """The cells of a Parquet file, its columns' names first; images' are paths."""
    parquet = _import("pyarrow.parquet", "Parquet files", "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            columns = {field.name: _parquet_column(path, file, field) for field in file.schema_arrow}
            return [tuple(columns), *zip(*columns.values(), strict=True)]
    except (OSError, ValueError) as error:
        raise _UnusableError(f"not Parquet that can be read: {error}") from error


def _parquet_column(path: Path, file: Any, field: Any) -> list[Any]:
    """The cells of one column; of images, what they are called is read, not what they are."""
    types = _import("pyarrow.types", "Parquet files", "parquet")
    names: Sequence[str | None] = [None] * file.metadata.num_rows
    if types.is_struct(field.type) and "bytes" in {part.name for part in field.type}:
        if "path" in {part.name for part in field.type}:
            cells = file.read([f"{field.name}.path"]).column(0).to_pylist()
            names = [cell and cell["path"] for cell in cells]
    elif types.is_nested(field.type):
        return list(names)  # nothing that labels have, such as embeddings
    elif not (types.is_binary(field.type) or types.is_large_binary(field.type)):
        return list(file.read([field.name]).column(0).to_pylist())
    return [parquet.path_of(path.name, field.name, row, name) for row, name in enumerate(names)]


def _matrix(path: Path, key: str) -> list[float]:
    """The numbers of a MATLAB file's column."""
    scipy_io = _import("scipy.io", "MATLAB files")
    try:
        content = scipy_io.loadmat(path)
    except Exception as error:  # scipy raises anything on broken data
        raise _UnusableError(f"not a MATLAB file that can be read: {error}") from error
    if key not in content:
        held = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise _UnusableError(f"expected the key {key!r}; it holds: {held}")
    values = content[key]
    if values.ndim != 2 or 1 not in values.shape or values.dtype.kind not in "fiu":
        raise _UnusableError(f"expected {key} as n x 1 numbers; got {values.shape} of {values.dtype}")
    numbers = [float(value) for value in values.ravel()]
    wrong = [f"{key}({row}) is {value}" for row, value in enumerate(numbers, 1) if not math.isfinite(value)]
    if wrong:
        raise _UnusableError(f"{counted(wrong, 'label')} without a number: {shown(wrong)}")
    return numbers


def _table(where: str, cells: list[tuple[Any, ...]], columns: Sequence[str], header: bool) -> Table:
    """Cells as a table that has the columns; empty rows at its end, as spreadsheets keep them, are left out."""
    while cells and _is_empty(cells[-1]):
        cells.pop()
    if header and cells:
        names = ["" if cell is None else str(cell).strip() for cell in cells.pop(0)]
    else:
        names = [str(number) for number in range(1, max(map(len, cells), default=0) + 1)]
    _check_columns(names, columns)
    if not cells:
        raise _UnusableError("no rows")
    first = 2 if header else 1
    wide = [f"row {row}" for row, row_cells in enumerate(cells, first) if not _is_empty(row_cells[len(names) :])]
    if wide:
        raise _UnusableError(f"{counted(wide, 'row')} with more cells than columns: {shown(wide)}")
    rows = tuple(tuple(map(_cell, (row + (None,) * len(names))[: len(names)])) for row in cells)
    return Table(where, tuple(names), rows, first)


def _check_columns(names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        plural = "column" if len(missing) == 1 else "columns"
        found = ", ".join(repr(name) for name in names if name) or "none"
        raise _UnusableError(f"no {plural} {', '.join(_with_nearest(name, names) for name in missing)}; found: {found}")
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise _UnusableError(f"several columns are called {', '.join(map(repr, repeated))}")


def _with_nearest(name: str, names: Sequence[str]) -> str:
    folded = {other.lower(): other for other in names if other}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    return repr(name) + (f" (nearest: {folded[near[0]]!r})" if near else "")


def _import(module: str, what: str, extra: str = "train") -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{what} need {module.split('.')[0]}: pip install 'aigciqa[{extra}]'") from None


def _cell(cell: Any) -> Any:
    return None if isinstance(cell, str) and not cell.strip() else cell


def _is_empty(row: Iterable[Any]) -> bool:
    return all(_cell(cell) is None for cell in row)


def _has_decimal_commas(cells: Sequence[Any]) -> bool:
    given = [cell for cell in cells if cell is not None]
    return all(isinstance(cell, str) and _DECIMAL_COMMA.fullmatch(cell) for cell in given) and not all(
        map(_THOUSANDS.fullmatch, given)
    )


def _number(cell: Any) -> float:
    """The finite number of a cell; NaN if it holds none."""
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _said(cell: Any) -> str:
    return "is empty" if cell is None else f"is {cell!r}"
