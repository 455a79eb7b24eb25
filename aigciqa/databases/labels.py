"""The label files of databases. What is wrong with them is added to the database's problems."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from aigciqa.databases.problems import Problems, check_images
from aigciqa.databases.sample import Sample, with_names
from aigciqa.images import parquet as parquet_images
from aigciqa.images.names import is_image_name
from aigciqa.tables.column_table import ColumnTable, TableError
from aigciqa.tables.readers import read_csv_columns, read_matrix, read_parquet_columns, read_spreadsheet
from aigciqa.utils.paths import counted, shown

T = TypeVar("T")


@dataclass(frozen=True)
class Labels:
    """A label file.

    Attributes:
        problems: of the database.
        where: path of the file below the root.
        table: what it holds.
    """

    problems: Problems
    where: str
    table: ColumnTable

    @property
    def root(self) -> Path:
        """Folder of the database."""
        return self.problems.root

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of its columns."""
        return self.table.columns

    def numbers(self, name: str) -> list[float]:
        """A column of labels. Cells that hold no number are noted, and NaN in the result."""
        numbers = self.table.numbers(name)
        cells = enumerate(zip(self.table.column(name), numbers, strict=True), self.table.first)
        wrong = [f"row {row} {_described(cell)}" for row, (cell, number) in cells if math.isnan(number)]
        if wrong:
            self.problems.add(self.where, f"{counted(wrong, 'label')} of {name!r} without a number: {shown(wrong)}")
        return numbers

    def texts(self, name: str) -> list[str]:
        """A column of text, stripped. Empty cells are noted."""
        texts = self.table.texts(name)
        empty = [f"row {row}" for row, text in enumerate(texts, self.table.first) if not text]
        if empty:
            self.problems.add(self.where, f"{counted(empty, 'cell')} of {name!r} empty: {shown(empty)}")
        return texts

    def optional_texts(self, name: str) -> list[str]:
        """A column of text that may have empty cells or be missing."""
        return self.table.texts(name) if name in self.columns else [""] * len(self.table.rows)


def read_samples(
    problems: Problems,
    where: str,
    columns: Sequence[str],
    to_samples: Callable[[Labels], Iterable[Sample]],
    repeated: Mapping[str, int] | None = None,
) -> tuple[Sample, ...]:
    """The samples that a label file lists, with names; none if it can't be used, which is noted.

    Args:
        problems: of the database.
        where: path of the file below the root: `.xlsx`, `.csv` or `.parquet`.
        columns: that it must have.
        to_samples: makes samples of the labels.
        repeated: as for `check_images`.
    """
    labels = read_labels(problems, where, columns) if problems.has(where) else None
    samples = with_names(to_samples(labels), problems.root) if labels is not None else ()
    check_images(problems, where, samples, repeated)
    return samples


def read_labels(problems: Problems, where: str, columns: Sequence[str] = (), header: bool = True) -> Labels | None:
    """A label file; None if it can't be used, which is noted.

    Args:
        problems: of the database.
        where: path of the file below the root: `.xlsx`, `.csv` or `.parquet`.
        columns: that it must have.
        header: whether the first row of a spreadsheet names the columns; they are numbered otherwise.

    Raises:
        MissingExtraError: openpyxl or pyarrow is missing.
    """
    path = problems.root / where

    def read() -> ColumnTable:
        if path.suffix.lower() == ".xlsx":
            return read_spreadsheet(path, columns, header)
        if path.suffix.lower() == parquet_images.SUFFIX:
            return read_parquet_columns(path, columns)
        return read_csv_columns(path, columns, is_image_name)

    table = _noted(problems, where, read)
    return None if table is None else Labels(problems, where, table)


def read_matrix_labels(problems: Problems, where: str, key: str) -> list[float] | None:
    """The numbers of a MATLAB file's (n, 1) matrix; None if it can't be used, which is noted."""
    return _noted(problems, where, lambda: read_matrix(problems.root / where, key))


def _noted(problems: Problems, where: str, read: Callable[[], T]) -> T | None:
    try:
        return read()
    except TableError as error:
        problems.add(where, str(error))
        return None


def _described(cell: Any) -> str:
    return "is empty" if cell is None else f"is {cell!r}"
