"""People's ratings of images, as a table, a database or pairs has them, checked before anything is fitted."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from aigciqa.databases.database import Database
from aigciqa.databases.folder import manifest_in
from aigciqa.databases.sample import Sample
from aigciqa.errors import InputError
from aigciqa.registry import check_score_ranges
from aigciqa.tables.column_table import ColumnTable, MissingColumnError, TableError, read_columns
from aigciqa.tables.parquet import is_folder_of_parts
from aigciqa.training.fit.rated_images import Problems, RatedImage, RatedImages, texts
from aigciqa.training.fit.rating_columns import as_dimension, is_empty, rating_columns
from aigciqa.training.fit.tasks import MIN_GROUPS
from aigciqa.utils.object_stores import scheme_of
from aigciqa.utils.paths import at_home, counted

Range: TypeAlias = "tuple[float, float]"
_Stated: TypeAlias = "Mapping[str, Range] | Range | None"

#: Ratings of a dimension, or choices, at least: fewer can't be both fitted to and checked on.
LEAST = 5
#: Of pairs, the preferred image and the other.
_PAIR_COLUMNS = (("better", "worse"), ("winner", "loser"))
#: What pairs are about, and the range of the scores made from them, where neither the table nor the caller says.
_OF_PAIRS, _RANGE_OF_PAIRS = "quality", (0.0, 5.0)


@dataclass(frozen=True)
class Pairs:
    """Choices between two images each.

    Attributes:
        better: (m,) int, index of the image that was preferred.
        worse: (m,) int, index of the other.
        weight: (m,) float64, how many preferred it: above 0.
    """

    better: np.ndarray
    worse: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Ratings:
    """Rated images.

    Attributes:
        images: absolute paths, which can be opened; each once.
        references: of their image prompts; None where there is none.
        groups: which images belong together: the column `group`, else the reference, the prompt, or each its own.
        generators: the models that made them; None where that is not known.
        scores: dimension -> (n,) float64; NaN where an image has none. Empty if there are pairs.
        weights: dimension -> (n,) float64, mean 1 over the rated images, 0 for the others; see `read_ratings`.
        score_ranges: dimension -> (lowest, highest), as stated, else of the scores; of pairs, else 0 to 5.
        pairs: dimension -> choices between the images; empty if there are scores.
    """

    images: tuple[str, ...]
    references: tuple[str | None, ...]
    groups: tuple[str, ...]
    generators: tuple[str | None, ...]
    scores: Mapping[str, np.ndarray]
    weights: Mapping[str, np.ndarray]
    score_ranges: Mapping[str, Range]
    pairs: Mapping[str, Pairs] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What the images were rated for, in the order of the table."""
        return tuple(self.pairs or self.scores)


def read_ratings(
    source: str | os.PathLike[str] | Database,
    dimensions: str | Sequence[str] | None = None,
    score_ranges: _Stated = None,
    references: str | os.PathLike[str] | None = None,
) -> Ratings:
    """Read people's ratings of images.

    A table has a column `image` (paths from its folder, else from the current one; in Parquet also the images
    themselves) and one of numbers for each dimension; `rating_columns` says which these are where they are not named.
    Optional are `reference`, `prompt`, `group`, `generator`, `votes` and `DIMENSION_std`. A table with the columns
    `better` and `worse` (or `winner` and `loser`) lists pairs; optional there are `votes`, `dimension` (or `question`),
    `reference`, `prompt` and `group`.

    Rules: an empty cell, or NaN, is no rating; a row without any is left out, with a warning. A column whose numbers
    all have decimal commas is read so; commas and points in one column are an error, and so are three digits behind
    each comma, unless semicolons stand between cells. Rows that repeat an image are one if they agree, with a warning;
    if not, they are an error, except of a database, where they are averaged. If all images are of one group, or two,
    each becomes its own, with a warning.

    Weights: a rating's variance is `std ** 2 / votes`. What the table does not have is 1, and what one of its cells
    does not have is the column's mean. Where there are votes, the mean of `std ** 2` counts as one more vote, since
    that of few votes is often 0 by chance. The weight is 1 / (mean variance + variance): a rating by however many
    weighs at most twice as much as one of mean variance.

    Args:
        source: path of the table (`.csv`, `.json`, `.jsonl`, `.parquet`, `.xlsx`), of a folder with one, as
            `load_database("folder", ...)` takes it, or a database that was loaded.
        dimensions: the columns that hold ratings. Of pairs, those that are kept.
        score_ranges: dimension -> (lowest, highest) of the scale, or one pair for all.
        references: image prompt of the images that have none in the table, or a folder of them, matched by relative
            path, else by stem.

    Raises:
        InputError: the table can't be used; the message lists every problem that was found (the first 20), by row: no
            number, out of the range, an image that is missing or broken, rows that contradict each other, a dimension
            with one value, fewer than 5 ratings.
        MissingExtraError: a package is missing that reads such a table.
    """
    dimensions = [dimensions] if isinstance(dimensions, str) else dimensions
    prompts = os.fspath(references) if references is not None else None
    if isinstance(source, Database):
        return _of_database(source, dimensions, score_ranges, prompts)
    path = _table_path(os.fspath(source))
    table = _read(path)
    images = RatedImages(Problems(str(path)), str(path.parent))
    of = _of_table if "image" in table.columns else _of_pairs
    return of(table, images, dimensions, score_ranges, prompts)


