"""Frozen features and few ratings -> one linear function of the features for each dimension, and how sure it is.

The features come in blocks; the kernel of images is the sum of the blocks' linear kernels, each times the block's
share. Shares and strengths are those with the smallest loss when one group of images after the other is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.training.fit.bradley_terry import PairProblem
from aigciqa.training.fit.kernels import Array, Standardisation, standardised
from aigciqa.training.fit.ridge import Solution
from aigciqa.training.fit.tasks import FOLDS, MIN_RATINGS, Task, folds_of

#: Directions of the features in which a fit remembers what it knows.
MAX_DIRECTIONS = 64
#: Images, at most, that shares and strengths are chosen on; the fit itself takes all.
_CHOOSING = 500
#: A block's share goes up or down by this factor, as long as that gains a nat; and so often at most from its start.
_STEP, _GAIN, _MOST = 4.0, 1.0, 3
#: Directions with less than this share of the largest are rounding.
_ROUNDING = 1e-10
#: Images times folds that the calibration takes, about: few images are left out one by one.
_CALIBRATING = 2500


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear function of features (D,), all blocks side by side, for each of m dimensions.

    Attributes:
        dimensions: names.
        weight: (m, D).
        bias: (m,).
    """

    dimensions: tuple[str, ...]
    weight: Array
    bias: Array

    def predict(self, features: ArrayLike) -> Array:
        """Scores (n, m) of features (n, D)."""
        value: Array = np.asarray(features, dtype=np.float64) @ self.weight.T + self.bias
        return value


@dataclass(frozen=True, eq=False)
class LinearFit(Linear):
    """A linear function with what it doesn't know. A rating of weight 1 deviates from its score by

        std^2 = noise + prior * (|z|^2 - sum over r of shrink_r * (basis_r . z)^2),   z = (features - centre) * scale

    which is a Gaussian process's, kept in at most 64 directions: what lies outside of them is unknown. The variances
    are scaled so that left-out ratings have z-scores of mean square 1. With pairs, it is the score's own deviation.

    Attributes:
        centre, scale: (D,).
        basis: (R, D) orthonormal rows, R <= 64, the directions in which the images of the fit differ most.
        shrink: (m, R) in 0..1, how much is known of each direction.
        prior, noise: (m,) variances.
        strengths: (m,) of the ridge.
        shares: (blocks,) of the kernel, of sum 1.
    """

    centre: Array
    scale: Array
    basis: Array
    shrink: Array
    prior: Array
    noise: Array
    strengths: Array
    shares: Array

    def std(self, features: ArrayLike) -> Array:
        """Standard deviations (n, m) of ratings about the scores of features (n, D)."""
        z = (np.asarray(features, dtype=np.float64) - self.centre) * self.scale
        unknown = np.sum(z**2, axis=1, keepdims=True) - (z @ self.basis.T) ** 2 @ self.shrink.T
        value: Array = np.sqrt(self.noise + self.prior * np.maximum(unknown, 0))
        return value


def fit(task: Task) -> LinearFit:
    """The linear functions of a task, and their uncertainty. The same task gives the same bytes on one machine.

    Example:
        >>> import numpy as np
        >>> from aigciqa.training.fit.tasks import score_task
        >>> features = np.random.default_rng(0).normal(size=(30, 5))
        >>> found = fit(score_task([features], {"quality": 3 + features[:, 0]}))
        >>> bool(abs(found.predict(features)[:, 0] - 3 - features[:, 0]).max() < 0.1)
        True
    """
    standard = standardised(task.features, task.widths)
    shares, strengths = _chosen(_sample(task), standard)
    standard = standard.shared(shares)
    z = standard(task.features)
    kernel = z @ z.T
    solutions = _solved(task, kernel, strengths)
    linear = _linear(task, standard, solutions, z)
    lengths, vectors = _leading(kernel)
    calibration = _calibration(_sample(task), standard, strengths)
    return LinearFit(
        **vars(linear),
        centre=standard.centre,
        scale=standard.scale,
        basis=(vectors / lengths).T @ z,
        shrink=_shrink(solutions, vectors * lengths),
        prior=calibration * [each.prior for each in solutions],
        noise=calibration * [each.noise for each in solutions],
        strengths=np.array(strengths),
        shares=shares,
    )


