"""How far raters agree. Raters need not have seen the same images, nor as many."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from aigciqa.stats.bootstrap import Array
from aigciqa.stats.opinion.votes import Votes

_SPLITS = 100


class Icc(NamedTuple):
    """Intraclass correlations for absolute agreement, raters being a sample of all (Shrout and Fleiss 1979).

    Attributes:
        single: of one vote, ICC(2,1).
        mean: of the mean of an image's votes, ICC(2,k); k is the harmonic mean of the images' numbers of votes.
    """

    single: float
    mean: float


def icc(votes: Votes) -> Icc:
    """Intraclass correlations, from variance components by Henderson's first method (1953): images, raters, noise.

    Where all raters saw all images, it is the analysis of variance. NaN where the components can't be told apart.

    Example:
        >>> from aigciqa.stats.opinion.agreement import icc
        >>> from aigciqa.stats.opinion.votes import Votes
        >>> ratings = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
        >>> print("{:.2f} {:.2f}".format(*icc(Votes.of_matrix(ratings))))
        0.29 0.62
    """
    score, n = votes.score, len(votes.score)
    per_image, per_rater = (counts[counts > 0].astype(np.float64) for counts in (votes.per_image, votes.per_rater))
    voted = votes.per_image > 0
    by_image = np.sum(votes.image_sum(score)[voted] ** 2 / per_image)
    by_rater = np.sum(votes.rater_sum(score)[votes.per_rater > 0] ** 2 / per_rater)
    overall = score.sum() ** 2 / n
    # Each row: the expectation of a sum of squares in the variances of images, raters and noise.
    expected = np.array(
        [
            [n - np.sum(per_image**2) / n, len(per_image) - np.sum(per_rater**2) / n, len(per_image) - 1],
            [len(per_rater) - np.sum(per_image**2) / n, n - np.sum(per_rater**2) / n, len(per_rater) - 1],
            [n - np.sum(per_image**2) / n, n - np.sum(per_rater**2) / n, n - 1],
        ]
    )
    if np.linalg.matrix_rank(expected) < len(expected):
        return Icc(math.nan, math.nan)
    image, rater, noise = np.linalg.solve(expected, np.array([by_image, by_rater, np.sum(score**2)]) - overall)
    votes_each = len(per_image) / np.sum(1 / per_image)
    of_one, of_mean = image + rater + noise, image + (rater + noise) / votes_each
    return Icc(*(float(image / total) if total > 0 else math.nan for total in (of_one, of_mean)))


def krippendorff_alpha(votes: Votes, *, ordinal: bool = False) -> float:
    """Krippendorff's alpha for intervals, or for ordered grades: 1 for perfect agreement, 0 for none beyond chance.

    NaN where no image has two votes, or all votes are equal. Source: Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability". Of grades, the squared differences are those of their mean ranks.
    """
    paired = votes.only(votes.per_image[votes.image] > 1)
    score = _mean_ranks(paired.score) if ordinal else paired.score
    n = len(score)
    if n == 0 or (score == score[0]).all():
        return math.nan
    off = score - paired.image_mean(score)[paired.image]
    count = paired.per_image[paired.image]
    observed = np.sum(off**2 * count / (count - 1)) / n
    return float(1 - observed / (np.sum((score - score.mean()) ** 2) / (n - 1)))


def split_half(votes: Votes, seed: int = 0) -> float:
    """Pearson's correlation of the mean votes of one half of the raters and of the other; the mean of 100 splits.

    Images count that have votes in both halves. It is that of half the raters, not corrected upwards to all of them.
    NaN with fewer than two raters, or three such images.
    """
    rng = np.random.default_rng(seed)
    present = np.flatnonzero(votes.per_rater)
    found = []
    for _ in range(_SPLITS if len(present) > 1 else 0):
        half = np.zeros(votes.raters, dtype=bool)
        half[rng.permutation(present)[: len(present) // 2]] = True
        first, second = (
            part.image_mean(part.score) for part in (votes.only(half[votes.rater]), votes.only(~half[votes.rater]))
        )
        both = np.isfinite(first) & np.isfinite(second)
        if both.sum() > 2 and np.ptp(first[both]) > 0 and np.ptp(second[both]) > 0:
            found.append(np.corrcoef(first[both], second[both])[0, 1])
    return float(np.mean(found)) if found else math.nan


def with_others(votes: Votes) -> Array:
    """Pearson's correlation (r,) of each rater's votes with the means of the others' on the same images.

    NaN for fewer than three images that others saw, and where either is constant.
    """
    others = votes.per_image[votes.image] - 1
    shared = votes.only(others > 0)
    total = votes.image_sum(votes.score)[votes.image] - votes.score
    mean = (total / np.maximum(others, 1))[others > 0]
    x = shared.score - shared.rater_mean(shared.score)[shared.rater]
    y = mean - shared.rater_mean(mean)[shared.rater]
    spread = shared.rater_sum(x**2) * shared.rater_sum(y**2)
    fit = (shared.per_rater > 2) & (spread > 1e-18)
    correlation = np.full(votes.raters, np.nan)
    return np.asarray(np.divide(shared.rater_sum(x * y), np.sqrt(spread), out=correlation, where=fit))


def _mean_ranks(values: Array) -> Array:
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[index]
    return ranks