def _table_path(source: str) -> Path:
    """The path of the table that a path stands for."""
    if scheme_of(source):
        raise InputError(f"{source}: a table of ratings is read from this machine only; its images may be elsewhere")
    path = Path(at_home(source))
    if not path.is_dir() or is_folder_of_parts(str(path)):
        return path
    table = path / manifest_in(path)
    if not table.exists():
        raise InputError(f"{source}: a folder without {table.name}, or another table that is the only one: name a file")
    return table


def _read(path: Path) -> ColumnTable:
    """A table of rated images, or of pairs."""
    try:
        try:
            return read_columns(path, ("image",))
        except MissingColumnError as missing:
            for pair in _PAIR_COLUMNS:
                with suppress(MissingColumnError):
                    return read_columns(path, pair)
            expected = "expected 'image' and a column of ratings, or 'better' and 'worse' for pairs"
            raise TableError(f"{missing}; {expected}") from None
    except TableError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None


def _of_database(
    database: Database, dimensions: Sequence[str] | None, score_ranges: _Stated, references: str | None
) -> Ratings:
    named = tuple(dict.fromkeys(dimensions or database.dimensions))
    if unknown := [name for name in named if name not in database.dimensions]:
        rated = ", ".join(database.dimensions)
        raise InputError(f"database {database.name!r} has no ratings of {unknown[0]!r}; it has those of {rated}")
    images = RatedImages(Problems(f"database {database.name!r}"), str(database.root))
    samples: dict[int, list[Sample]] = defaultdict(list)
    for number, each in enumerate(database.samples, 1):
        image = RatedImage(number, each.name, each.image, each.reference, each.group, each.generator)
        samples[images.add(image)].append(each)
    scores = {
        name: np.array([np.mean([each.scores[name] for each in same]) for same in samples.values()]) for name in named
    }
    stated = _stated(score_ranges, named)
    for name, (low, high) in stated.items():
        for image, score in zip(images.listed, scores[name], strict=True):
            if not low <= score <= high:
                images.problems.add(image.row, f"{name!r} is {score:g}; expected {low:g} to {high:g}")
    even = {name: np.ones(len(samples)) for name in named}
    return _checked(images, references, scores, even, {**database.score_range, **stated})


def _of_table(
    table: ColumnTable,
    images: RatedImages,
    dimensions: Sequence[str] | None,
    score_ranges: _Stated,
    references: str | None,
) -> Ratings:
    try:
        columns = rating_columns(table, dimensions, score_ranges if isinstance(score_ranges, Mapping) else ())
    except InputError as error:
        raise InputError(f"{images.problems.where}: {error}") from None
    stated = _stated(score_ranges, [column.dimension for column in columns])
    rated = [
        not all(map(is_empty, cells)) for cells in zip(*(table.column(each.name) for each in columns), strict=True)
    ]
    if not all(rated):
        first = table.first + rated.index(False)
        warnings.warn(
            f"{images.problems.where}: {rated.count(False)} of {len(rated)} rows have no rating and are left out, the "
            f"first of them is row {first}",
            stacklevel=3,
        )
    indices = images.indices(table, "image", rated)
    votes = images.numbers(table, "votes", indices, 0)
    votes[votes == 0] = np.nan
    for image, count in zip(images.listed, votes, strict=True):
        if count < 1:
            images.problems.add(image.row, f"'votes' is {count:g}; expected how many there were")
    scores, weights = {}, {}
    for column in columns:
        low, high = stated.get(column.dimension, (-np.inf, np.inf))
        score = images.numbers(table, column.name, indices, low, high)
        scores[column.dimension] = score
        weights[column.dimension] = _weights(~np.isnan(score), images.numbers(table, column.std, indices, 0), votes)
    repeated = len(indices) - indices.count(None) - len(images.listed)
    if repeated and not images.problems.rows:
        warnings.warn(
            f"{images.problems.where}: {counted(range(repeated), 'row')} with an image, and ratings, that another row "
            "has: each image counts once",
            stacklevel=3,
        )
    return _checked(images, references, scores, weights, stated)


