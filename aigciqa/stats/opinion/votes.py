"""Votes as arrays, which need not fill the table of raters and images, and what every method makes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aigciqa.stats.bootstrap import Array

Index = NDArray[np.intp]
#: A rater with fewer votes may have meant the one value that all of them are.
MIN_ONE_VALUE = 10


@dataclass(frozen=True, eq=False)
class Votes:
    """The n votes on one question; of a rater and an image at most one.

    Attributes:
        image: (n,), the number of each vote's image.
        rater: (n,), the number of each vote's rater.
        score: (n,), what was voted.
        images: how many images there are, m; some may have no vote.
        raters: how many raters there are, r.
    """

    image: Index
    rater: Index
    score: Array
    images: int
    raters: int

    @classmethod
    def of_matrix(cls, matrix: ArrayLike) -> Votes:
        """Votes from a matrix (m, r): a row per image, a column per rater, NaN where a rater did not see an image."""
        cells = np.asarray(matrix, dtype=np.float64)
        image, rater = np.nonzero(np.isfinite(cells))
        return cls(image, rater, cells[image, rater], *cells.shape)

    def only(self, kept: NDArray[np.bool_]) -> Votes:
        """The votes (n,) that are kept; images and raters keep their numbers."""
        return Votes(self.image[kept], self.rater[kept], self.score[kept], self.images, self.raters)

    def with_scores(self, score: Array) -> Votes:
        """The same votes with other scores."""
        return Votes(self.image, self.rater, score, self.images, self.raters)

    @property
    def per_image(self) -> Index:
        """How many votes each image has (m,)."""
        return np.bincount(self.image, minlength=self.images)

    @property
    def per_rater(self) -> Index:
        """How many votes each rater has (r,)."""
        return np.bincount(self.rater, minlength=self.raters)

    def image_sum(self, values: Array) -> Array:
        """Sum of values (n,) over the votes of each image (m,)."""
        return np.bincount(self.image, values, self.images).astype(np.float64)

    def rater_sum(self, values: Array) -> Array:
        """Sum of values (n,) over the votes of each rater (r,)."""
        return np.bincount(self.rater, values, self.raters).astype(np.float64)

    def image_mean(self, values: Array) -> Array:
        """Mean of values (n,) over the votes of each image (m,); NaN without any."""
        return ratio(self.image_sum(values), self.per_image)

    def rater_mean(self, values: Array) -> Array:
        """Mean of values (n,) over the votes of each rater (r,); NaN without any."""
        return ratio(self.rater_sum(values), self.per_rater)

    def image_std(self) -> Array:
        """Standard deviation (division by n - 1) of each image's votes (m,); NaN for fewer than two."""
        squares = self.image_sum((self.score - self.image_mean(self.score)[self.image]) ** 2)
        return np.sqrt(ratio(squares, self.per_image - 1))

    def rater_std(self) -> Array:
        """Standard deviation (division by n - 1) of each rater's votes (r,); NaN for fewer than two."""
        squares = self.rater_sum((self.score - self.rater_mean(self.score)[self.rater]) ** 2)
        return np.sqrt(ratio(squares, self.per_rater - 1))

    def parts(self) -> tuple[int, Index, Index]:
        """How many parts the votes fall into that share neither raters nor images, and the part of each (m,), (r,)."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        size = self.images + self.raters
        edges = coo_array((np.ones(len(self.image)), (self.image, self.images + self.rater)), shape=(size, size))
        _, part = connected_components(edges, directed=False)
        voted = np.unique(part[self.image])
        return len(voted), part[: self.images], part[self.images :]


@dataclass(frozen=True, eq=False)
class Opinion:
    """What a method makes of votes; NaN where there is nothing to compute a figure from.

    Attributes:
        score: (m,), of each image.
        std: (m,), standard deviation of its votes that count, without the raters' biases where the method finds them.
        low: (m,), lower end of the score's 95% interval.
        high: (m,), upper end.
        votes: (m,), how many count.
        bias: (r,), how much higher each rater votes than the others do.
        inconsistency: (r,), standard deviation of what the bias leaves of the rater's votes.
        rejected: (r,), why a rater's votes do not count; empty where they do.
    """

    score: Array
    std: Array
    low: Array
    high: Array
    votes: Index
    bias: Array
    inconsistency: Array
    rejected: tuple[str, ...]


def ratio(over: ArrayLike, under: ArrayLike) -> Array:
    """A quotient; NaN where the divisor is not positive."""
    over, under = np.broadcast_arrays(np.asarray(over, np.float64), np.asarray(under, np.float64))
    quotient: Array = np.divide(over, under, out=np.full(over.shape, np.nan), where=under > 0)
    return quotient


def unanimous(votes: Votes) -> Array:
    """Half the width (m,) of an interval where all votes are equal: the share of others that they do not exclude.

    If 1 - 0.05 ** (1 / n) of all people voted a grade higher, n votes would show none of them in 5% of all cases.
    """
    values = np.unique(votes.score)
    grade = np.diff(values).min() if len(values) > 1 else 1.0
    return np.asarray(grade * (1 - 0.05 ** ratio(1, votes.per_image)))


def one_value(votes: Votes) -> NDArray[np.bool_]:
    """Which raters (r,) gave all of ten or more images the same vote."""
    lowest, highest = np.full(votes.raters, np.inf), np.full(votes.raters, -np.inf)
    np.minimum.at(lowest, votes.rater, votes.score)
    np.maximum.at(highest, votes.rater, votes.score)
    constant: NDArray[np.bool_] = (votes.per_rater >= MIN_ONE_VALUE) & (lowest == highest)
    return constant


def useless(votes: Votes) -> list[str]:
    """Why a rater's votes say nothing once the bias is taken off; empty where they do. (r,)"""
    constant, single = one_value(votes), votes.per_rater == 1
    return [
        f"one value in all {count} votes" if same else "a single vote" if alone else ""
        for same, alone, count in zip(constant, single, votes.per_rater, strict=True)
    ]


def without(votes: Votes, rejected: list[str]) -> Votes:
    """The votes of those raters who are not rejected."""
    return votes.only(np.array([not reason for reason in rejected])[votes.rater])
