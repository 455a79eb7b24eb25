"""Tables of scores that exist already: of `aigciqa score`, of any other metric."""

from __future__ import annotations

import itertools
import math
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigciqa.databases.base import below
from aigciqa.errors import InputError
from aigciqa.evaluation.evaluate import Predictions
from aigciqa.images.names import is_image_name
from aigciqa.registry import METRICS, known_dimensions
from aigciqa.tables.csv_text import read_csv
from aigciqa.utils.paths import name_key, real, shown

if TYPE_CHECKING:
    from aigciqa.databases import Sample

_NOT_SCORES = ("image", "reference", "group", "metric", "error", "generator")
Row = Mapping[str, str]


@dataclass(frozen=True)
class ScoreTable:
    """A CSV file with a column `image` and scores.

    Attributes:
        path: the file.
        metrics: metric -> its rows: the values of the column `metric`, or the file's stem where there is none and
            some column is named after a dimension.
        columns: the columns that may hold another metric's scores.
        rows: all of them.
    """

    path: Path
    metrics: Mapping[str, tuple[Row, ...]]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> ScoreTable:
        """Read a table.

        Raises:
            ValueError: not CSV, no column `image`, no rows or no scores.
        """
        path = Path(path)
        if path.suffix.lower() != ".csv":
            raise InputError(f"{path}: a table of scores is a .csv file")
        try:
            lines = [[cell.strip(" ") for cell in cells] for _, cells in read_csv(path, "image", is_image_name)]
        except OSError as error:
            raise InputError(f"{path}: {error}") from None
        header, cells = (lines[0], lines[1:]) if lines else ([], [])
        rows = tuple(dict(itertools.zip_longest(header, line[: len(header)], fillvalue="")) for line in cells)
        if "image" not in header or not rows:
            raise InputError(f"{path}: expected a column image and a row per image; got {', '.join(header) or 'none'}")
        if len(set(header)) < len(header):
            twice = next(name for name in header if header.count(name) > 1)
            raise InputError(f"{path} has two columns {twice!r}: rename one")
        known = known_dimensions()
        dimensions = [name for name in header if name in known]
        columns = tuple(name for name in header if name not in (*_NOT_SCORES, *dimensions))
        if not dimensions and not columns:
            raise InputError(f"{path} has no column of scores: {', '.join(header)}")
        metrics: dict[str, tuple[Row, ...]] = {}
        if dimensions and "metric" in header:
            names = dict.fromkeys(row["metric"] for row in rows)
            metrics = {name: tuple(row for row in rows if row["metric"] == name) for name in names}
        elif dimensions:
            metrics = {path.stem: rows}
        return cls(path, metrics, columns, rows)

    def __contains__(self, name: object) -> bool:
        return name in self.metrics or name in self.columns

    def predictions(
        self,
        name: str,
        samples: Sequence[Sample],
        *,
        root: str | os.PathLike[str],
        database: Sequence[Sample] | None = None,
        dimensions: Sequence[str],
        lower_better: bool = False,
    ) -> Predictions:
        """One metric's scores of samples.

        An image is found by its path, as it is or below the database's root, wherever that lies. Else it is found by
        its file name, if only one row and one image of the database have that. Rows of other images are ignored, and a
        sample without a row is an error of its own, which names the rows of its name.

        Args:
            name: a metric of the column `metric`, or another column.
            samples: in the order of the scores.
            root: the database's folder.
            database: all its samples, if `samples` are a part of them.
            dimensions: what a column of its own is compared with.
            lower_better: whether low scores are good.

        Raises:
            ValueError: no such metric, two rows of one image, or what is not a number.
        """
        if name not in self:
            known = ", ".join([*self.metrics, *self.columns])
            raise InputError(f"{self.path} has no scores of {name!r}; it has {known}")
        rows = self.metrics.get(name, self.rows)
        columns = (
            {each: each for each in rows[0] if each in known_dimensions() and any(row[each] for row in rows)}
            if name in self.metrics
            else dict.fromkeys(dimensions, name)
        )
        images = [sample.image for sample in (database or samples)]
        finder = _Finder(self.path, rows, Path(root), images)
        scores = {dimension: np.full(len(samples), math.nan) for dimension in columns}
        errors: list[str | None] = []
        for number, sample in enumerate(samples):
            row = finder.row(sample.image)
            errors.append(row if isinstance(row, str) else _error(row, sample, self.path, columns.values()))
            if not isinstance(row, str) and errors[-1] is None:
                for dimension, column in columns.items():
                    scores[dimension][number] = self._number(row, column)
        return Predictions(name, scores, tuple(errors), name if name in METRICS else None, lower_better)

    def _number(self, row: Row, column: str) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{self.path}: {row['image']} has {row[column]!r} in the column {column!r}, not a number")
        return value


class _Finder:
    """From a sample's path to its row.

    Args:
        table: where the rows are from.
        rows: of one metric.
        root: the database's folder.
        images: paths of all its images.
    """

    def __init__(self, table: Path, rows: Sequence[Row], root: Path, images: Iterable[str]) -> None:
        self.table = table
        self.root = root
        self.by_path: dict[str, Row] = {}
        self.by_relative: defaultdict[str, list[Row]] = defaultdict(list)  # of the image that the row's path ends in
        self.by_name: defaultdict[str, list[Row]] = defaultdict(list)
        relatives = {name_key(below(root, image)) for image in images}
        self.names = Counter(map(posixpath.basename, relatives))
        for row in rows:
            for path in {_resolved(row["image"]), _resolved(root.resolve() / row["image"])}:
                if path in self.by_path:
                    raise InputError(f"{table} has two rows of {row['image']}")
                self.by_path[path] = row
            parts = name_key(row["image"]).split("/")
            if parts[-1] not in self.names:  # a path of Windows, perhaps
                parts = "/".join(parts).replace("\\", "/").split("/")
            tails = ("/".join(parts[start:]) for start in range(len(parts) - 1))  # longest first, down to two parts
            self.by_relative[next((tail for tail in tails if tail in relatives), "")].append(row)
            self.by_name[parts[-1]].append(row)

    def row(self, image: str) -> Row | str:
        """Its row, or why it has none."""
        found = self.by_path.get(_resolved(image))
        if found is not None:
            return found
        relative = name_key(below(self.root, image))
        name = posixpath.basename(relative)
        named = self.by_name.get(name, [])
        rows = self.by_relative.get(relative) or (named if self.names[name] == 1 else [])
        if len(rows) == 1:
            return rows[0]
        if not named:
            return f"{image}: not in {self.table}"
        candidates = shown([row["image"] for row in rows or named])
        return (
            f"{image}: not in {self.table} by its path, and a name counts only if one row and one image of the "
            f"database have it; rows of the name: {candidates}"
        )


def _resolved(path: str | os.PathLike[str]) -> str:
    return name_key(real(path))


def _error(row: Row, sample: Sample, table: Path, columns: Iterable[str]) -> str | None:
    if row.get("error"):
        return row["error"]
    empty = [column for column in columns if not row[column]]
    return f"{sample.image}: {table} has no {empty[0]} of it" if empty else None
