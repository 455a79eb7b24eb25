"""Which images of a table of scores: thresholds, the best or worst, also of each prompt, a list; and where they go."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigciqa.compare.buckets import Buckets
from aigciqa.errors import ImageError, InputError, SourceError
from aigciqa.images.generation.parameters import FIELDS
from aigciqa.images.generation.read import read_generation, sidecars_of
from aigciqa.images.xmp import xmp_beside
from aigciqa.tables import provenance
from aigciqa.tables.columns import Row
from aigciqa.tables.formats import TABLE_SUFFIXES, read_rows, write_rows
from aigciqa.tables.scores import ScoreTable, below_common_folder, is_table
from aigciqa.utils.files import replacing
from aigciqa.utils.paths import absolute
from aigciqa.utils.place_files import Step

#: Ranked within the image's folder, where a table has no column of that name.
PARENT = "parent"
#: The columns that a table of a selection has besides those of its own.
RANK, BUCKET = "rank", "bucket"


@dataclass(frozen=True)
class Criteria:
    """What is asked for; an image has to meet all of it."""

    dimension: str  # the score that ranks
    minimum: Mapping[str, float]  # dimension -> lowest score allowed
    maximum: Mapping[str, float]  # dimension -> highest score allowed
    keep: int | None  # how many are kept, best or worst first; None: all, in the table's order
    best: bool  # keep the highest scores, or the lowest
    per: str | None  # rank within each value of this column, and keep so many of each; None: of all
    listed: frozenset[str] | None  # absolute paths of the only images to choose from; None: all


@dataclass(frozen=True)
class Selection:
    """What was chosen, and how many images were not."""

    rows: tuple[Row, ...]
    ranks: tuple[int, ...]  # of each row, by its score among all that are offered and have its value of `per`; 1: best
    values: int  # how many values of `per` there are to choose from
    offered: int  # images to choose from
    unscored: int  # of these, how many lack a score that is asked for; none of them is chosen
    unvalued: int  # of these, how many have scores and lack a value of `per`; none of them is chosen
    repeated: int  # rows left out because an earlier one is of the same image
    missing: int  # listed images that are not in the table


def rows_by(table: ScoreTable, metric: str | None) -> list[Row]:
    """The rows of a table by one metric, or by its only one, with paths that lead from the current folder."""
    rows = [table.located(row) for row in table.rows]
    there = list(dict.fromkeys(row["metric"] for row in rows))
    if metric is None and len(there) > 1:
        raise InputError(f"{table.path} has scores by {', '.join(there)}: name one with -m")
    if metric is not None and metric not in there:
        raise InputError(f"{table.path} has no scores by {metric}; it has {', '.join(there)}")
    return [row for row in rows if metric in (None, row["metric"])]


def first_scored(table: ScoreTable, rows: Iterable[Row]) -> str:
    """The first dimension that there are scores of."""
    scored = {name for row in rows for name in table.dimensions if row[name] is not None}
    return next((name for name in table.dimensions if name in scored), table.dimensions[0])


def read_list(path: str, table: ScoreTable) -> frozenset[str]:
    """Absolute paths of the images in a list, a `.csv` file with a column `image`, that are chosen of a table."""
    if not os.path.isfile(path) or os.path.splitext(path)[1].lower() != ".csv":
        raise SourceError(f"--list {path}: expected a .csv file with a column image")
    images = []
    for row in read_rows(path):
        if isinstance(row, str) or not row["image"]:
            raise SourceError(f"--list {path}: a row without an image: {row}")
        images.append(absolute(table.located({"reference": None, **row})["image"]))
    return frozenset(images)


def with_column(rows: list[Row], table: ScoreTable, name: str) -> list[Row]:
    """Rows with a column to rank within: the table's, else from the images' metadata or, as `parent`, their folders."""
    there = ("group", "reference", *table.others)
    if name in there:
        return rows
    if name == PARENT:
        return [{**row, name: os.path.basename(os.path.dirname(absolute(row["image"])))} for row in rows]
    if name in FIELDS:
        return [{**row, name: _generation(row["image"])[name]} for row in rows]
    raise InputError(
        f"{table.path} has no column {name!r} to rank within; it has {', '.join(there)}. Images can tell "
        f"{', '.join(FIELDS)}; {PARENT} is their folder"
    )


def _generation(image: str) -> dict[str, str | None]:
    """What an image tells of how it was generated; of one that can't be read, nothing is known."""
    try:
        return read_generation(image).cells()
    except ImageError:
        return dict.fromkeys(FIELDS)


