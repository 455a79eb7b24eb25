"""Tables of scores: their columns, and rows from records and back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

from aigciqa.errors import InputError, SourceError
from aigciqa.records import Item, Record
from aigciqa.registry import SCORE_RANGES, known_dimensions

if TYPE_CHECKING:
    from aigciqa.metric import Metric

#: What a manifest says of an image that the engine needs.
MANIFEST_COLUMNS = ("image", "reference", "group")
LEADING_COLUMNS = (*MANIFEST_COLUMNS, "metric")
#: Decimals of a score in a file: finer than the 1e-5 within which the engine reproduces it.
DECIMALS = 6

#: A cell that is not known yet.
UNKNOWN: Any = object()

Row = Mapping[str, Any]


def columns_of(dimensions: Iterable[str], carried: Iterable[str] = ()) -> tuple[str, ...]:
    """The columns of a table of scores, in order; `carried` are those of the manifests."""
    return (*LEADING_COLUMNS, *dimensions, "error", *carried)


def std_columns(dimensions: Iterable[str]) -> list[str]:
    """The columns of how uncertain the scores of some dimensions are."""
    return [f"{name}_std" for name in dimensions]


def percentile_columns(dimensions: Iterable[str]) -> list[str]:
    """The columns of where the scores of some dimensions stand in a reference set."""
    return [f"{name}_percentile" for name in dimensions]


def scored_columns(dimensions: Sequence[str], uncertainty: bool, percentiles: bool) -> list[str]:
    """The columns of scores, and of what is asked for beside them."""
    beside = [
        *(std_columns(dimensions) if uncertainty else ()),
        *(percentile_columns(dimensions) if percentiles else ()),
    ]
    return [*dimensions, *beside]


def scores_of(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns of a table that hold scores."""
    return tuple(columns[len(LEADING_COLUMNS) : columns.index("error")])


def carried_names(given: Iterable[str], columns: Sequence[str]) -> dict[str, str]:
    """What a manifest's columns are called in a table: as they are, or `NAME_given` if scores may have that name."""
    taken = {*columns, *known_dimensions()}
    names: dict[str, str] = {}
    for name in dict.fromkeys(given):
        names[name] = name
        while names[name] in taken:
            names[name] += "_given"
        taken.add(names[name])
    return names


def human_columns(columns: Sequence[str]) -> dict[str, str]:
    """Dimension -> the carried column of people's ratings of it: a manifest's `quality` is `quality_given`."""
    given = {name: f"{name}_given" for name in scores_of(columns)}
    return {name: column for name, column in given.items() if column in columns}


def uncertainty_columns(columns: Sequence[str]) -> dict[str, str]:
    """Dimension -> the column of how uncertain its scores are.

    Where a manifest brought people's ratings, a column of that name behind the scores is the ratings'.
    """
    scored, human = scores_of(columns), human_columns(columns)
    found = dict(zip(scored, std_columns(scored), strict=True))
    return {name: std for name, std in found.items() if std in (columns if name not in human else scored)}


def dimensions_of(metrics: Sequence[Metric], only: str | None = None) -> list[str]:
    """The dimensions of a table of several metrics: the paper's in its order, then others; or `only` the one.

    Raises:
        InputError: a metric without that one.
    """
    if only is not None:
        for metric in metrics:
            if only not in metric.dimensions:
                raise InputError(f"dimension is one of {', '.join(metric.dimensions)}; got {only!r}")
        return [only]
    predicted = dict.fromkeys(name for metric in metrics for name in metric.dimensions)
    return sorted(predicted, key=[*SCORE_RANGES, *predicted].index)


def check_columns(path: str, columns: Iterable[str]) -> None:
    """Refuse a table without a column `image`, or with two columns of a name."""
    names = list(columns)
    if "image" not in names:
        raise SourceError(f"{path!r} has no column 'image'; it has: {', '.join(names) or 'nothing'}")
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise SourceError(f"{path!r} has two columns {twice[0]!r}: rename one")


def to_row(record: Record, columns: Sequence[str]) -> dict[str, Any]:
    """A record as a table's row; None where there is nothing."""
    row: dict[str, Any] = dict.fromkeys(columns)
    row.update(image=record.image, reference=record.reference, group=record.group, metric=record.metric)
    row.update((name, round(score, DECIMALS)) for name, score in record.scores.items() if name in row)
    row["error"] = record.error
    row.update((name, cell) for name, cell in record.extra.items() if name in row)
    return row


def to_record(row: Row, columns: Sequence[str]) -> Record:
    """The record of a table's row."""
    scores = {name: row[name] for name in scores_of(columns) if row[name] is not None}
    extra = {name: row[name] for name in columns[columns.index("error") + 1 :]}
    return Record(row["image"], row["reference"], row["group"], row["metric"], scores, row["error"], extra=extra)


def rows_ahead(
    item: Item, metrics: Iterable[str], columns: Sequence[str], filled: Iterable[str]
) -> list[dict[str, Any]]:
    """The rows that an item will have, but for scores, errors, and what is filled once its file is read (UNKNOWN)."""
    rows = [to_row(Record(item.image, item.reference, item.group, name, extra=item.extra), columns) for name in metrics]
    for row in rows:
        row.update((name, UNKNOWN) for name in filled if row[name] is None)
    return rows


def to_score(cell: Any) -> float | None:
    """A cell of a table as a score; None if it is empty, an `InputError` if it holds no finite number."""
    if cell is None or cell == "":
        return None
    score = finite(cell)
    if math.isnan(score):
        raise InputError(f"{cell!r} is not a finite number")
    return score


def finite(cell: Any) -> float:
    """A cell as a number; NaN where it holds none that is finite."""
    if isinstance(cell, bool) or not isinstance(cell, (str, Real, Decimal)):  # Real: also NumPy's; Decimal: of Parquet
        return math.nan
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan
