"""Pairs -> a logistic ridge on the kernel of images: the model of Bradley and Terry (1952) with a linear score.

The better of two images wins with the probability `1 / (1 + exp(score of the worse - score of the better))`. Leaving
out pairs takes one Newton step from the fit of all of them (Rad and Maleki, A scalable estimate of the out-of-sample
prediction error via approximate leave-one-out, 2020).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from aigciqa.training.fit.kernels import Array, Indices, Mask, by_size
from aigciqa.training.fit.ridge import Solution

#: Strengths tried, from the strongest: in units of 1 / variance of an image's score in logits.
_STRENGTHS = np.geomspace(100, 0.01, 9)
_STEPS = 50
_TOLERANCE = 1e-7
#: Directions of the kernel below this share of the largest are rounding.
_ROUNDING = 1e-10


@dataclass(frozen=True, eq=False)
class PairProblem:
    """Pairs of one dimension.

    Attributes:
        better, worse: (m,) int, the images.
        weights: (m,), above 0.
        ends: (2, m) int, from 0, the groups of the better and of the worse image.
        score_range: the range that the scores are given in.
    """

    better: Indices
    worse: Indices
    weights: Array
    ends: Indices
    score_range: tuple[float, float]

    @property
    def groups(self) -> Indices:
        """A number (m,) from 0 for each two groups: what is left out together."""
        _, both = np.unique(np.sort(self.ends, axis=0), axis=1, return_inverse=True)
        return both.reshape(-1)

    @property
    def rows(self) -> Indices:
        """The images that are compared, each once."""
        return np.union1d(self.better, self.worse)

    def among(self, images: Indices) -> PairProblem:
        """The pairs of which both are in `images` (ascending), numbered as there."""
        kept = np.isin(self.better, images) & np.isin(self.worse, images)
        better, worse = (np.searchsorted(images, each[kept]) for each in (self.better, self.worse))
        return PairProblem(better, worse, self.weights[kept], self.ends[:, kept], self.score_range)

    def outcomes(self, predictions: Array) -> Array:
        """What the problem is about, (m,), out of predictions for all images: how much better the better ones are."""
        return predictions[self.better] - predictions[self.worse]

    def spread(self, weight: Array) -> Array:
        """The weights (r, m) of the outcomes where images have the weights (r, n): a pair is there as often as both."""
        together = self.ends[0] == self.ends[1]
        both: Array = weight[:, self.better] * np.where(together, 1, weight[:, self.worse])
        return both

    def touches(self, images: Mask) -> Mask:
        """Which outcomes depend on some images, given as a mask of all."""
        return images[self.better] | images[self.worse]

    def loss(self, kernel: Array) -> tuple[float, float]:
        """The log loss of left-out groups in nats, and the strength with the smallest.

        Args:
            kernel: of all images.
        """
        _, directions = _directions(kernel)
        differences = directions[self.better] - directions[self.worse]
        factors = np.zeros(differences.shape[1])
        losses = []
        for strength in _STRENGTHS:
            factors, inverse = self._newton(differences, strength, factors)
            losses.append(self._left_out(differences, factors, inverse))
        best = int(np.argmin(losses))
        return float(losses[best]), float(_STRENGTHS[best])

    def solve(self, kernel: Array, strength: float) -> Solution:
        """The function of one strength (maximum a posteriori) and its variances (Laplace's approximation).

        Scores are given in the stated range: the mean of the compared images is its middle, and two of their standard
        deviations are half of it. Scores beyond the range are not cut off. Where choices contradict each other, every
        image is in the middle.

        Args:
            kernel: (n, n) of all images.
            strength: the ridge.
        """
        values, directions = _directions(kernel)
        differences = directions[self.better] - directions[self.worse]
        factors = np.zeros(len(values))
        stronger = [each for each in _STRENGTHS if each > strength]
        for each in [*stronger, strength]:  # Newton's method from far away may overshoot
            factors, inverse = self._newton(differences, each, factors)
        scores = (directions @ factors)[self.rows]
        middle, deviation = (scores.mean(), scores.std()) if len(scores) else (0.0, 0.0)  # of a part of the images
        low, high = self.score_range
        unit = (high - low) / 4 / (deviation if deviation > _TOLERANCE else 1.0)
        back = directions / values  # (n, r): from the directions' factors to the images'
        precision = back @ (np.eye(len(values)) - strength * inverse) @ back.T
        bias = (low + high) / 2 - unit * float(middle)
        return Solution(unit * (back @ factors), bias, precision, unit**2 / strength, 0.0, strength)

    def _newton(self, differences: Array, strength: float, start: Array) -> tuple[Array, Array]:
        """The factors (r,) of the directions with the largest posterior, and the inverse (r, r) of its curvature."""
        from scipy.special import expit

        factors = start
        for _ in range(_STEPS):
            lost = expit(-differences @ factors)
            gradient = differences.T @ (self.weights * lost) - strength * factors
            curvature = (differences.T * (self.weights * lost * (1 - lost))) @ differences
            curvature[np.diag_indices_from(curvature)] += strength
            step = np.linalg.solve(curvature, gradient)
            factors = factors + step
            if np.abs(step).max(initial=0) <= _TOLERANCE * max(1, np.abs(factors).max(initial=0)):
                break
        return factors, np.linalg.inv(curvature)

    def _left_out(self, differences: Array, factors: Array, inverse: Array) -> float:
        """The log loss of pairs, each group left out by one Newton step."""
        from scipy.special import expit, log_expit

        margins = differences @ factors
        lost = expit(-margins)
        slopes, curvatures = self.weights * lost, self.weights * lost * (1 - lost)
        total = 0.0
        for members in by_size(self.groups):
            part = differences[members]  # (groups, pairs, r)
            reach = np.einsum("gpr,rs,gqs->gpq", part, inverse, part, optimize=True)
            system = np.eye(members.shape[1]) - curvatures[members][..., None] * reach
            change = np.einsum("gpq,gq->gp", reach, np.linalg.solve(system, slopes[members][..., None])[..., 0])
            total -= float(self.weights[members].ravel() @ log_expit(margins[members] - change).ravel())
        return total


def _directions(kernel: Array) -> tuple[Array, Array]:
    """The kernel's eigenvalues (r,) above rounding, and the images (n, r) along its directions."""
    values, vectors = np.linalg.eigh(kernel)
    kept = values > _ROUNDING * max(values.max(), 0)
    return values[kept], vectors[:, kept] * np.sqrt(values[kept])