def _of_pairs(
    table: ColumnTable,
    images: RatedImages,
    dimensions: Sequence[str] | None,
    score_ranges: _Stated,
    references: str | None,
) -> Ratings:
    problems = images.problems
    wanted = [as_dimension(name) for name in dimensions or ()]
    column = next((name for name in ("dimension", "question") if name in table.columns), None)
    if column is None:
        if len(wanted) > 1:
            raise InputError(f"{problems.where}: pairs of {len(wanted)} dimensions need a column 'dimension'")
        about = [*wanted, _OF_PAIRS][:1] * len(table.rows)
    else:
        about = [text and as_dimension(text) for text in texts(table, column)]
        if absent := [name for name in wanted if name not in about]:
            found = ", ".join(dict.fromkeys(filter(None, about)))
            raise InputError(f"{problems.where} has no pairs of {absent[0]!r}; it has those of {found}")
    kept = [not wanted or not name or name in wanted for name in about]
    pair = next(names for names in _PAIR_COLUMNS if set(names) <= set(table.columns))
    better, worse = (images.indices(table, name, kept) for name in pair)
    votes = table.numbers("votes") if "votes" in table.columns else [1.0] * len(table.rows)
    found_pairs: dict[str, list[tuple[int, int, float]]] = {name: [] for name in wanted}
    for row, (name, first, second, weight) in enumerate(zip(about, better, worse, votes, strict=True), table.first):
        if not name:
            problems.add(row, f"{column!r} is empty")
        if not weight >= 0:
            problems.add(row, f"'votes' is {table.column('votes')[row - table.first]!r}; expected how many there were")
        if first is None or second is None:
            continue
        if first == second:
            problems.add(row, f"{pair[0]!r} and {pair[1]!r} are the same image, {images.listed[first].cell!r}")
        chosen = found_pairs.setdefault(name, [])
        if weight > 0:
            chosen.append((first, second, weight))
    if not problems.rows:
        for name, pairs in found_pairs.items():
            if len(pairs) < LEAST:
                problems.whole.append(f"{name!r} has {counted(pairs, 'pair')}; at least {LEAST} are needed")
    listed = images.with_references(references)
    problems.raise_any()
    ranges = dict.fromkeys(found_pairs, _RANGE_OF_PAIRS) | _stated(score_ranges, [*found_pairs])
    columns = {name: tuple(map(np.array, zip(*pairs, strict=True))) for name, pairs in found_pairs.items()}
    return _ratings(listed, problems.where, {}, {}, ranges, {name: Pairs(*each) for name, each in columns.items()})


def _weights(rated: np.ndarray, stds: np.ndarray, votes: np.ndarray) -> np.ndarray:
    """How much each rating counts (`read_ratings` has the rule): stds and votes are NaN where they are not known."""
    weights = np.zeros(len(rated))
    if not rated.any():
        return weights
    squares, counts = _filled(stds[rated] ** 2), _filled(votes[rated])
    if not np.isnan(votes[rated]).all():
        squares = ((counts - 1) * squares + squares.mean()) / counts
    variances = squares / counts
    typical = variances.mean() or 1.0
    certain = 1 / (typical + variances)
    weights[rated] = certain / certain.mean()
    return weights


def _filled(numbers: np.ndarray) -> np.ndarray:
    """Numbers, with their mean for those that are NaN; 1 if all are."""
    known = numbers[~np.isnan(numbers)]
    return np.where(np.isnan(numbers), known.mean() if known.size else 1.0, numbers)


def _stated(score_ranges: _Stated, dimensions: Sequence[str]) -> dict[str, Range]:
    """Dimension -> range, of those that a range is stated for."""
    if score_ranges is None:
        return {}
    if isinstance(score_ranges, Mapping):
        stated = {as_dimension(name): bounds for name, bounds in score_ranges.items()}
        if unrated := [name for name in stated if name not in dimensions]:
            raise InputError(f"score_ranges has {unrated[0]!r}, which is not rated; rated: {', '.join(dimensions)}")
    else:
        stated = dict.fromkeys(dimensions, score_ranges)
    return check_score_ranges(stated)


def _checked(
    images: RatedImages,
    references: str | None,
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    stated: Mapping[str, Range],
) -> Ratings:
    """Ratings, unless there is a problem."""
    problems = images.problems
    listed = images.with_references(references)
    ranges = {}
    for name, column in scores.items():
        given = column[~np.isnan(column)]
        if len(given) >= LEAST and given.min() == given.max():
            problems.whole.append(
                f"all {len(given)} ratings of {name!r} are {given[0]:g}, which leaves nothing to learn: name the other "
                "dimensions (-d), or rate more finely"
            )
        elif len(given) < LEAST and not problems.rows:
            problems.whole.append(f"{name!r} has {counted(given, 'rating')}; at least {LEAST} are needed")
        elif len(given):
            ranges[name] = stated.get(name, (float(given.min()), float(given.max())))
    problems.raise_any()
    check_score_ranges(ranges)
    return _ratings(listed, problems.where, scores, weights, ranges, {})


def _ratings(
    listed: Sequence[RatedImage],
    where: str,
    scores: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    ranges: Mapping[str, Range],
    pairs: Mapping[str, Pairs],
) -> Ratings:
    groups = [image.group or image.reference or image.cell for image in listed]
    names = list(dict.fromkeys(groups))
    if len(names) < min(MIN_GROUPS, len(groups)):
        warnings.warn(
            f"{where}: all images are of the group {' or '.join(map(repr, names))}, so each becomes its own: how well "
            "the scores carry over to other groups is not known",
            stacklevel=4,
        )
        groups = [image.cell for image in listed]
    return Ratings(
        images=tuple(image.path for image in listed),
        references=tuple(image.reference for image in listed),
        groups=tuple(groups),
        generators=tuple(image.generator for image in listed),
        scores=scores,
        weights=weights,
        score_ranges=ranges,
        pairs=pairs,
    )
