"""Strengths from paired comparisons with ties: Davidson's extension (1970) of the model of Bradley and Terry (1952)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from aigciqa.stats.bootstrap import Array
from aigciqa.stats.opinion.votes import Index

_TOLERANCE = 1e-10
_ROUNDS = 200
#: Newton's steps are no longer, in logarithms.
_LONGEST = 2.0
#: The result of a tie.
TIE = 0.5


@dataclass(frozen=True, eq=False)
class Choices:
    """Comparisons of m things, two at a time.

    Attributes:
        first: (n,), the number of each comparison's first thing.
        second: (n,), of its second, another one.
        result: (n,), 1 where the first was chosen, 0 where the second, 0.5 for a tie.
        count: (n,), how many comparisons came out so.
        things: m.
    """

    first: Index
    second: Index
    result: Array
    count: Array
    things: int


@dataclass(frozen=True, eq=False)
class Strengths:
    """What `bradley_terry` finds.

    Attributes:
        strength: (m,), natural logarithms: a thing is exp(a - b) times as often chosen over another as the reverse. Of
            things that are compared, directly or through others, the mean is 0; NaN without a comparison.
        low, high: (m,), ends of their 95% intervals.
        error: (m,), standard errors.
        votes: (m,), how many comparisons each was in.
        ties: the logarithm of Davidson's parameter: between equals, a tie is exp(ties) times as frequent as that the
            first is chosen. Minus infinity without ties.
        part: (m,), the number of the part: things in two parts were never compared, not through others either.
        bounded: whether the likelihood has a maximum. If not, some choices went one way only, and each thing got half a
            win and half a loss against an average one.
    """

    strength: Array
    low: Array
    high: Array
    error: Array
    votes: Index
    ties: float
    part: Index
    bounded: bool


def bradley_terry(choices: Choices, clusters: Index | None = None) -> Strengths:
    """Strengths of things by maximum likelihood.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.opinion.bradley_terry import Choices, bradley_terry
        >>> pair = np.array([0, 0]), np.array([1, 1]), np.array([1.0, 0.0]), np.array([30.0, 10.0])
        >>> found = bradley_terry(Choices(*pair, things=2))
        >>> print(f"{found.strength[0] - found.strength[1]:.3f} = log 3")
        1.099 = log 3

    Args:
        choices: the comparisons.
        clusters: (n,), such as the scene of each comparison: things may differ from scene to scene, and then
            comparisons are no independent draws. Errors are by clusters (Liang and Zeger 1986), with Student's t, and
            no smaller than those of the likelihood, as chance has them where clusters are few; None: those of the
            likelihood, with the normal distribution (Wald).
    """
    from scipy.stats import norm, t

    part = parts(choices)
    is_tie = choices.result == TIE
    bounded = _is_bounded(choices)
    fitted = choices if bounded else _with_average(choices)
    theta, information = _maximum(fitted, bool(is_tie.any()))
    covariances = [np.linalg.inv(information)]
    quantile = norm.ppf(0.975)
    clustered = 0 if clusters is None else len(np.unique(clusters))
    if clusters is not None and clustered > 1:
        apart, tied = _residuals(choices, theta, bool(is_tie.any()))
        slopes = np.zeros((clusters.max() + 1, len(theta)))
        np.add.at(slopes, (clusters, choices.first), apart)
        np.add.at(slopes, (clusters, choices.second), -apart)
        slopes[:, -1] = np.bincount(clusters, tied, len(slopes))
        by_cluster = covariances[0] @ (slopes.T @ slopes) @ covariances[0] * clustered / (clustered - 1)
        covariances.append(by_cluster)
        quantile = t.ppf(0.975, clustered - 1)
    same = part[:, None] == part
    centred = np.eye(choices.things) - same / same.sum(axis=1)
    things = slice(choices.things)
    strength = centred @ theta[things]
    variances = [np.diag(centred @ each[things, things] @ centred.T) for each in covariances]
    error = np.sqrt(np.max(variances, axis=0).clip(0))
    votes = _per_thing(choices)
    strength[votes == 0] = error[votes == 0] = np.nan
    ties = float(theta[-1]) if is_tie.any() else -math.inf
    return Strengths(
        strength, strength - quantile * error, strength + quantile * error, error, votes, ties, part, bounded
    )


def parts(choices: Choices, connection: str = "weak") -> Index:
    """The part that each thing (m,) is in: things that comparisons connect or, if strong, choices both ways."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    won, lost = choices.result > 0, choices.result < 1
    chosen = np.concatenate([choices.first[won], choices.second[lost]])
    other = np.concatenate([choices.second[won], choices.first[lost]])
    graph = coo_array((np.ones(len(chosen)), (chosen, other)), shape=(choices.things, choices.things))
    return np.asarray(connected_components(graph, connection=connection)[1], dtype=np.intp)


