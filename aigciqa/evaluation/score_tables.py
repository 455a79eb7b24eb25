"""Tables of scores that exist already: of `aigciqa-score`, of any other metric."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigciqa.csv_text import plain
from aigciqa.evaluation.evaluate import Predictions
from aigciqa.registry import METRICS, SCORE_RANGES

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
            raise ValueError(f"{path}: a table of scores is a .csv file")
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
                reader = csv.DictReader(stream, restval="", strict=True)
                rows = tuple(
                    {name: plain(cell) if isinstance(cell, str) else cell for name, cell in row.items()}
                    for row in reader
                )
                header = tuple(reader.fieldnames or ())
        except (OSError, csv.Error) as error:
            raise ValueError(f"{path}: {error}") from None
        if "image" not in header or not rows:
            raise ValueError(
                f"{path}: expected a column image and a row per picture; got {', '.join(header) or 'none'}"
            )
        dimensions = [name for name in header if name in SCORE_RANGES]
        columns = tuple(name for name in header if name not in (*_NOT_SCORES, *dimensions))
        if not dimensions and not columns:
            raise ValueError(f"{path} has no column of scores: {', '.join(header)}")
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
        dimensions: Sequence[str],
        lower_better: bool = False,
    ) -> Predictions:
        """One metric's scores of samples.

        A picture is found by its path, as it is or below the database's root, else by a file name that only one row
        has. Rows of other pictures are ignored, and a sample without a row is an error of its own.

        Args:
            name: a metric of the column `metric`, or another column.
            samples: in the order of the scores.
            root: the database's folder.
            dimensions: what a column of its own is compared with.
            lower_better: whether low scores are good.

        Raises:
            ValueError: no such metric, two rows of one picture, or what is not a number.
        """
        if name not in self:
            known = ", ".join([*self.metrics, *self.columns])
            raise ValueError(f"{self.path} has no scores of {name!r}; it has {known}")
        rows = self.metrics.get(name, self.rows)
        columns = (
            {each: each for each in SCORE_RANGES if each in rows[0] and any(row[each] for row in rows)}
            if name in self.metrics
            else dict.fromkeys(dimensions, name)
        )
        finder = _Finder(self.path, rows, Path(root))
        scores = {dimension: np.full(len(samples), math.nan) for dimension in columns}
        errors: list[str | None] = []
        for number, sample in enumerate(samples):
            row = finder.row(Path(sample.image))
            errors.append(_error(row, sample, self.path, columns.values()))
            if row is not None and errors[-1] is None:
                for dimension, column in columns.items():
                    scores[dimension][number] = self._number(row, column)
        return Predictions(name, scores, tuple(errors), name if name in METRICS else None, lower_better)

    def _number(self, row: Row, column: str) -> float:
        try:
            value = float(row[column])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(f"{self.path}: {row['image']} has {row[column]!r} in the column {column!r}, not a number")
        return value


class _Finder:
    """From a sample's path to its row."""

    def __init__(self, table: Path, rows: Sequence[Row], root: Path) -> None:
        self.root = root.resolve()
        self.by_path: dict[Path, Row] = {}
        self.by_name: dict[str, list[Row]] = {}
        for row in rows:
            for path in {Path(row["image"]).resolve(), (self.root / row["image"]).resolve()}:
                if path in self.by_path:
                    raise ValueError(f"{table} has two rows of {row['image']}")
                self.by_path[path] = row
            self.by_name.setdefault(Path(row["image"]).name, []).append(row)

    def row(self, image: Path) -> Row | None:
        found = self.by_path.get(image.resolve())
        if found is not None:
            return found
        named = self.by_name.get(image.name, [])
        return named[0] if len(named) == 1 else None


def _error(row: Row | None, sample: Sample, table: Path, columns: Iterable[str]) -> str | None:
    if row is None:
        return f"{sample.image}: not in {table}"
    if row.get("error"):
        return row["error"]
    empty = [column for column in columns if not row[column]]
    return f"{sample.image}: {table} has no {empty[0]} of it" if empty else None
