"""A table with named columns, as another program has written it: cells of any type, text and numbers on request."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aigciqa.errors import InputError
from aigciqa.utils.paths import counted, shown

#: A number with a decimal comma, as a spreadsheet writes it in much of Europe.
_DECIMAL_COMMA = re.compile(r"\s*[+-]?\d+(,\d+)?\s*")
#: With three digits behind every comma, it may as well part thousands.
_THOUSANDS = re.compile(r"\s*[+-]?\d{1,3}(,\d{3})?\s*")


class TableError(InputError):
    """A table that can't be used; the message says why and leaves its path to the caller."""


@dataclass(frozen=True)
class ColumnTable:
    """A table with named columns.

    Attributes:
        columns: their names, in order, stripped.
        rows: cells of each row, as many as `columns`; None where a cell is empty.
        first: number of the first row, as a spreadsheet counts.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    first: int

    @classmethod
    def of(cls, cells: list[tuple[Any, ...]], columns: Sequence[str] = (), header: bool = True) -> ColumnTable:
        """The table of cells as a file has them. Empty rows at its end, as spreadsheets keep them, are left out.

        Args:
            cells: of each row.
            columns: names it must have.
            header: whether the first row names the columns; they are numbered from 1 otherwise.

        Raises:
            TableError: a column is missing or there twice, there are no rows, or a row has too many cells.
        """
        cells = list(cells)
        while cells and _is_empty(cells[-1]):
            cells.pop()
        if header and cells:
            names = ["" if cell is None else str(cell).strip() for cell in cells.pop(0)]
        else:
            names = [str(number) for number in range(1, max(map(len, cells), default=0) + 1)]
        _check_columns(names, columns)
        if not cells:
            raise TableError("no rows")
        first = 2 if header else 1
        wide = [f"row {row}" for row, row_cells in enumerate(cells, first) if not _is_empty(row_cells[len(names) :])]
        if wide:
            raise TableError(f"{counted(wide, 'row')} with more cells than columns: {shown(wide)}")
        rows = tuple(tuple(map(_cell, (row + (None,) * len(names))[: len(names)])) for row in cells)
        return cls(tuple(names), rows, first)

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
        if _has_decimal_commas(cells):
            cells = [cell and cell.replace(",", ".") for cell in cells]
        return list(map(_number, cells))


def _check_columns(names: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in names]
    if missing:
        plural = "column" if len(missing) == 1 else "columns"
        found = ", ".join(repr(name) for name in names if name) or "none"
        raise TableError(f"no {plural} {', '.join(_with_nearest(name, names) for name in missing)}; found: {found}")
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise TableError(f"several columns are called {', '.join(map(repr, repeated))}")


def _with_nearest(name: str, names: Sequence[str]) -> str:
    folded = {other.lower(): other for other in names if other}
    near = difflib.get_close_matches(name.lower(), folded, n=1)
    return repr(name) + (f" (nearest: {folded[near[0]]!r})" if near else "")


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
    if isinstance(cell, bool) or not isinstance(cell, (int, float, str)):
        return math.nan
    try:
        number = float(cell)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
