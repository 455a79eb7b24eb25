"""Which images of a table of scores: thresholds, the best or worst, a list, buckets by score."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aigciqa.utils.paths import absolute

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Criteria:
    """What is asked for; an image has to meet all of it.

    Attributes:
        dimension: the score that ranks and divides.
        minimum: dimension -> lowest score allowed.
        maximum: dimension -> highest score allowed.
        keep: how many are kept, best or worst first; None: all, in the table's order.
        best: whether the highest scores are kept, or the lowest.
        per_group: whether so many are kept of each group.
        listed: absolute paths of the only images to choose from; None: all.
    """

    dimension: str
    minimum: Mapping[str, float] = field(default_factory=dict)
    maximum: Mapping[str, float] = field(default_factory=dict)
    keep: int | None = None
    best: bool = True
    per_group: bool = False
    listed: frozenset[str] | None = None


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        rows: the chosen ones.
        offered: how many images there were to choose from.
        unscored: how many of them lack a score that is asked for; none of these is chosen.
        repeated: rows left out because an earlier one is of the same image.
        missing: how many of the listed images are not in the table.
    """

    rows: tuple[Row, ...]
    offered: int
    unscored: int
    repeated: int
    missing: int


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
    """Name of the bucket of a score; a score on an edge is in the upper one.

    Args:
        score: of an image.
        edges: ascending.
    """
    place = bisect.bisect_right(edges, score)
    if place == 0:
        return f"below-{edges[0]:.15g}"
    return f"{edges[-1]:.15g}-up" if place == len(edges) else f"{edges[place - 1]:.15g}-to-{edges[place]:.15g}"


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
    groups: dict[str | None, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], [])
    for row in ordered:
        groups[row["group"]].append(row)
    return [row for each in groups.values() for row in each[: criteria.keep]]
