"""Intervals by resampling, all resamples at once: a resample is a row of weights, and each figure a sum over them.

A resample that takes sample i w times is the weight w of i. Pearson's correlation is then a few matrix products;
Spearman's is Pearson's of ranks, which are cumulative sums of weights along the sorted values; Kendall's is a quadratic
form in the matrix of signs. Each equals SciPy's figure of the drawn samples to rounding (tests/test_evaluation.py).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
#: Weights held at once, and cells of the matrix of signs; more samples are resampled in more parts.
_PART = 2_000_000


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its 95% interval; NaN where there is none.

    Example:
        >>> from aigciqa.evaluation import Interval
        >>> print(Interval(0.8125, 0.75, 0.861))
        0.812 [0.750, 0.861]
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(
    statistic: Callable[[Array], Array], groups: Sequence[Hashable], resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """A statistic of samples and its 95% interval, by the percentile bootstrap (Efron 1979).

    The ends are NaN for a single group, and without resamples.

    Args:
        statistic: weights (r, n) of the samples -> values (r,).
        groups, resamples, seed: as for `weights`.
    """
    value = float(statistic(np.ones((1, len(groups))))[0])
    if not resamples or len(set(groups)) < 2:
        return Interval(value, float("nan"), float("nan"))
    draws = [statistic(weight) for weight in weights(groups, resamples, seed)]
    return Interval(value, *percentiles(np.concatenate(draws)))


def weights(groups: Sequence[Hashable], resamples: int, seed: int) -> Iterator[Array]:
    """Weights (r, n) of resamples with replacement, in parts that add up to `resamples` rows.

    A resample draws as many groups of the n samples as there are, each with all its samples.
    """
    numbers: dict[Hashable, int] = {}
    index = np.array([numbers.setdefault(group, len(numbers)) for group in groups])
    count = len(numbers)
    rng = np.random.default_rng(seed)
    part = max(1, _PART // len(groups))
    for start in range(0, resamples, part):
        draws = rng.multinomial(count, np.full(count, 1 / count), size=min(part, resamples - start))
        yield draws[:, index].astype(np.float64)


def pearson(weight: Array, x: Array, y: Array) -> Array:
    """Pearson's correlation of x and y, (n,) or (r, n), under weights (r, n): (r,), NaN where one is constant."""
    total = weight.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        dx = x - np.sum(weight * x, axis=1, keepdims=True) / total
        dy = y - np.sum(weight * y, axis=1, keepdims=True) / total
        covariance = np.einsum("rn,rn,rn->r", weight, dx, dy)
        spread = np.einsum("rn,rn,rn->r", weight, dx, dx) * np.einsum("rn,rn,rn->r", weight, dy, dy)
        value: Array = covariance / np.sqrt(spread)
    return np.where(_varies(weight, x) & _varies(weight, y), value, np.nan)


def spearman(weight: Array, x: Array, y: Array) -> Array:
    """Spearman's correlation of x and y (n,) under weights (r, n): (r,), NaN where one is constant."""
    return pearson(weight, _ranks(weight, x), _ranks(weight, y))


def kendall(weight: Array, x: Array, y: Array) -> Array:
    """Kendall's tau-b of x and y (n,) under weights (r, n): (r,), NaN where one is constant."""
    concordance = np.zeros(len(weight))
    light = weight.astype(np.float32)  # sums of whole numbers, exact below 2 ** 24 samples
    part = max(1, _PART // len(x))
    for start in range(0, len(x), part):
        rows = slice(start, start + part)
        signs = (np.sign(x[rows, None] - x) * np.sign(y[rows, None] - y)).astype(np.float32)
        concordance += np.einsum("rn,rn->r", (light @ signs.T).astype(np.float64), weight[:, rows])
    with np.errstate(invalid="ignore", divide="ignore"):
        value: Array = concordance / np.sqrt(_untied(weight, x) * _untied(weight, y))
    return value


def spread(weight: Array, y: Array) -> Array:
    """Standard deviation (division by n) of y (n,) under weights (r, n): (r,)."""
    total = weight.sum(axis=1)
    mean = weight @ y / total
    value: Array = np.sqrt(np.einsum("rn,rn->r", weight, (y - mean[:, None]) ** 2) / total)
    return value


def percentiles(draws: Array) -> tuple[float, float]:
    """The 95% interval of a figure's resamples (percentile method); NaN where none could be computed."""
    if not np.isfinite(draws).any():
        return float("nan"), float("nan")
    low, high = np.nanpercentile(draws, PERCENTILES)
    return float(low), float(high)


def _by_value(weight: Array, x: Array) -> tuple[Array, NDArray[np.intp]]:
    """Weights (r, u) of the u distinct values, ascending, and the value's number of each sample (n,)."""
    _, number, sizes = np.unique(x, return_inverse=True, return_counts=True)
    return np.add.reduceat(weight[:, np.argsort(number)], np.cumsum(sizes) - sizes, axis=1), number


def _ranks(weight: Array, x: Array) -> Array:
    """Ranks (r, n) of x (n,) among the drawn samples, ties sharing their mean; meaningless where the weight is 0."""
    counts, number = _by_value(weight, x)
    ranks: Array = (np.cumsum(counts, axis=1) - (counts - 1) / 2)[:, number]
    return ranks


def _untied(weight: Array, x: Array) -> Array:
    """Twice the number of drawn pairs that differ in x: (r,)."""
    counts, _ = _by_value(weight, x)
    pairs: Array = weight.sum(axis=1) ** 2 - np.einsum("ru,ru->r", counts, counts)
    return pairs


def _varies(weight: Array, x: Array) -> NDArray[np.bool_]:
    """Whether the drawn samples differ in x, exactly: rounding would hide it from a sum of squares. (r,)."""
    drawn = weight > 0
    varies: NDArray[np.bool_] = np.where(drawn, x, -np.inf).max(axis=1) > np.where(drawn, x, np.inf).min(axis=1)
    return varies
