"""Which columns of a table are people's ratings."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aigciqa.errors import InputError
from aigciqa.registry import NO_DIMENSIONS, known_dimensions
from aigciqa.tables.column_table import ColumnTable, MissingColumnError, with_nearest
from aigciqa.tables.columns import MANIFEST_COLUMNS, finite
from aigciqa.utils.paths import shown

#: Columns of numbers that say how an image was made or what it is, and not what people think of it.
_SETTINGS = frozenset(
    """
    seed step steps num_steps num_inference_steps cfg cfg_scale guidance guidance_scale scale strength
    denoise denoising_strength clip_skip temperature eta lora_weight width height w h size file_size filesize bytes
    pixels aspect aspect_ratio megapixels batch batch_size epoch iteration crf qp bitrate fps frame duration
    id scene index idx row number no n unnamed unnamed_0 level_0 index_0 date time timestamp seconds
    rater raters user session question dimension votes choices count std sd sem variance ci lower upper low high
    fold split class generated is_ai ai_generated
    """.split()  # noqa: SIM905
)
#: What stands beside a column of ratings, and is named after it.
_COMPANIONS = ("_std", "_low", "_high", "_votes", "_percentile")


@dataclass(frozen=True)
class RatingColumn:
    """A column of ratings: `dimension` is what it is called in a checkpoint, `std` its column of deviations."""

    name: str
    dimension: str
    std: str | None


def as_dimension(column: str) -> str:
    """A column's name as that of a dimension: words of letters and digits, with `_` between."""
    name = re.sub(r"\W+", "_", column).strip("_") or "_"
    return f"_{name}" if name[0].isdecimal() else name


def is_empty(cell: Any) -> bool:
    """Whether a cell says that there is no number: nothing, or NaN, as pandas writes nothing."""
    return cell is None or cell != cell or (isinstance(cell, str) and cell.strip().lower() in ("", "nan"))


def rating_columns(
    table: ColumnTable, dimensions: Sequence[str] | None, stated: Collection[str]
) -> tuple[RatingColumn, ...]:
    """The columns of a table that hold ratings.

    Those that are named, whatever they hold. If none is named: of a table of scores, the columns behind `error`, where
    `quality_given` is `quality`; of any other, all but those of a manifest. Of these, every one that is named after a
    dimension of a metric of the library, has a range that is stated, or has a `_std` beside it; and every other one of
    numbers, unless it is called as a setting of a generator is, such as `seed`, or holds only 0 and 1 beside others.

    A warning says which others were taken and which columns of numbers were not.

    Args:
        table: the table.
        dimensions: names of columns, or of the dimensions that they become.
        stated: dimensions whose range is stated.

    Raises:
        MissingColumnError: there is no column of a name.
        InputError: no column holds ratings, or two would be one dimension.
    """
    is_scores = _is_scores(table.columns)
    behind = table.columns[table.columns.index("error") + 1 :] if is_scores else table.columns
    called = {name: as_dimension(name.removesuffix("_given") if is_scores else name) for name in behind}
    if dimensions:
        taken = [_named(name, called, table.columns) for name in dimensions]
    else:
        taken = _found(table, called, stated)
    if not taken:
        raise InputError(_nothing(table, is_scores))
    columns = tuple(RatingColumn(name, called.get(name, as_dimension(name)), _std(name, behind)) for name in taken)
    names = [column.dimension for column in columns]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"several columns of ratings would be called {', '.join(twice)}: name one (-d)")
    return columns


def _is_scores(columns: Sequence[str]) -> bool:
    """Whether it is what `aigciqa score -o` writes."""
    return {*MANIFEST_COLUMNS, "metric", "error"} <= set(columns) and columns.index("metric") < columns.index("error")


def _named(name: str, called: Mapping[str, str], columns: Sequence[str]) -> str:
    """The column that a dimension's name is meant for."""
    near = next((column for column, dimension in called.items() if name in (column, dimension)), name)
    if near not in columns:
        found = ", ".join(map(repr, filter(None, columns)))
        raise MissingColumnError(f"no column of ratings {with_nearest(name, columns)}; found: {found}")
    return near


def _found(table: ColumnTable, called: Mapping[str, str], stated: Collection[str]) -> list[str]:
    """The columns that hold ratings where none is named."""
    left = [name for name in called if name and name not in NO_DIMENSIONS]
    left = [name for name in left if not _is_companion(name, left)]
    sure = [
        name for name in left if called[name] in {*known_dimensions(), *stated} or _std(name, [*called]) is not None
    ]
    numbers = [name for name in left if name not in sure and _is_of_numbers(table.column(name))]
    named_otherwise = [name for name in numbers if not _is_setting(called[name].lower())]
    scales = [name for name in named_otherwise if not _is_flag(table.numbers(name))]
    others = scales if sure or scales else named_otherwise
    if named_otherwise:
        left_out = [name for name in numbers if name not in others]
        not_taken = f"; columns of numbers that are not: {shown(left_out)}" if left_out else ""
        warnings.warn(
            f"columns taken as ratings: {shown([*sure, *others])}{not_taken}. If these are others than you mean, name "
            "yours with `dimensions=`",
            stacklevel=5,
        )
    return [name for name in left if name in {*sure, *others}]


def _is_setting(name: str) -> bool:
    return name in _SETTINGS or name.endswith(("_id", "_seed"))


def _is_companion(name: str, columns: Collection[str]) -> bool:
    """Whether a column belongs to that of a rating."""
    bare = name.removesuffix("_given")
    beside = [bare.removesuffix(end) for end in _COMPANIONS if bare.endswith(end)]
    return any(each in columns or f"{each}_given" in columns for each in beside)


def _std(name: str, columns: Collection[str]) -> str | None:
    """The column with the standard deviations of one."""
    bare = name.removesuffix("_given")
    names = (f"{name}_std", f"{bare}_std", f"{bare}_std_given")
    return next((each for each in names if each in columns), None)


def _is_of_numbers(cells: Sequence[Any]) -> bool:
    """Whether most of the cells that are filled hold a number, with a decimal point or comma."""
    filled = [cell.replace(",", ".") if isinstance(cell, str) else cell for cell in cells if not is_empty(cell)]
    return 2 * sum(not math.isnan(finite(cell)) for cell in filled) > len(filled)


def _is_flag(numbers: Sequence[float]) -> bool:
    return {number for number in numbers if not math.isnan(number)} <= {0.0, 1.0}


def _nothing(table: ColumnTable, is_scores: bool) -> str:
    found = ", ".join(map(repr, filter(None, table.columns)))
    if is_scores:
        return (
            "a table of a metric's scores, and no column of people's ratings behind 'error'; found: "
            f"{found}. Add a column of ratings, or name one with `dimensions=`"
        )
    return f"no column of ratings, which are numbers; found: {found}. Name one with `dimensions=`"
