"""Frozen features and few ratings -> one linear function of the features for each dimension, and how sure it is.

The features come in blocks; the kernel of images is the sum of the blocks' linear kernels, each times the block's
share. Shares and strengths are those with the smallest loss when one group of images after the other is left out.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.errors import InputError
from aigciqa.training.fit.bradley_terry import PairProblem
from aigciqa.training.fit.kernels import Array, Indices, Standardisation, joined, standardised
from aigciqa.training.fit.ridge import ScoreProblem

Problem = ScoreProblem | PairProblem

MIN_RATINGS = 3
#: Fewer groups can't be left out in turn: each image then is a group of its own.
MIN_GROUPS = 3
#: Directions of the features in which a fit remembers what it knows.
MAX_DIRECTIONS = 64
#: Images, at most, that shares and strengths are chosen on; the fit itself takes all.
_CHOOSING = 1000
#: A block's share goes up or down by this factor, as long as that gains a nat; and so often at most from its start.
_STEP, _GAIN, _MOST = 4.0, 1.0, 3
#: Directions with less than this share of the largest are rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class LinearFit:
    """A linear function of features (D,), all blocks side by side, for each of m dimensions.

    `scores = features @ weight.T + bias`. A rating of weight 1 deviates from its score by

        std^2 = noise + prior * (|z|^2 - sum over r of shrink_r * (basis_r . z)^2),   z = (features - centre) * scale

    which is a Gaussian process's, kept in at most 64 directions: what lies outside of them is unknown.

    Attributes:
        dimensions: names.
        weight: (m, D).
        bias: (m,).
        centre, scale: (D,).
        basis: (R, D) orthonormal rows, R <= 64, the directions in which the rated images differ most.
        shrink: (m, R) in 0..1, how much is known of each direction.
        prior, noise: (m,) variances.
        strengths: (m,) of the ridge.
        shares: (blocks,) of the kernel, of sum 1.
    """

    dimensions: tuple[str, ...]
    weight: Array
    bias: Array
    centre: Array
    scale: Array
    basis: Array
    shrink: Array
    prior: Array
    noise: Array
    strengths: Array
    shares: Array

    def predict(self, features: ArrayLike) -> Array:
        """Scores (n, m) of features (n, D)."""
        value: Array = np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias
        return value

    def std(self, features: ArrayLike) -> Array:
        """Standard deviations (n, m) of ratings about the scores of features (n, D)."""
        z = (np.asarray(features, dtype=np.float64) - self.centre) * self.scale
        unknown = np.sum(z**2, axis=1, keepdims=True) - (z @ self.basis.T) ** 2 @ self.shrink.T
        value: Array = np.sqrt(self.noise + self.prior * np.maximum(unknown, 0))
        return value


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


def fit(task: Task) -> LinearFit:
    """The linear functions of a task. The same task gives the same bytes on one machine.

    Example:
        >>> import numpy as np
        >>> features = np.random.default_rng(0).normal(size=(30, 5))
        >>> found = fit(score_task([features], {"quality": 3 + features[:, 0]}))
        >>> bool(abs(found.predict(features)[:, 0] - 3 - features[:, 0]).max() < 0.1)
        True
    """
    shares, strengths = _chosen(task)
    standard = standardised(task.features, task.widths).shared(shares)
    z = standard(task.features)
    kernel = z @ z.T
    values, vectors = _leading(kernel)
    lengths = np.sqrt(values)
    along = vectors * lengths
    problems = zip(task.problems.values(), strengths, strict=True)
    solutions = [problem.solve(kernel, strength, along) for problem, strength in problems]
    weight = np.stack([standard.scale * (each.dual @ z) for each in solutions])
    shrink = [np.einsum("ir,ij,jr->r", along, each.precision, along, optimize=True) for each in solutions]
    return LinearFit(
        dimensions=tuple(task.problems),
        weight=weight,
        bias=np.array([each.bias for each in solutions]) - weight @ standard.centre,
        centre=standard.centre,
        scale=standard.scale,
        basis=(vectors / lengths).T @ z,
        shrink=np.clip(np.stack(shrink), 0, 1),
        prior=np.array([each.prior for each in solutions]),
        noise=np.array([each.noise for each in solutions]),
        strengths=np.array(strengths),
        shares=shares,
    )


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


def _chosen(task: Task) -> tuple[Array, list[float]]:
    """The shares (blocks,), and each dimension's strength, with the smallest loss of left-out groups.

    Shares are the same for all dimensions, and move from their start by steps that gain a nat each. They stay beside
    the first block's, since only their ratios and the strength count.
    """
    task = _sample(task)
    kernels = standardised(task.features, task.widths).kernels(task.features)
    lead = np.zeros(len(task.shares))  # steps up from the start
    found = _losses(task, kernels, lead)
    moved = True
    while moved:
        moved = False
        for block in range(1, len(lead)):
            for step in (1, -1):
                tried = lead.copy()
                tried[block] += step
                if abs(tried[block]) > _MOST:
                    continue
                losses = _losses(task, kernels, tried)
                if losses[0] < found[0] - _GAIN:
                    found, lead, moved = losses, tried, True
    shares = task.shares * _STEP**lead
    return shares / shares.sum(), found[1]


def _losses(task: Task, kernels: Array, lead: Array) -> tuple[float, list[float]]:
    """The dimensions' losses together, and the strength of each."""
    shares = task.shares * _STEP**lead
    kernel = np.tensordot(shares / shares.sum(), kernels, axes=1)
    found = [problem.loss(kernel) for problem in task.problems.values()]
    return sum(loss for loss, _ in found), [strength for _, strength in found]


def _sample(task: Task) -> Task:
    """The task itself, or of a large one whole groups, drawn, of about a thousand images."""
    if len(task.features) <= _CHOOSING:
        return task
    order = np.random.default_rng(0).permutation(int(task.groups.max()) + 1)[task.groups]
    limit = np.sort(order)[_CHOOSING - 1]
    return task.among(np.flatnonzero(order <= limit))


def _leading(kernel: Array) -> tuple[Array, Array]:
    """The largest eigenvalues (r,) of a kernel, at most 64, and their vectors (n, r)."""
    from scipy.linalg import eigh

    count = len(kernel)
    values, vectors = eigh(kernel, subset_by_index=(max(0, count - MAX_DIRECTIONS), count - 1))
    kept = values > _ROUNDING * values[-1]
    return values[kept], vectors[:, kept]


def _column(name: str, values: ArrayLike, count: int) -> Array:
    column = np.asarray(values, dtype=np.float64)
    if column.shape != (count,):
        raise InputError(f"{name}: an array of shape {column.shape}; expected one number for each of {count}")
    return column
