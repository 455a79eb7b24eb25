"""Readers of tables with named columns: spreadsheets, CSV and Parquet; and of a column in a MATLAB file.

Each raises `TableError` for a file that can't be used.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aigciqa.images import parquet as parquet_images
from aigciqa.tables.column_table import ColumnTable, TableError
from aigciqa.tables.csv_text import CsvError, from_windows, read_csv
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.paths import counted, shown


def read_spreadsheet(path: Path, columns: Sequence[str] = (), header: bool = True) -> ColumnTable:
    """The first sheet of an `.xlsx` file; `columns` and `header` as for `ColumnTable.of`.

    Raises:
        MissingExtraError: openpyxl is missing.
    """
    with needs_extra("train", "Spreadsheets need openpyxl"):
        import openpyxl
    try:
        with contextlib.closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
            sheet = book.worksheets[0]
            sheet.reset_dimensions()  # some writers note a wrong size
            cells = [tuple(row) for row in sheet.iter_rows(values_only=True)]
    except Exception as error:  # zipfile, the XML parser and openpyxl each raise their own
        raise TableError(f"not a spreadsheet (.xlsx) that can be read: {error}") from error
    return ColumnTable.of(cells, columns, header)


def read_csv_columns(path: Path, columns: Sequence[str], names_image: Callable[[str], bool]) -> ColumnTable:
    """A `.csv` file with a header, in UTF-8, UTF-16 or Windows' code page, with commas, semicolons or tabs.

    Args:
        path: of the file.
        columns: names it must have, of which the first has the images.
        names_image: as for `read_csv`.
    """
    try:
        cells = [tuple(map(from_windows, row)) for _, row in read_csv(path, columns[0], names_image)]
    except CsvError as error:
        raise TableError(f"not CSV: {str(error).removeprefix(f'{path}: ')}") from error
    except UnicodeError as error:
        raise TableError(f"neither in UTF-8 nor in Windows' code page: {error}; save it as UTF-8") from error
    return ColumnTable.of(cells, columns)


def read_parquet_columns(path: Path, columns: Sequence[str]) -> ColumnTable:
    """A `.parquet` file; its images stay in it, and their cells are paths of them (`aigciqa.images.parquet`).

    Raises:
        MissingExtraError: pyarrow is missing.
    """
    with needs_extra("parquet", "Parquet files need pyarrow"):
        from pyarrow import parquet
    try:
        with parquet.ParquetFile(path) as file:
            cells = {field.name: _parquet_column(path, file, field) for field in file.schema_arrow}
    except (OSError, ValueError) as error:
        raise TableError(f"not Parquet that can be read: {error}") from error
    return ColumnTable.of([tuple(cells), *zip(*cells.values(), strict=True)], columns)


def _parquet_column(path: Path, file: Any, field: Any) -> list[Any]:
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
    return [parquet_images.path_of(path.name, field.name, row, name) for row, name in enumerate(names)]


def read_matrix(path: Path, key: str) -> list[float]:
    """The numbers of a MATLAB file's (n, 1) matrix, all finite.

    Args:
        path: of the file.
        key: of the matrix.
    """
    import scipy.io

    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # scipy raises anything on broken data
        raise TableError(f"not a MATLAB file that can be read: {error}") from error
    if key not in content:
        held = ", ".join(name for name in content if not name.startswith("__")) or "nothing"
        raise TableError(f"expected the key {key!r}; it holds: {held}")
    values = content[key]
    if values.ndim != 2 or 1 not in values.shape or values.dtype.kind not in "fiu":
        raise TableError(f"expected {key} as n x 1 numbers; got {values.shape} of {values.dtype}")
    numbers = [float(value) for value in values.ravel()]
    wrong = [f"{key}({row}) is {value}" for row, value in enumerate(numbers, 1) if not math.isfinite(value)]
    if wrong:
        raise TableError(f"{counted(wrong, 'label')} without a number: {shown(wrong)}")
    return numbers