def fit_linear(task: Task) -> Linear:
    """`fit` without the uncertainty."""
    standard = standardised(task.features, task.widths)
    shares, strengths = _chosen(_sample(task), standard)
    standard = standard.shared(shares)
    z = standard(task.features)
    return _linear(task, standard, _solved(task, z @ z.T, strengths), z)


def _chosen(task: Task, standard: Standardisation) -> tuple[Array, list[float]]:
    """The shares (blocks,), and each dimension's strength, with the smallest loss of left-out groups.

    Shares are the same for all dimensions, and move from their start by steps that gain a nat each. They stay beside
    the first block's, since only their ratios and the strength count.
    """
    kernels = standard.kernels(task.features)
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


def _solved(task: Task, kernel: Array, strengths: list[float]) -> list[Solution]:
    problems = task.problems.values()
    return [problem.solve(kernel, strength) for problem, strength in zip(problems, strengths, strict=True)]


def _linear(task: Task, standard: Standardisation, solutions: list[Solution], z: Array) -> Linear:
    """Functions of the kernel with the images z as functions of features."""
    weight = np.stack([standard.scale * (each.dual @ z) for each in solutions])
    bias = np.array([each.bias for each in solutions])
    return Linear(tuple(task.problems), weight, bias - weight @ standard.centre)


def _shrink(solutions: list[Solution], along: Array) -> Array:
    """How much (m, r) is known of directions, which the images (n, r) lie along."""
    known = [np.einsum("ir,ij,jr->r", along, each.precision, along, optimize=True) for each in solutions]
    shrink: Array = np.clip(np.stack(known), 0, 1)
    return shrink


def _calibration(task: Task, standard: Standardisation, strengths: list[float]) -> Array:
    """What scales variances, (m,): the mean square z-score of ratings that folds leave out; 1 for pairs."""
    z = standard(task.features)
    kernel = z @ z.T
    squares: list[list[Array]] = [[] for _ in strengths]
    folds = folds_of(task.groups, np.random.default_rng(0), max(FOLDS, _CALIBRATING // len(z)))
    for fold in range(folds.max() + 1):
        inside, outside = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        own, across = kernel[np.ix_(inside, inside)], kernel[np.ix_(outside, inside)]
        lengths, vectors = _leading(own)
        for index, problem in enumerate(task.problems.values()):
            part, left = problem.among(inside), problem.among(outside)
            if isinstance(part, PairProblem) or isinstance(left, PairProblem):
                continue
            if len(part.scores) < MIN_RATINGS or not len(left.scores):
                continue
            solution = part.solve(own, strengths[index])
            known = (across @ (vectors / lengths)) ** 2 @ _shrink([solution], vectors * lengths)[0]
            unknown = np.maximum(kernel[outside, outside] - known, 0)[left.rows]
            variance = unknown + solution.noise + solution.strength * (1 / left.weights - 1)
            errors = left.scores - solution.bias - (across @ solution.dual)[left.rows]
            squares[index].append(errors**2 / variance)
    return np.array([np.concatenate(each).mean() if each else 1.0 for each in squares])


def _losses(task: Task, kernels: Array, lead: Array) -> tuple[float, list[float]]:
    """The dimensions' losses together, and the strength of each."""
    shares = task.shares * _STEP**lead
    kernel = np.tensordot(shares / shares.sum(), kernels, axes=1)
    found = [problem.loss(kernel) for problem in task.problems.values()]
    return sum(loss for loss, _ in found), [strength for _, strength in found]


def _sample(task: Task) -> Task:
    """The task itself, or five hundred images of a large one, drawn."""
    drawn = np.random.default_rng(0).permutation(len(task.features))[:_CHOOSING]
    return task if len(drawn) == len(task.features) else task.among(np.sort(drawn))


def _leading(kernel: Array) -> tuple[Array, Array]:
    """The roots (r,) of a kernel's largest eigenvalues, at most 64, and their vectors (n, r)."""
    values, vectors = np.linalg.eigh(kernel)
    values, vectors = values[-MAX_DIRECTIONS:], vectors[:, -MAX_DIRECTIONS:]
    kept = values > _ROUNDING * values[-1]
    return np.sqrt(values[kept]), vectors[:, kept]
