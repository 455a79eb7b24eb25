"""Significance tests between two correlations, and between two means.

`williams` and `steiger` ask whether one metric is better than another. Both metrics score the same images, so their
correlations with MOS are dependent. The tests take the images as independent draws from a normal distribution: with
several images of a prompt they are too sure, and the paired bootstrap by groups (`evaluate`) is the one to trust.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError

MIN_SAMPLES = 4
#: Correlations that are nearer differ by rounding only.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Test:
    """A two-sided test's statistic and p value.

    Attributes:
        statistic: positive where the first correlation is larger.
        p: probability of one at least as extreme if the correlations were equal.

    Example:
        >>> from aigciqa.stats.significance import williams
        >>> test = williams(0.8, 0.6, between=0.7, n=100)
        >>> test.p < 0.01
        True
    """

    __test__ = False  # not one of pytest's

    statistic: float
    p: float


def williams(first: float, second: float, between: float, n: int) -> Test:
    """Williams' t test (Williams 1959, J. R. Stat. Soc. B 21:396; as recommended by Steiger 1980, eq. 7).

    Args:
        first: correlation of the first metric with MOS.
        second: correlation of the second metric with MOS.
        between: correlation of the two metrics.
        n: images; n - 3 degrees of freedom.

    Raises:
        InputError: fewer than four images, or correlations no three variables can have.

    Example:
        >>> from aigciqa.evaluation import williams
        >>> test = williams(0.85, 0.80, between=0.90, n=100)
        >>> f"t = {test.statistic:.2f}, p = {test.p:.3f}"
        't = 2.11, p = 0.038'
    """
    from scipy.stats import t

    determinant = _check(first, second, between, n)
    if abs(first - second) < _ROUNDING:
        return Test(0.0, 1.0)
    mean = (first + second) / 2
    scale = 2 * (n - 1) / (n - 3) * determinant + mean**2 * (1 - between) ** 3
    if scale <= 0:
        return Test(math.copysign(math.inf, first - second), 0.0)
    statistic = (first - second) * math.sqrt((n - 1) * (1 + between) / scale)
    return Test(statistic, float(2 * t.sf(abs(statistic), n - 3)))


def steiger(first: float, second: float, between: float, n: int) -> Test:
    """Steiger's Z test: Dunn and Clark's with a pooled covariance (Steiger 1980, Psychol. Bull. 87:245, eq. 14).

    Arguments and errors as for `williams`.

    Example:
        >>> from aigciqa.evaluation import steiger
        >>> test = steiger(0.85, 0.80, between=0.90, n=100)
        >>> f"Z = {test.statistic:.2f}, p = {test.p:.3f}"
        'Z = 2.07, p = 0.038'
    """
    from scipy.stats import norm

    _check(first, second, between, n)
    if abs(first - second) < _ROUNDING:
        return Test(0.0, 1.0)
    mean = (first + second) / 2
    psi = between * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - between**2) / 2
    covariance = psi / (1 - mean**2) ** 2
    if max(abs(first), abs(second)) >= 1 or covariance >= 1:
        return Test(math.copysign(math.inf, first - second), 0.0)
    statistic = (math.atanh(first) - math.atanh(second)) * math.sqrt((n - 3) / (2 - 2 * covariance))
    return Test(statistic, float(2 * norm.sf(abs(statistic))))


def _check(first: float, second: float, between: float, n: int) -> float:
    """The determinant of the correlation matrix; raises InputError where there is no such matrix."""
    if n < MIN_SAMPLES:
        raise InputError(f"the test takes at least {MIN_SAMPLES} images; got {n}")
    if not all(abs(value) <= 1 for value in (first, second, between)):
        raise InputError(f"correlations are within [-1, 1]; got {first}, {second} and {between}")
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    if determinant < -1e-9:
        raise InputError(f"no three variables have the correlations {first}, {second} and {between}")
    return max(determinant, 0.0)


def paired_t_test(differences: NDArray[np.float64]) -> float:
    """Two-sided p value of Student's t test that the mean of differences (n,), n >= 2, is 0.

    It is never below what n differences of one sign would come out at by chance: 2 / 2**n.
    """
    freedom = len(differences) - 1
    squared_error = float(differences.var(ddof=1)) / len(differences)
    return max(_t_test(float(differences.mean()), squared_error, freedom), 2.0**-freedom)


def welch_test(difference: float, squared_errors: tuple[float, float], sizes: tuple[int, int]) -> float:
    """Two-sided p value of Welch's t test (Welch 1947), with Satterthwaite's degrees of freedom.

    It is never below what complete separation of the two samples would come out at by chance, if their labels were
    dealt out at random: 2 of `comb(sum(sizes), sizes[0])` ways. A sample of one gives 1, a difference of NaN gives NaN.
    The squared errors are the variances of the two means.
    """
    if math.isnan(difference):
        return math.nan
    if min(sizes) < 2:
        return 1.0
    total = sum(squared_errors)
    shares = sum(error**2 / (size - 1) for error, size in zip(squared_errors, sizes, strict=True))
    freedom = total**2 / shares if shares else sum(sizes) - 2
    ways = math.lgamma(sum(sizes) + 1) - sum(math.lgamma(size + 1) for size in sizes)
    return max(_t_test(difference, total, freedom), min(1.0, 2 * math.exp(-ways)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for their number by Holm's step-down procedure (Holm 1979); NaN is left out."""
    tested = sorted((p_value, index) for index, p_value in enumerate(p_values) if not math.isnan(p_value))
    corrected = list(p_values)
    largest = 0.0
    for rank, (p_value, index) in enumerate(tested):
        largest = max(largest, min(1.0, p_value * (len(tested) - rank)))
        corrected[index] = largest
    return corrected


def _t_test(difference: float, squared_error: float, freedom: float) -> float:
    """Two-sided p value of a difference with a standard error, by Student's t distribution."""
    from scipy.special import stdtr

    if difference == 0:
        return 1.0
    t = abs(difference) / math.sqrt(squared_error) if squared_error else math.inf
    return float(2 * stdtr(freedom, -t))
