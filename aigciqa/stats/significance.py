"""Is one metric better than another? Tests between two correlations that share a variable: MOS.

Both metrics score the same images, so their correlations with MOS are dependent. The tests take the images as
independent draws from a normal distribution: with several images of a prompt they are too sure, and the paired
bootstrap by groups (`evaluate`) is the one to trust.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from aigciqa.errors import InputError

MIN_SAMPLES = 4


@dataclass(frozen=True)
class Test:
    """A two-sided test's statistic and p value.

    Attributes:
        statistic: positive where the first correlation is larger.
        p: probability of one at least as extreme if the correlations were equal.
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
        ValueError: fewer than four images, or correlations no three variables can have.
    """
    from scipy.stats import t

    determinant = _check(first, second, between, n)
    if first == second:
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
    """
    from scipy.stats import norm

    _check(first, second, between, n)
    if first == second:
        return Test(0.0, 1.0)
    mean = (first + second) / 2
    psi = between * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - between**2) / 2
    covariance = psi / (1 - mean**2) ** 2
    if max(abs(first), abs(second)) >= 1 or covariance >= 1:
        return Test(math.copysign(math.inf, first - second), 0.0)
    statistic = (math.atanh(first) - math.atanh(second)) * math.sqrt((n - 3) / (2 - 2 * covariance))
    return Test(statistic, float(2 * norm.sf(abs(statistic))))


def _check(first: float, second: float, between: float, n: int) -> float:
    """The determinant of the correlation matrix; raises ValueError where there is no such matrix."""
    if n < MIN_SAMPLES:
        raise InputError(f"the test takes at least {MIN_SAMPLES} images; got {n}")
    if not all(abs(value) <= 1 for value in (first, second, between)):
        raise InputError(f"correlations are within [-1, 1]; got {first}, {second} and {between}")
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    if determinant < -1e-9:
        raise InputError(f"no three variables have the correlations {first}, {second} and {between}")
    return max(determinant, 0.0)
