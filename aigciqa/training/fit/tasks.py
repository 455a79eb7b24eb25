"""What a fit is given: images with their features in blocks, and people's scores of them, or choices between them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.errors import InputError
from aigciqa.training.fit.bradley_terry import PairProblem
from aigciqa.training.fit.kernels import Array, Indices, joined
from aigciqa.training.fit.ridge import ScoreProblem

Problem = ScoreProblem | PairProblem

MIN_RATINGS = 3
#: Fewer groups can't be left out in turn: each image then is a group of its own.
MIN_GROUPS = 3
#: Parts of whole groups that are left out in turn.
FOLDS = 10


@dataclass(frozen=True, eq=False)
class Task:
    """What is fitted: images with their features, and a problem for each dimension.

    Attributes:
        features: (n, D), all blocks side by side.
        widths: the number of features of each block.
        groups: (n,) int, from 0; images of one group are left out together.
        problems: by dimension.
        shares: (blocks,) to start from, of sum 1.
    """

    features: Array
    widths: tuple[int, ...]
    groups: Indices
    problems: Mapping[str, Problem]
    shares: Array

    @property
    def problem(self) -> Problem:
        """The problem of a task with one dimension."""
        (found,) = self.problems.values()
        return found

    def among(self, images: Indices, dimension: str | None = None) -> Task:
        """The same with some images only, by ascending number, and with one dimension only if it is named."""
        names = self.problems if dimension is None else [dimension]
        problems = {name: self.problems[name].among(images) for name in names}
        return replace(self, features=self.features[images], groups=self.groups[images], problems=problems)


def score_task(
    blocks: Sequence[Array],
    scores: Mapping[str, ArrayLike],
    *,
    weights: Mapping[str, ArrayLike] | None = None,
    groups: Sequence[Hashable] | None = None,
    shares: Sequence[float] | None = None,
) -> Task:
    """Ratings to be fitted.

    Args:
        blocks: of features, (n, d) each.
        scores: by dimension, (n,); NaN where an image has none.
        weights: by dimension, (n,), in inverse variances; None for equal ones.
        groups: of each image; None, or fewer than three, for each image on its own.
        shares: of each block in the kernel to start from; None for equal ones.

    Raises:
        InputError: arrays that don't fit together, fewer than three scores of a dimension, all of them equal, or a
            weight that is not above 0.
    """
    features = joined(blocks)
    index = group_numbers(groups, len(features))
    problems: dict[str, Problem] = {}
    for name, values in scores.items():
        y = _column(name, values, len(features))
        w = np.ones(len(y)) if weights is None else _column(f"weights of {name}", weights[name], len(y))
        rows = np.flatnonzero(np.isfinite(y))
        if len(rows) < MIN_RATINGS:
            raise InputError(f"{name}: {len(rows)} ratings; a fit takes {MIN_RATINGS} at least")
        if (y[rows] == y[rows[0]]).all():
            raise InputError(
                f"{name}: all {len(rows)} ratings are {y[rows[0]]:g}; rate images that differ, or leave it out"
            )
        if not (w[rows] > 0).all():
            raise InputError(f"{name}: weights are above 0; got {w[rows].min():g}")
        problems[name] = ScoreProblem(rows, y[rows], w[rows] / w[rows].mean(), index[rows])
    return _task(features, blocks, index, problems, shares)


def pair_task(
    blocks: Sequence[Array],
    pairs: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    score_ranges: Mapping[str, tuple[float, float]],
    groups: Sequence[Hashable] | None = None,
    shares: Sequence[float] | None = None,
) -> Task:
    """Choices between two images to be fitted.

    Args:
        blocks, groups, shares: as for `score_task`.
        pairs: by dimension, the better images (m,), the worse ones (m,), both as indices, and the weights (m,).
        score_ranges: by dimension. The mean of the compared images becomes the middle of the range, and two of their
            standard deviations half of it.

    Raises:
        InputError: arrays that don't fit together, fewer than three pairs of a dimension, an image against itself, or
            a weight that is not above 0.
    """
    features = joined(blocks)
    index = group_numbers(groups, len(features))
    problems: dict[str, Problem] = {}
    for name, (first, second, weight) in pairs.items():
        better, worse = np.asarray(first, dtype=np.intp), np.asarray(second, dtype=np.intp)
        w = _column(f"weights of {name}", weight, len(better))
        if len(better) != len(worse) or len(better) < MIN_RATINGS:
            raise InputError(
                f"{name}: {len(better)} better and {len(worse)} worse images; a fit takes {MIN_RATINGS} pairs at least"
            )
        if (better == worse).any():
            raise InputError(f"{name}: a pair compares an image with itself")
        if not (w > 0).all():
            raise InputError(f"{name}: weights are above 0; got {w.min():g}")
        ends = np.stack([index[better], index[worse]])
        problems[name] = PairProblem(better, worse, w, ends, score_ranges[name])
    return _task(features, blocks, index, problems, shares)


def folds_of(groups: Indices, rng: np.random.Generator, most: int = FOLDS) -> Indices:
    """The fold (n,) of each image: whole groups, drawn, each into the fold that is smallest so far."""
    names, sizes = np.unique(groups, return_counts=True)
    filled = np.zeros(min(most, len(names)), dtype=np.intp)
    fold = {}
    for index in rng.permutation(len(names)):
        smallest = int(np.argmin(filled))
        fold[int(names[index])] = smallest
        filled[smallest] += sizes[index]
    return np.array([fold[int(group)] for group in groups])


def group_numbers(groups: Sequence[Hashable] | None, count: int) -> Indices:
    """The group of each of `count` images as a number from 0; each its own where there are fewer than three."""
    if groups is not None and len(groups) != count:
        raise InputError(f"{len(groups)} groups for {count} images: pass one per image")
    if groups is None or len(set(groups)) < MIN_GROUPS:
        return np.arange(count)
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups])


def _task(
    features: Array,
    blocks: Sequence[Array],
    groups: Indices,
    problems: Mapping[str, Problem],
    shares: Sequence[float] | None,
) -> Task:
    start = np.ones(len(blocks)) if shares is None else np.asarray(shares, dtype=np.float64)
    if len(start) != len(blocks) or not (start > 0).all():
        raise InputError(f"shares are above 0, one for each of {len(blocks)} blocks; got {start.tolist()}")
    widths = tuple(np.shape(block)[1] for block in blocks)
    return Task(features, widths, groups, problems, start / start.sum())


def _column(name: str, values: ArrayLike, count: int) -> Array:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (count,):
        raise InputError(f"{name}: an array of shape {column.shape}; expected one number for each of {count}")
    return column