def select(rows: Sequence[Row], criteria: Criteria) -> Selection:
    """Choose rows of one metric. Of equal scores, the earlier row is chosen."""
    named = [row for row in rows if row["image"]]
    images: dict[str, Row] = {}
    for row in named:
        images.setdefault(absolute(row["image"]), row)
    listed = criteria.listed
    if listed is None:
        offered = [*images.values(), *(row for row in rows if not row["image"])]
    else:
        offered = [row for path, row in images.items() if path in listed]
    wanted = {criteria.dimension, *criteria.minimum, *criteria.maximum}
    scored = [row for row in offered if row["image"] and all(row[name] is not None for name in wanted)]
    valued = [row for row in scored if _value(row, criteria) is not None]
    ranks = _Ranks(valued, criteria)
    chosen = _kept([row for row in valued if _within(row, criteria)], criteria)
    return Selection(
        rows=tuple(chosen),
        ranks=tuple(map(ranks.of, chosen)),
        values=len(ranks.scores),
        offered=len(offered),
        unscored=len(offered) - len(scored),
        unvalued=len(scored) - len(valued),
        repeated=len(named) - len(images),
        missing=len(listed - images.keys()) if listed is not None else 0,
    )


def write_selection(output: str, table: ScoreTable, rows: Sequence[Row], added: Sequence[str]) -> None:
    """Write a table of some rows, whole or not at all, with the provenance of the whole table.

    Args:
        added: columns of the rows that come last, in place of those that the table has of these names.
    """
    if not is_table(output):
        raise SourceError(f"-o {output}: a table of scores ends in one of {', '.join(TABLE_SUFFIXES)}")
    for name in added:
        if name in table.dimensions:
            raise InputError(f"-o {output} gets a column {name!r}, and {table.path} has scores of that name: rename it")
    columns = [*(name for name in table.columns if name not in added), *added]
    os.makedirs(os.path.dirname(absolute(output)), exist_ok=True)
    with replacing(output) as unfinished:
        write_rows(unfinished, rows, columns, os.path.splitext(output)[1].lower())
    provenance.copy(str(table.path), output)


def steps_into(
    folder: str, rows: Sequence[Row], chosen: Sequence[Row], dimension: str, buckets: Buckets | None
) -> dict[Step, list[Step]]:
    """Where each chosen image goes, and its sidecars with it.

    It is the image's path below the folder that holds all of the table's, so that no two meet. Each bucket of the
    dimension's scores is a folder of its own.
    """
    images = list(dict.fromkeys(row["image"] for row in rows if row["image"]))
    relatives = dict(zip(images, below_common_folder(images), strict=True))

    def target(row: Row) -> str:
        return os.path.join(folder, buckets.of(row[dimension]) if buckets else "", relatives[row["image"]])

    steps = [Step(row["image"], target(row), folder) for row in chosen]
    return {step: [step.beside(path) for path in _sidecars(step.source)] for step in steps}


def _sidecars(image: str) -> list[str]:
    """The files beside an image with its scores, or with what generated it."""
    return list(filter(os.path.isfile, (xmp_beside(image), *sidecars_of(image))))


def _within(row: Row, criteria: Criteria) -> bool:
    return all(row[name] >= low for name, low in criteria.minimum.items()) and all(
        row[name] <= high for name, high in criteria.maximum.items()
    )


def _value(row: Row, criteria: Criteria) -> Any:
    """What a row is ranked within: its cell of that column, or the same for all rows."""
    return "" if criteria.per is None else row[criteria.per]


class _Ranks:
    """Ranks of rows within their values: one more than there are better scores, so that equal scores share a rank."""

    def __init__(self, rows: Iterable[Row], criteria: Criteria) -> None:
        self.criteria = criteria
        self.scores: dict[Any, list[float]] = {}
        for row in rows:
            self.scores.setdefault(_value(row, criteria), []).append(row[criteria.dimension])
        for scores in self.scores.values():
            scores.sort()

    def of(self, row: Row) -> int:
        scores = self.scores[_value(row, self.criteria)]
        return 1 + len(scores) - bisect.bisect_right(scores, row[self.criteria.dimension])


def _kept(rows: Sequence[Row], criteria: Criteria) -> Sequence[Row]:
    """The best or worst so many, of each value in the order of their first rows."""
    if criteria.keep is None:
        return rows
    kept: dict[Any, list[Row]] = {_value(row, criteria): [] for row in rows}
    for row in sorted(rows, key=lambda row: float(row[criteria.dimension]), reverse=criteria.best):
        kept[_value(row, criteria)].append(row)
    return [row for each in kept.values() for row in each[: criteria.keep]]