def _is_bounded(choices: Choices) -> bool:
    """Whether the likelihood has a maximum."""
    from scipy.sparse.csgraph import NegativeCycleError, bellman_ford

    is_tie, won = choices.result == TIE, choices.result > TIE
    if is_tie.all() or parts(choices, "strong").max() > parts(choices).max():
        return False
    if not is_tie.any():
        return True
    # If strengths exist whose difference is 1 or more in each choice, and 1 or less in each tie, ever greater ones
    # become ever more likely, with as much more ties. They don't exist where a circle has more choices than ties.
    first, second, m = choices.first, choices.second, choices.things
    length = np.zeros((m + 1, m + 1))
    length[m, :m] = 1  # from here all are reached
    length[first[is_tie], second[is_tie]] = length[second[is_tie], first[is_tie]] = 1
    length[first[won], second[won]] = length[second[~won & ~is_tie], first[~won & ~is_tie]] = -1
    try:
        bellman_ford(length, indices=m)
    except NegativeCycleError:
        return True
    return False


def _with_average(choices: Choices) -> Choices:
    """The comparisons, and for each thing half a win and half a loss against another one, which is the last."""
    things = np.arange(choices.things)
    return Choices(
        np.concatenate([choices.first, things, things]),
        np.concatenate([choices.second, np.full(2 * len(things), choices.things)]),
        np.concatenate([choices.result, np.ones(len(things)), np.zeros(len(things))]),
        np.concatenate([choices.count, np.full(2 * len(things), 0.5)]),
        choices.things + 1,
    )


def _maximum(choices: Choices, ties: bool) -> tuple[Array, Array]:
    """By Newton's method: strengths and the parameter of ties (m + 1,), and their information (m + 1, m + 1).

    The mean strength of a part is not determined; the information has it known, so that it can be inverted.
    """
    m, part = choices.things, parts(choices)
    fixed = np.zeros((m + 1, m + 1))
    fixed[:m, :m] = part[:, None] == part
    fixed[m, m] = 0.0 if ties else 1.0
    theta = np.zeros(m + 1)
    for _ in range(_ROUNDS):
        apart, tied = _residuals(choices, theta, ties)
        information = fixed + _information(choices, theta, ties)
        step = np.linalg.solve(information, np.append(_difference(choices, apart), tied.sum()))
        theta = theta + step * min(1, _LONGEST / max(np.abs(step).max(), _TOLERANCE))
        if np.abs(step).max() < _TOLERANCE:
            break
    return theta, information


def _residuals(choices: Choices, theta: Array, ties: bool) -> tuple[Array, Array]:
    """How much more often than expected (n,) the first was chosen, ties counting half, and a tie was said."""
    win, tie = _chances(choices, theta, ties)
    return choices.count * (choices.result - win - tie / 2), choices.count * ((choices.result == TIE) - tie)


def _information(choices: Choices, theta: Array, ties: bool) -> Array:
    """The expected information (m + 1, m + 1) on strengths and the parameter of ties."""
    m = choices.things
    win, tie = _chances(choices, theta, ties)
    share = win + tie / 2
    variance = choices.count * (win + tie / 4 - share**2)
    information = np.zeros((m + 1, m + 1))
    for one, other, sign in (
        (choices.first, choices.first, 1), (choices.second, choices.second, 1),
        (choices.first, choices.second, -1), (choices.second, choices.first, -1),
    ):  # fmt: skip
        np.add.at(information, (one, other), sign * variance)
    information[m, :m] = information[:m, m] = _difference(choices, choices.count * tie * (0.5 - share))
    information[m, m] = np.sum(choices.count * tie * (1 - tie))
    return information


def _difference(choices: Choices, values: Array) -> Array:
    """Sum of values (n,) over the choices where a thing is the first, less that where it is the second (m,)."""
    sums = (np.bincount(side, values, choices.things) for side in (choices.first, choices.second))
    return np.subtract(*sums)


def _chances(choices: Choices, theta: Array, ties: bool) -> tuple[Array, Array]:
    """The probabilities (n,) that the first is chosen, and of a tie."""
    half = (theta[choices.first] - theta[choices.second]) / 2
    tie = np.exp(theta[-1]) if ties else 0.0
    total = np.exp(half) + np.exp(-half) + tie
    return np.exp(half) / total, tie / total


def _per_thing(choices: Choices) -> Index:
    counts = sum(np.bincount(side, choices.count, choices.things) for side in (choices.first, choices.second))
    return np.rint(counts).astype(np.intp)
