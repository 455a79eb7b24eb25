"""Which images of a table of scores: thresholds, the best or worst, a list, buckets by score; and where they go."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from aigciqa.errors import InputError, SourceError
from aigciqa.tables import provenance
from aigciqa.tables.columns import Row
from aigciqa.tables.formats import TABLE_SUFFIXES, read_rows, write_rows
from aigciqa.tables.scores import ScoreTable, below_common_folder, is_table
from aigciqa.utils.files import replacing
from aigciqa.utils.paths import absolute
from aigciqa.utils.place_files import Step


@dataclass(frozen=True)
class Criteria:
    """What is asked for; an image has to meet all of it."""

    dimension: str  # the score that ranks and divides
    minimum: Mapping[str, float] = field(default_factory=dict)  # dimension -> lowest score allowed
    maximum: Mapping[str, float] = field(default_factory=dict)  # dimension -> highest score allowed
    keep: int | None = None  # how many are kept, best or worst first; None: all, in the table's order
    best: bool = True  # keep the highest scores, or the lowest
    per_group: bool = False  # keep so many of each group
    listed: frozenset[str] | None = None  # absolute paths of the only images to choose from; None: all


@dataclass(frozen=True)
class Selection:
    """What was chosen, and how many images were not."""

    rows: tuple[Row, ...]
    offered: int  # images to choose from
    unscored: int  # of these, how many lack a score that is asked for; none of them is chosen
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
    chosen = [row for row in scored if _within(row, criteria)]
    return Selection(
        rows=tuple(_ranked(chosen, criteria)),
        offered=len(offered),
        unscored=len(offered) - len(scored),
        repeated=len(named) - len(images),
        missing=len(listed - images.keys()) if listed is not None else 0,
    )


def bucket(score: float, edges: Sequence[float]) -> str:
    """Name of a score's bucket between ascending edges; a score on an edge is in the upper one."""
    above = bisect.bisect_right(edges, score)
    if above == 0:
        return f"below-{edges[0]:.15g}"
    return f"{edges[-1]:.15g}-up" if above == len(edges) else f"{edges[above - 1]:.15g}-to-{edges[above]:.15g}"


def write_selection(output: str, table: ScoreTable, rows: Sequence[Row]) -> None:
    """Write a table of some rows, whole or not at all, with the provenance of the whole table."""
    if not is_table(output):
        raise SourceError(f"-o {output}: a table of scores ends in one of {', '.join(TABLE_SUFFIXES)}")
    os.makedirs(os.path.dirname(absolute(output)), exist_ok=True)
    with replacing(output) as unfinished:
        write_rows(unfinished, rows, table.columns, os.path.splitext(output)[1].lower())
    provenance.copy(str(table.path), output)


def steps_into(
    folder: str, rows: Sequence[Row], chosen: Sequence[Row], dimension: str, edges: Sequence[float]
) -> list[Step]:
    """Where each chosen image goes: its path below the folder that holds all of the table's, so that no two meet.

    Edges divide the images by a dimension into buckets, each a folder of its own.
    """
    images = list(dict.fromkeys(row["image"] for row in rows if row["image"]))
    relatives = dict(zip(images, below_common_folder(images), strict=True))

    def target(row: Row) -> str:
        return os.path.join(folder, bucket(row[dimension], edges) if edges else "", relatives[row["image"]])

    return [Step(row["image"], target(row), folder) for row in chosen]


def _within(row: Row, criteria: Criteria) -> bool:
    return all(row[name] >= low for name, low in criteria.minimum.items()) and all(
        row[name] <= high for name, high in criteria.maximum.items()
    )


def _ranked(rows: Sequence[Row], criteria: Criteria) -> list[Row]:
    if criteria.keep is None:
        return list(rows)
    ordered = sorted(rows, key=lambda row: float(row[criteria.dimension]), reverse=criteria.best)
    if not criteria.per_group:
        return ordered[: criteria.keep]
    groups: dict[str | None, list[Row]] = {row["group"]: [] for row in rows}
    for row in ordered:
        groups[row["group"]].append(row)
    return [row for each in groups.values() for row in each[: criteria.keep]]
