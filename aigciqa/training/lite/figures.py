"""Values with their uncertainty: means, rank correlations and agreement, with 95% intervals by resampling units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figure:
    """A value and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def resampled(measure: Callable[[Array], float], units: int) -> Figure:
    """A measure of chosen units, with the interval of 1,000 choices with replacement.

    Args:
        measure: numbers of units (n,) -> value.
        units: how many there are.
    """
    rng = np.random.default_rng(0)
    draws = [measure(rng.integers(0, units, units).astype(np.float64)) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(draws, (2.5, 97.5))
    return Figure(measure(np.arange(units, dtype=np.float64)), float(low), float(high))


def mean_figure(values: Sequence[float] | Array) -> Figure:
    """The mean of one value per unit."""
    array = np.asarray(values, dtype=np.float64)
    return resampled(lambda chosen: float(array[chosen.astype(int)].mean()), len(array))


def spearman(first: Array, second: Array) -> Figure:
    """Spearman's rank correlation."""
    from scipy.stats import spearmanr

    def measure(chosen: Array) -> float:
        rows = chosen.astype(int)
        return float(spearmanr(first[rows], second[rows])[0])

    return resampled(measure, len(first))


def partial_spearman(first: Array, second: Array, given: Array) -> Figure:
    """Spearman's rank correlation of two, the ranks of a third held fixed."""
    from scipy.stats import rankdata

    def measure(chosen: Array) -> float:
        rows = chosen.astype(int)
        r = np.corrcoef([rankdata(values[rows]) for values in (first, second, given)])
        return float((r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)))

    return resampled(measure, len(first))
