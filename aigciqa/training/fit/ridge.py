"""Scores -> a ridge on the kernel of images, which is a Gaussian process with a linear kernel and a free constant.

`scores = constant + f(image) + noise`; f has the covariance `prior * kernel`, the noise of a rating of weight w the
variance `prior * strength / w` (Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and
2.7). Leaving out a group needs no second fit: its errors are `(I - H)_GG^-1` times its residuals, H being the matrix
from scores to fitted scores.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from aigciqa.training.fit.kernels import Array, Indices, Mask, by_size

#: Strengths tried, as multiples of the kernel's mean eigenvalue.
_STRENGTHS = np.geomspace(0.01, 100, 25)
#: The smallest mean square of errors, in variances of the scores: scores that are fitted exactly have logarithms too.
_LEAST = 1e-12


@dataclass(frozen=True, eq=False)
class Solution:
    """A fitted function of images, `bias + kernel(image, images) @ dual`.

    Attributes:
        dual: (n,), one factor per image of the kernel.
        bias: the constant.
        precision: (n, n); with it the function's variance at an image with the kernel row k is
            `prior * (k(image, image) - k @ precision @ k)`.
        prior: variance of the function where the kernel is 1 and nothing is known.
        noise: variance of a rating of weight 1, with that of the constant.
        strength: the ridge.
    """

    dual: Array
    bias: float
    precision: Array
    prior: float
    noise: float
    strength: float


@dataclass(frozen=True, eq=False)
class ScoreProblem:
    """Scores of one dimension.

    Attributes:
        rows: (n,) int, the image of each score.
        scores: (n,).
        weights: (n,), above 0.
        groups: (n,) int, from 0: what is left out together.
    """

    rows: Indices
    scores: Array
    weights: Array
    groups: Indices

    def among(self, images: Indices) -> ScoreProblem:
        """The scores of some images only, which are numbered as in `images` (ascending)."""
        kept = np.isin(self.rows, images)
        rows = np.searchsorted(images, self.rows[kept])
        return ScoreProblem(rows, self.scores[kept], self.weights[kept], self.groups[kept])

    def outcomes(self, predictions: Array) -> Array:
        """What the problem is about, (n,), out of predictions for all images: the scores of the rated ones."""
        return predictions[self.rows]

    def spread(self, weight: Array) -> Array:
        """The weights (r, m) of the outcomes where images have the weights (r, n)."""
        return weight[:, self.rows]

    def touches(self, images: Mask) -> Mask:
        """Which outcomes depend on some images, given as a mask of all."""
        return images[self.rows]

    def loss(self, kernel: Array) -> tuple[float, float]:
        """The loss in nats of leaving out one group after the other, and the strength with the smallest.

        The loss is `n / 2 * log(weighted mean square of the errors)`.

        Args:
            kernel: of all images.
        """
        if len(self.scores) < 2:  # of a part of the images
            return 0.0, 1.0
        root = np.sqrt(self.weights)
        constant = root / np.linalg.norm(root)
        whitened = kernel[np.ix_(self.rows, self.rows)] * np.outer(root, root)
        whitened -= np.outer(constant, constant @ whitened)
        whitened -= np.outer(whitened @ constant, constant)
        values, vectors = np.linalg.eigh(whitened)
        values = np.maximum(values, 0)
        strengths = _STRENGTHS * (values.mean() or 1.0)
        kept = strengths[:, None] / (values + strengths[:, None])  # of each direction, what stays unexplained
        y = root * self.scores
        y = y - constant * (constant @ y)
        residuals = (kept * (y @ vectors)) @ vectors.T
        errors = np.empty_like(residuals)
        for members in self._left_out:
            part = vectors[members]  # (groups, size, n)
            left = (part * kept[:, None, None]) @ part.swapaxes(1, 2)
            left -= constant[members][:, :, None] * constant[members][:, None]
            errors[:, members] = np.linalg.solve(left, residuals[:, members][..., None])[..., 0]
        count = len(y)
        squares = np.maximum((errors**2).mean(axis=1), _LEAST * max(float(y @ y) / count, _LEAST))
        best = int(np.argmin(squares))
        return float(count / 2 * np.log(squares[best])), float(strengths[best])

    @functools.cached_property
    def _left_out(self) -> list[Indices]:
        """What is left out together; each score where all are of one group."""
        return by_size(self.groups if len(set(self.groups.tolist())) > 1 else self.rows)

    def solve(self, kernel: Array, strength: float) -> Solution:
        """The function of one strength, with variances in units of the prior's, which is for others to find.

        Args:
            kernel: (n, n) of all images.
            strength: the ridge.
        """
        own = kernel[np.ix_(self.rows, self.rows)]
        precision, constant = _precision(own + np.diag(strength / self.weights))
        factors = precision @ self.scores
        everywhere = np.zeros_like(kernel)
        everywhere[np.ix_(self.rows, self.rows)] = precision
        dual = np.zeros(len(kernel))
        dual[self.rows] = factors
        bias = float(np.average(self.scores - own @ factors, weights=self.weights))
        return Solution(dual, bias, everywhere, 1.0, strength + 1 / constant, strength)


def _precision(covariance: Array) -> tuple[Array, float]:
    """The inverse of a covariance (n, n) once a free constant is taken out, and the constant's precision."""
    inverse = np.linalg.inv(covariance)
    inverse = (inverse + inverse.T) / 2
    sums = inverse.sum(axis=1)
    precision: Array = inverse - np.outer(sums, sums) / sums.sum()
    return precision, float(sums.sum())
