"""Scores that are means of votes: plain, of screened raters (ITU-R BT.500, ITU-T P.913), and of z scores.

Intervals are Student's t of an image's own votes, and no narrower than a doubt where these are equal, as they were cast
or as they count.
"""

from __future__ import annotations

import numpy as np

from aigciqa.errors import InputError
from aigciqa.stats.bootstrap import Array
from aigciqa.stats.opinion.votes import Opinion, Votes, ratio, unanimous, useless, without

#: BT.500-15, annex 1, 2.3.1: of a rater's votes, the share that may be far from the others'; and how one-sided those
#: may be before they are a bias, which is no reason for rejection.
_FAR_SHARE, _ONE_SIDED = 0.05, 0.3
#: Between these kurtosis values votes count as normal, and beyond 2 standard deviations as far; else beyond sqrt(20).
_NORMAL = 2, 4
_FAR_NORMAL, _FAR_OTHER = 2.0, 20**0.5
_ROUNDING = 1e-9


def mean(votes: Votes) -> Opinion:
    """The mean of all votes.

    Example:
        >>> from aigciqa.stats.opinion.classical import mean
        >>> from aigciqa.stats.opinion.votes import Votes
        >>> opinion = mean(Votes.of_matrix([[5, 4, 3], [1, 2, 3]]))
        >>> print([f"{each:.2f}" for each in (opinion.score[0], opinion.low[0], opinion.high[0])])
        ['4.00', '1.52', '6.48']
    """
    return _summary(votes, votes, [""] * votes.raters)


def bt500(votes: Votes) -> Opinion:
    """The mean of the raters who pass the screening of ITU-R BT.500-15, annex 1, 2.3.1.

    A rater is rejected if more than 5% of the votes that the rater cast are far from the image's mean, and as many
    above as below it. Images whose votes are all equal say nothing of anybody.
    """
    rejected = _screened(votes, [""] * votes.raters)
    return _summary(votes, without(votes, rejected), rejected)


def p913(votes: Votes) -> Opinion:
    """The mean of votes without biases, of raters who then pass the screening (ITU-T P.913, 12.4, and BT.500).

    A rater's bias is the mean difference from the means of the images that the rater saw.
    """
    rejected = useless(votes)
    kept = _left(votes, rejected, "p913")
    bias, _ = _behaviour(kept)
    unbiased = kept.with_scores(kept.score - bias[kept.rater])
    rejected = _screened(unbiased, rejected)
    return _summary(votes, without(unbiased, rejected), rejected)


def zscore(votes: Votes) -> Opinion:
    """The mean of each rater's votes in standard deviations from that rater's mean, on the scale of the votes.

    Right only where all raters saw the same images, or as good ones: whoever saw better ones loses the difference. A z
    score of 0 is the mean of all votes, and one of 1 a standard deviation (root mean square over raters) above it.
    """
    rejected = useless(votes)
    constant = votes.rater_std() == 0
    rejected = [
        reason or ("one value in all votes" if same else "") for reason, same in zip(rejected, constant, strict=True)
    ]
    kept = _left(votes, rejected, "zscore")
    own, rater = kept.rater_std(), kept.rater
    z = (kept.score - kept.rater_mean(kept.score)[rater]) / own[rater]
    unit = np.sqrt(np.nanmean(own**2))
    return _summary(votes, kept.with_scores(kept.score.mean() + unit * z), rejected)


def _left(votes: Votes, rejected: list[str], method: str) -> Votes:
    kept = without(votes, rejected)
    if not len(kept.score):
        raise InputError(
            f"{method} takes raters who gave two or more images different votes, and there are none: take the method "
            "mean"
        )
    return kept


def _screened(votes: Votes, rejected: list[str]) -> list[str]:
    """Why each rater is rejected (r,): as given, or by the screening; if nobody were left, it rejects nobody."""
    mean_of, std = votes.image_mean(votes.score), votes.image_std()
    off = votes.score - mean_of[votes.image]
    second, fourth = (votes.image_mean(off**power) for power in (2, 4))
    kurtosis = ratio(fourth, second**2)
    normal = (kurtosis >= _NORMAL[0]) & (kurtosis <= _NORMAL[1])
    limit = (np.where(normal, _FAR_NORMAL, _FAR_OTHER) * std)[votes.image]
    limit = np.where(limit > 0, limit * (1 - _ROUNDING), np.inf)
    above, below = (votes.rater_sum((side * off >= limit).astype(np.float64)) for side in (1, -1))
    far = above + below
    share = ratio(far, votes.per_rater)
    failed = (share > _FAR_SHARE) & (ratio(np.abs(above - below), far) < _ONE_SIDED)
    found = [
        reason or (f"{share[rater]:.0%} of the votes far from the others', on both sides" if failed[rater] else "")
        for rater, reason in enumerate(rejected)
    ]
    return found if not all(found) else rejected


def _summary(votes: Votes, counted: Votes, rejected: list[str]) -> Opinion:
    """Means of the votes that count, and how each rater behaves in all votes as they were cast."""
    from scipy.stats import t

    count, cast = counted.per_image, without(votes, rejected)
    score, std = counted.image_mean(counted.score), counted.image_std()
    half = t.ppf(0.975, np.maximum(count - 1, 1)) * ratio(std, np.sqrt(count))
    differ = np.minimum(std, cast.image_std()) > _ROUNDING
    half = np.where(differ, half, np.maximum(half, unanimous(cast)))
    half[count < 2] = np.nan
    bias, inconsistency = _behaviour(votes)
    return Opinion(score, std, score - half, score + half, count, bias, inconsistency, tuple(rejected))


def _behaviour(votes: Votes) -> tuple[Array, Array]:
    """Bias and inconsistency (r,): mean and standard deviation of the differences from the images' means."""
    off = votes.with_scores(votes.score - votes.image_mean(votes.score)[votes.image])
    return off.rater_mean(off.score), off.rater_std()
