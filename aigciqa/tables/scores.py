"""Tables of scores, read back: what `aigciqa score -o` wrote, in any of its formats."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError, SourceError
from aigciqa.registry import SCORE_RANGES, known_dimensions
from aigciqa.tables import provenance
from aigciqa.tables.columns import LEADING_COLUMNS, columns_of, to_score
from aigciqa.tables.formats import TABLE_SUFFIXES, read_rows
from aigciqa.utils.paths import absolute


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores.

    Attributes:
        path: the file.
        dimensions: its columns of scores.
        others: its columns of which nothing is known; they are carried along as text.

    Example:
        >>> import pathlib, tempfile
        >>> from aigciqa.tables.scores import read_table
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "scores.csv"
        >>> _ = path.write_text("image,quality\\ncat.png,3.5\\n")
        >>> table = read_table(path)
        >>> table.dimensions, [row["quality"] for row in table.rows]
        (('quality',), [3.5])
    """

    path: Path
    dimensions: tuple[str, ...]
    others: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in order; a row has each of them."""
        return (*columns_of(self.dimensions), *self.others)

    @property
    def metrics(self) -> dict[str, provenance.MetricFacts]:
        """Metric -> what is known of it, as far as `FILE.meta.json` says."""
        return provenance.metric_facts(str(self.path))

    @property
    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows, as `columns.to_row` makes them, read from the file anew; only JSON is held in memory.

        Cells are text or None, scores finite or None. Where the file has no column `metric`, it is the file's stem.
        Only a row with an error may be without an image, which is then the empty string.

        Raises:
            SourceError: a row that can't be read, without an image, or with a score that is no number; a file that
                can't be.
        """
        for number, row in enumerate(read_rows(self.path), 1):
            yield self._row(row, f"{self.path}: row {number}")

    def located(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row with paths that lead from the current folder: as they are, else from the table's folder.

        A path that leads nowhere stays as it is.
        """
        return {**row, **{name: self._find(row[name]) for name in ("image", "reference") if row[name]}}

    def _find(self, path: str) -> str:
        joined = str(self.path.parent / path)
        return joined if not os.path.lexists(path) and os.path.lexists(joined) else path

    def _without_blanks(self, path: str | None) -> str | None:
        """A path without blanks around it, unless that is what a file is called."""
        if path is None or path == path.strip() or os.path.lexists(self._find(path)):
            return path
        return path.strip() or None

    def _row(self, row: dict[str, Any] | str, where: str) -> dict[str, Any]:
        if isinstance(row, str):
            raise SourceError(f"{where}: {row}")
        strange = [name for name in row if name not in self.columns]
        if strange or (self.path.suffix.lower() == ".csv" and None in row.values()):
            raise SourceError(f"{where} has not the columns of the first; was the file cut off, or edited?")
        cells: dict[str, Any] = dict.fromkeys(self.columns)
        cells |= {name: _text(row.get(name), name, where) for name in (*LEADING_COLUMNS, "error")}
        cells |= {name: _carried(row.get(name)) for name in self.others}
        cells |= {name: self._without_blanks(cells[name]) for name in ("image", "reference")}
        if cells["image"] is None and cells["error"] is None:
            raise SourceError(f"{where}: the column 'image' is empty")
        cells["image"] = cells["image"] or ""
        cells["metric"] = cells["metric"] or self.path.stem
        return cells | {name: _score(row.get(name), name, where) for name in self.dimensions}


def read_table(path: str | os.PathLike[str], dimensions: Collection[str] = ()) -> ScoreTable:
    """Open a table of scores: `.csv`, `.json`, `.jsonl` or `.parquet`, which may be a folder of parts.

    Scores are in the columns named after a dimension: of a metric in `aigciqa.registry`, or declared in
    `FILE.meta.json`, or one of `dimensions`. A column of numbers such as `seed` is none.

    Args:
        path: of the table.
        dimensions: names of more columns that hold scores.

    Raises:
        SourceError: no such file, one that can't be read, another format, no column `image`, or no column of scores.
    """
    path = Path(path)
    if not is_table(str(path)):
        hint = ", which `aigciqa score -o` makes of a folder of images" if path.is_dir() else ""
        raise SourceError(f"{str(path)!r}: a table of scores ends in one of {', '.join(TABLE_SUFFIXES)}{hint}")
    if not (path.is_file() or path.is_dir()):
        raise SourceError(f"{str(path)!r}: no such file")
    first = next(read_rows(path), None)
    if first is None:
        raise SourceError(f"{str(path)!r} has no rows")
    if isinstance(first, str):
        raise SourceError(f"{path}: row 1: {first}")
    known = {*known_dimensions(), *provenance.declared_ranges(str(path)), *dimensions}
    others = [name for name in first if name not in (*LEADING_COLUMNS, "error")]
    scored = tuple(name for name in others if name in known)
    if "image" not in first or not scored:
        missing = "column of scores" if "image" in first else "column 'image'"
        raise SourceError(
            f"{str(path)!r} has no {missing}; it has: {', '.join(map(str, first)) or 'nothing'}. Expected a table of "
            f"aigciqa score -o, with scores of {', '.join(SCORE_RANGES)}; a dimension of your own must be named"
        )
    return ScoreTable(path, scored, tuple(name for name in others if name not in known))


def below_common_folder(paths: Sequence[str]) -> list[str]:
    """Paths of files below the deepest folder that holds them all; an InputError if none does."""
    whole = [os.path.abspath(absolute(path)) for path in paths]  # URLs, too, which may stand among paths
    try:
        folder = os.path.commonpath([os.path.dirname(path) for path in whole]) if whole else ""
    except ValueError:
        drives = ", ".join(sorted({os.path.splitdrive(path)[0] for path in whole}))
        raise InputError(f"images lie on several drives, {drives}: expected one folder that holds them all") from None
    return [os.path.relpath(path, folder) for path in whole]


def is_table(path: str) -> bool:
    """Whether a path can be that of a table: by its suffix; `.parquet` may be a folder of parts."""
    suffix = os.path.splitext(os.path.normpath(path))[1].lower()
    return suffix in TABLE_SUFFIXES and (suffix == ".parquet" or not os.path.isdir(path))


def _text(cell: Any, name: str, where: str) -> str | None:
    if cell is None or cell != cell:  # NaN: pandas has no other empty cell
        return None
    if isinstance(cell, (list, dict, bytes)) or (name != "group" and not isinstance(cell, (str, int))):
        raise SourceError(f"{where}: {name!r} is {reprlib.repr(cell)}; expected text")
    text = str(cell)
    return (text if name in ("image", "reference") else text.strip()) or None


def _carried(cell: Any) -> str | None:
    """What a column says of which nothing is known, as text; what can't be told in text is left out."""
    return None if cell is None or cell != cell or isinstance(cell, (list, dict, bytes)) else str(cell).strip() or None


def _score(cell: Any, name: str, where: str) -> float | None:
    try:
        return to_score(cell.strip() if isinstance(cell, str) else cell)
    except InputError:
        raise SourceError(f"{where}: {name!r} is {reprlib.repr(cell)}; expected a finite number or nothing") from None
