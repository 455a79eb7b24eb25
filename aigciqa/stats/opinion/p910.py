"""The maximum likelihood of scores, biases and inconsistencies: ITU-T P.910 (10/2023), annex E.

A vote is the image's score, plus the rater's bias, plus normal noise whose deviation is the rater's inconsistency (Li,
Bampis, Krasula, Janowski and Katsavounidis 2020, "A simple model for subject behavior in subjective experiments").
Each image's score is the mean of its votes less their raters' biases, weighted by 1 / inconsistency². Nothing asks
that all raters saw all images.

Three things go beyond the recommendation. They change nothing where raters are many and have twenty votes each.

- The likelihood grows without bound as one rater's inconsistency goes to 0 and the scores to that rater's votes: with
  few raters, its maximum is one of them. So no variance is below 2 / k of the typical one, for k votes an image, and a
  rater with fewer than twenty votes is taken to have the missing ones with the typical inconsistency, the median.
- Raters with one vote, and those who gave one value throughout, are left out: the model would take them for consistent.
- Intervals are Student's t, from the weighted least squares of scores and biases together: the noise is what is left
  per degree of freedom, and the error of the biases is in it.
"""

from __future__ import annotations

import numpy as np

from aigciqa.errors import InputError
from aigciqa.stats.bootstrap import Array
from aigciqa.stats.opinion.votes import Index, Opinion, Votes, ratio, unanimous, useless, without

#: As many votes of a rater tell the inconsistency by themselves.
_ENOUGH = 20
_TOLERANCE = 1e-10
_ROUNDS = 10_000
_TINY = 1e-6
#: Of the matrices that tell the error of the biases; for more, it is approximate.
_MOST_CELLS = 20_000_000


def p910(votes: Votes) -> Opinion:
    """Scores by the maximum likelihood of biases and inconsistencies.

    Biases are 0 on the average of the raters; of each part by itself, if the votes fall into parts that share neither
    raters nor images.

    Example:
        >>> from aigciqa.stats.opinion.p910 import p910
        >>> from aigciqa.stats.opinion.votes import Votes
        >>> opinion = p910(Votes.of_matrix([[5, 4, 4], [4, 3, 3], [2, 1, 1], [3, 2, 2]]))
        >>> [round(float(score), 3) for score in opinion.score]
        [4.333, 3.333, 1.333, 2.333]
        >>> [round(float(bias), 3) for bias in opinion.bias]
        [0.667, -0.333, -0.333]

    Raises:
        InputError: no rater is left.
    """
    rejected = useless(votes)
    kept = without(votes, rejected)
    if not len(kept.score):
        raise InputError(
            "p910 takes raters who voted on two or more images, and not the same on ten or more, and there are none: "
            "take the method mean"
        )
    score, bias, inconsistency = _fit(kept)
    half = _half_width(kept, kept.score - score[kept.image] - bias[kept.rater], inconsistency)
    std = kept.with_scores(kept.score - bias[kept.rater]).image_std()
    return Opinion(score, std, score - half, score + half, kept.per_image, bias, inconsistency, tuple(rejected))


def _fit(votes: Votes) -> tuple[Array, Array, Array]:
    """Scores (m,), biases (r,) and inconsistencies (r,), by alternating projection."""
    score = votes.image_mean(votes.score)
    bias = votes.rater_mean(votes.score - score[votes.image])
    for _ in range(_ROUNDS):
        before = score
        inconsistency = _inconsistency(votes, votes.score - score[votes.image] - bias[votes.rater])
        weight = inconsistency[votes.rater] ** -2
        score = ratio(votes.image_sum(weight * (votes.score - bias[votes.rater])), votes.image_sum(weight))
        bias = votes.rater_mean(votes.score - score[votes.image])
        if np.nanmax(np.abs(score - before)) < _TOLERANCE:
            break
    level = _mean_bias(votes, bias)
    return score + level[0], bias - level[1], inconsistency


def _inconsistency(votes: Votes, residual: Array) -> Array:
    count = votes.per_rater
    squares = votes.rater_sum(residual**2)
    typical = np.median(np.sqrt(squares[count > 0] / count[count > 0]))
    missing = np.maximum(_ENOUGH - count, 0)
    inconsistency: Array = np.sqrt((squares + missing * typical**2) / (count + missing))
    floor = typical * np.sqrt(2 / max(2, np.median(votes.per_image[votes.per_image > 0])))
    return np.where(count > 0, np.maximum(inconsistency, max(floor, _TINY)), np.nan)


def _mean_bias(votes: Votes, bias: Array) -> tuple[Array, Array]:
    """The mean bias of the part that each image (m,) and each rater (r,) is of."""
    _, image, rater = votes.parts()
    voted = votes.per_rater > 0
    sums = np.bincount(rater[voted], bias[voted], max(image.max(), rater.max()) + 1)
    mean = ratio(sums, np.bincount(rater[voted], minlength=len(sums)))
    return mean[image], mean[rater]


def _half_width(votes: Votes, residual: Array, inconsistency: Array) -> Array:
    """Half the width of each score's 95% interval (m,); NaN if no vote is left over to tell the noise by."""
    from scipy.stats import t

    weight = inconsistency[votes.rater] ** -2
    parts, _, part = votes.parts()
    fitted = np.count_nonzero(votes.per_image) + np.count_nonzero(votes.per_rater) - parts
    freedom = len(weight) - fitted
    if freedom < 1:
        return np.full(votes.images, np.nan)
    if np.abs(residual).max() < _TINY:  # few votes, all as the model says, are no proof that all people's would be
        return unanimous(votes)
    total = votes.image_sum(weight)
    variance = ratio(1, total) + ratio(_bias_variance(votes, weight, part), total**2)
    return np.asarray(t.ppf(0.975, freedom) * np.sqrt(variance * np.sum(weight * residual**2) / freedom))


def _bias_variance(votes: Votes, weight: Array, part: Index) -> Array:
    """Variance (m,) of the weighted sum of the biases of each image's raters, in units of the noise."""
    from scipy.sparse import csr_array, diags_array

    own = votes.rater_sum(weight)
    if (votes.images + votes.raters) * votes.raters > _MOST_CELLS:
        return votes.image_sum(ratio(weight**2, own[votes.rater]))  # as if the scores were known
    table = csr_array((weight, (votes.image, votes.rater)), shape=(votes.images, votes.raters))
    shared = (table.T @ diags_array(np.nan_to_num(ratio(1, votes.image_sum(weight)))) @ table).toarray()
    information = np.diag(np.where(own > 0, own, 1)) - shared
    together = part[:, None] == part  # the biases of a part have the mean 0, which makes the information regular
    covariance = np.linalg.inv(information + together * own.mean())
    return np.asarray((table @ covariance * table.toarray()).sum(axis=1))
