"""Scores that exist already, in a table of `aigciqa score` or of any other program, as predictions of samples."""

from __future__ import annotations

import math
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aigciqa.databases.sample import below
from aigciqa.errors import InputError
from aigciqa.evaluation.predictions import Predictions
from aigciqa.registry import known_metric
from aigciqa.tables.scores import read_table
from aigciqa.utils.paths import name_key, real, shown

if TYPE_CHECKING:
    from aigciqa.databases import Sample

Row = Mapping[str, Any]


@dataclass(frozen=True)
class PrecomputedScores:
    """A table with a column `image` and scores.

    Attributes:
        path: the file.
        metrics: metric -> its rows, by the column `metric`, or by the file's stem where there is none; empty if no
            column is named after a dimension.
        dimensions: the columns that hold scores of `metrics`.
        columns: the columns that are each the scores of a metric of their own.
        rows: all of them; a row without an image has an error.

    Example:
        >>> import pathlib, tempfile
        >>> from aigciqa.evaluation import PrecomputedScores
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "other.csv"
        >>> _ = path.write_text("image,lpips\\ncat.png,0.25\\n")
        >>> PrecomputedScores.read(path, columns=["lpips"]).rows[0]["lpips"]
        0.25
    """

    path: Path
    metrics: Mapping[str, tuple[Row, ...]]
    dimensions: tuple[str, ...]
    columns: tuple[str, ...]
    rows: tuple[Row, ...]

    @classmethod
    def read(
        cls, path: str | os.PathLike[str], *, dimensions: Sequence[str] = (), columns: Sequence[str] = ()
    ) -> PrecomputedScores:
        """Read a table ending in `.csv`, `.json`, `.jsonl` or `.parquet`.

        Args:
            path: of the table.
            dimensions: names of columns that hold scores of a dimension, besides those that metrics have.
            columns: names of columns that are each the scores of a metric of their own, if the table has them.

        Raises:
            InputError: not such a table, or a score that is no finite number.
        """
        table = read_table(path, [*dimensions, *columns])
        own = tuple(name for name in table.dimensions if name in columns)
        predicted = tuple(name for name in table.dimensions if name not in own)
        rows = tuple(table.rows)
        metrics: dict[str, list[Row]] = defaultdict(list)
        for row in rows if predicted else ():
            metrics[row["metric"]].append(row)
        return cls(table.path, {name: tuple(each) for name, each in metrics.items()}, predicted, own, rows)

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

        An image is found by its path, as it is or below the database's root, wherever that was. Else it is found by
        its file name, if only one row and one image of the database have that. Rows of other images are ignored, and a
        sample without a row is an error of its own, which names the rows of its name.

        Args:
            name: a metric of the column `metric`, or one of `columns`.
            samples: in the order of the scores.
            root: the database's folder.
            database: all its samples, if `samples` are a part of them.
            dimensions: what one of `columns` is compared with.
            lower_better: whether low scores are good.

        Raises:
            InputError: no such metric, or two rows of one image.
        """
        if name not in self:
            raise InputError(
                f"{self.path} has no scores of {name!r}; it has {', '.join([*self.metrics, *self.columns])}"
            )
        rows = self.metrics.get(name, self.rows)
        columns = dict.fromkeys(dimensions, name)
        if name in self.metrics:
            columns = {each: each for each in self.dimensions if any(row[each] is not None for row in rows)}
        finder = _Finder(self.path, rows, Path(root), [sample.image for sample in (database or samples)])
        scores = {dimension: np.full(len(samples), math.nan) for dimension in columns}
        errors: list[str | None] = []
        for number, sample in enumerate(samples):
            row = finder.row(sample.image)
            errors.append(row if isinstance(row, str) else _error(row, sample, self.path, columns.values()))
            if not isinstance(row, str) and errors[-1] is None:
                for dimension, column in columns.items():
                    scores[dimension][number] = row[column]
        metric = None if known_metric(name) is None else name
        return Predictions(name, scores, tuple(errors), metric, lower_better)


class _Finder:
    """From a sample's path to its row. `rows` are those of one metric, `images` all of the database."""

    def __init__(self, table: Path, rows: Sequence[Row], root: Path, images: Iterable[str]) -> None:
        self.table = table
        self.root = root
        self.by_path: dict[str, Row] = {}
        self.by_relative: defaultdict[str, list[Row]] = defaultdict(list)  # of the image that the row's path ends in
        self.by_name: defaultdict[str, list[Row]] = defaultdict(list)
        relatives = {name_key(below(root, image)) for image in images}
        self.names = Counter(map(posixpath.basename, relatives))
        for row in rows:
            if row["image"]:  # else it has an error only
                self._add(row, relatives)

    def _add(self, row: Row, relatives: set[str]) -> None:
        for path in {_resolved(row["image"]), _resolved(self.root.resolve() / row["image"])}:
            if path in self.by_path:
                raise InputError(f"{self.table} has two rows of {row['image']}")
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
    if row["error"]:
        return str(row["error"])
    empty = [column for column in columns if row[column] is None]
    return f"{sample.image}: {table} has no {empty[0]} of it" if empty else None
