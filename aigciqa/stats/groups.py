"""Groups of scores against each other: means with intervals, differences, win rates, significance.

Images of one prompt are not independent: an easy prompt is easy for every generator, and for each of its images.
So prompts are what is resampled, and where two groups have the same prompts, their difference is that within prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.stats import bootstrap

Array = NDArray[np.float64]

SIGNIFICANCE = 0.05
#: Fewer prompts in common are no ground for a matched comparison.
MIN_MATCHED = 2
#: Fewer can't differ significantly: all on one side, five come out at 2 / 2**5 > 5%.
MIN_PROVING = 6
#: More prompts than this are dealt out to as many blocks, which are resampled in their stead: an interval's ends move
#: by 3% of its half width, less than from one seed to another, and any number of prompts takes the time of these.
_BLOCKS = 500
#: From here on Student's t is taken for normal: its 95% point is 1.962, the normal's 1.960.
_NORMAL_FREEDOM = 1000
#: Relative difference of means that summing in another order can make.
_ROUNDING = 1e-12
#: Pairs of groups that are resampled at a time: many thousands would take gigabytes.
_PAIRS = 200
_SEED, _SECOND_SEED = 0, 1


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one group.

    Attributes:
        values: (n,); what is not finite counts as not scored and is left out everywhere.
        keys: the prompt of each value; None if unknown, and each value then counts as a prompt of its own.

    Raises:
        ValueError: values that are not one-dimensional, or another number of keys.
    """

    values: NDArray[Any]
    keys: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 1:
            raise InputError(f"scores are a one-dimensional array; got one of shape {np.shape(self.values)}")
        if self.keys is not None and len(self.keys) != len(self.values):
            raise InputError(f"{len(self.values)} scores but {len(self.keys)} keys: give each score its prompt")


@dataclass(frozen=True)
class Standing:
    """How one group stands. Figures are NaN where there is nothing to compute them from.

    Attributes:
        name: of the group.
        n: its scores.
        mean: of the scores.
        low: lower end of the mean's 95% interval (percentile bootstrap, Efron 1979; 1,000 resamples of the prompts).
            NaN for a single prompt. Of fewer than ten prompts the interval is too narrow.
        high: its upper end.
        median: of the scores.
        worst: the lowest score.
    """

    name: str
    n: int
    mean: float
    low: float
    high: float
    median: float
    worst: float


@dataclass(frozen=True)
class Difference:
    """How two groups differ. Figures are NaN where a group has no scores.

    Attributes:
        first: name of a group.
        second: name of the group it is compared with.
        n: prompts in common if matched, else the prompts of the group that has fewer.
        matched: whether the scores are compared prompt by prompt.
        difference: mean of first less mean of second, over the prompts in common if matched.
        low: lower end of its 95% interval, of this difference by itself, as for `Standing`.
        high: its upper end.
        win_rate: share of prompts where first scores higher, ties half; if not matched, the probability that a score
            of first is higher than one of second (Mann and Whitney 1947).
        p_value: two-sided, of no difference in the means: Student's t test of the prompts' differences if matched, else
            Welch's (1947) with a variance between prompts; never below what complete separation of so few prompts
            would come out at by chance (`_separation`). Corrected for all pairs compared (Holm 1979). 1 where a
            group has a single prompt.
        is_significant: whether it is below 5%.
    """

    first: str
    second: str
    n: int
    matched: bool
    difference: float
    low: float
    high: float
    win_rate: float
    p_value: float
    is_significant: bool


def standings(groups: Mapping[str, Scores]) -> list[Standing]:
    """How each group stands, best mean first, those without scores last. The other groups don't change its figures."""
    samples = {name: _Sample.of(scores) for name, scores in groups.items()}
    draws = _mean_draws(list(samples.values()), _SEED)
    found = [_standing(name, sample, each) for (name, sample), each in zip(samples.items(), draws, strict=True)]
    return sorted(found, key=lambda each: (math.isnan(each.mean), -each.mean))


def differences(groups: Mapping[str, Scores], *, baseline: str | None = None) -> list[Difference]:
    """How groups differ.

    Args:
        groups: name -> scores, higher is better.
        baseline: compare every other group with this one; if None, all pairs, in the order of `groups`.

    Raises:
        ValueError: the baseline is no group.
    """
    if baseline is not None and baseline not in groups:
        raise InputError(f"the baseline {baseline!r} is none of the groups: {', '.join(groups)}")
    samples = {name: _Sample.of(scores) for name, scores in groups.items()}
    if baseline is None:
        pairs = list(itertools.combinations(samples, 2))
    else:
        pairs = [(name, baseline) for name in samples if name != baseline]
    slices = [pairs[start : start + _PAIRS] for start in range(0, len(pairs), _PAIRS)]
    return _corrected([each for part in slices for each in _uncorrected(samples, part)])


@dataclass(frozen=True)
class Margin:
    """How far the mean of a group lies above a share of the baseline's. Figures are NaN where there are no scores.

    Attributes:
        name: of the group.
        n: prompts compared, as for `Difference`.
        matched: whether prompt by prompt.
        mean: of the group, over the prompts in common if matched.
        baseline_mean: of the baseline, over the same.
        margin: the mean less that share of the baseline's.
        low: lower end of its 95% interval, as for `Standing`.
        high: its upper end.
    """

    name: str
    n: int
    matched: bool
    mean: float
    baseline_mean: float
    margin: float
    low: float
    high: float


def margins(groups: Mapping[str, Scores], baseline: str, share: float) -> list[Margin]:
    """How far each group but the baseline lies above `share` of the baseline.

    Raises:
        ValueError: the baseline is no group.
    """
    shared = {
        name: Scores(np.asarray(scores.values) * share, scores.keys) if name == baseline else scores
        for name, scores in groups.items()
    }
    found = []
    for each in differences(shared, baseline=baseline):
        first, second = _Sample.of(groups[each.first]), _Sample.of(groups[baseline])
        common = _common(first, second)
        mean, baseline_mean = (first.mean, second.mean) if common is None else map(float, map(np.mean, common))
        margin = 0.0 if math.isclose(mean, share * baseline_mean, rel_tol=_ROUNDING) else each.difference
        found.append(Margin(each.first, each.n, each.matched, mean, baseline_mean, margin, each.low, each.high))
    return found


@dataclass(frozen=True, eq=False)
class _Sample:
    """Scores by prompt, prompts in order of their keys.

    Attributes:
        values: (n,), finite.
        sums: (m,), of each prompt's scores.
        counts: (m,), how many it has.
        keys: (m,), the prompts; None if unknown.
    """

    values: Array
    sums: Array
    counts: Array
    keys: NDArray[np.object_] | None = None

    @classmethod
    def of(cls, scores: Scores) -> _Sample:
        values = np.asarray(scores.values, dtype=np.float64)
        finite = np.isfinite(values)
        values = values[finite]
        if scores.keys is None:
            return cls(values, values, np.ones(len(values)))
        keys, index, counts = np.unique(
            np.array(scores.keys, dtype=object)[finite], return_inverse=True, return_counts=True
        )
        return cls(values, np.bincount(index, values, len(keys)).astype(np.float64), counts.astype(np.float64), keys)

    @property
    def mean(self) -> float:
        return float(self.values.mean()) if len(self.values) else math.nan

    def squared_error(self) -> float:
        """Variance of the mean, from the residual sums of prompts (Liang and Zeger 1986); s² / n if each has one score.

        NaN for fewer than two prompts.
        """
        prompts = len(self.sums)
        if prompts < 2:
            return math.nan
        residuals = self.sums - self.counts * self.mean
        return float(prompts / (prompts - 1) * np.sum(residuals**2) / len(self.values) ** 2)


def _uncorrected(samples: Mapping[str, _Sample], pairs: Sequence[tuple[str, str]]) -> list[Difference]:
    """How pairs of groups differ, each as if it were the only one."""
    matches = {pair: _match(samples[pair[0]], samples[pair[1]]) for pair in pairs}
    matched = {pair: match for pair, match in matches.items() if match is not None}
    unmatched = [pair for pair in pairs if pair not in matched]
    draws = dict(zip(matched, _mean_draws(list(matched.values()), _SEED), strict=True))
    draws |= _independent_draws(samples, unmatched)
    return [
        _matched_difference(pair, matched[pair], draws[pair])
        if pair in matched
        else _unmatched_difference(pair, samples[pair[0]], samples[pair[1]], draws[pair])
        for pair in pairs
    ]


def _match(first: _Sample, second: _Sample) -> _Sample | None:
    """The differences of the prompts that both have; None if they can't be matched."""
    common = _common(first, second)
    if common is None:
        return None
    values = np.where(np.isclose(*common, rtol=_ROUNDING, atol=0), 0.0, common[0] - common[1])
    return _Sample(values, values, np.ones(len(values)))


def _common(first: _Sample, second: _Sample) -> tuple[Array, Array] | None:
    """The means (m,) of the prompts that both have; None if they are too few."""
    if first.keys is None or second.keys is None:
        return None
    keys, mine, theirs = np.intersect1d(first.keys, second.keys, assume_unique=True, return_indices=True)
    if len(keys) < MIN_MATCHED:
        return None
    return first.sums[mine] / first.counts[mine], second.sums[theirs] / second.counts[theirs]


def _mean_draws(samples: Sequence[_Sample], seed: int) -> list[Array]:
    """Means (r,) of resamples of each sample's prompts. Samples of as many prompts share the drawing."""
    found = [np.full(bootstrap.RESAMPLES, math.nan) for _ in samples]
    blocks = [(_blocks(sample.sums), _blocks(sample.counts)) for sample in samples]
    by_size: dict[int, list[int]] = {}
    for index, (sums, _) in enumerate(blocks):
        by_size.setdefault(len(sums), []).append(index)
    for size, indices in by_size.items():
        if size < 2:
            continue
        sums = np.stack([blocks[index][0] for index in indices], axis=1)
        counts = np.stack([blocks[index][1] for index in indices], axis=1)
        parts = bootstrap.weights(range(size), bootstrap.RESAMPLES, seed)
        means = np.concatenate([part @ sums / (part @ counts) for part in parts])
        for column, index in enumerate(indices):
            found[index] = means[:, column]
    return found


def _blocks(amounts: Array) -> Array:
    """The amounts (m,) of prompts, dealt out to `_BLOCKS` blocks and added up if they are more."""
    if len(amounts) <= _BLOCKS:
        return amounts
    return np.bincount(np.arange(len(amounts)) % _BLOCKS, amounts).astype(np.float64)


def _independent_draws(
    samples: Mapping[str, _Sample], pairs: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Array]:
    """Differences (r,) of means of groups that are resampled independently."""
    minuends, subtrahends = dict.fromkeys(pair[0] for pair in pairs), dict.fromkeys(pair[1] for pair in pairs)
    first = dict(zip(minuends, _mean_draws([samples[name] for name in minuends], _SEED), strict=True))
    second = dict(zip(subtrahends, _mean_draws([samples[name] for name in subtrahends], _SECOND_SEED), strict=True))
    return {pair: first[pair[0]] - second[pair[1]] for pair in pairs}


def _standing(name: str, sample: _Sample, draws: Array) -> Standing:
    values = sample.values
    if not len(values):
        return Standing(name, 0, *[math.nan] * 5)
    low, high = bootstrap.percentiles(draws)
    return Standing(name, len(values), sample.mean, low, high, float(np.median(values)), float(values.min()))


def _matched_difference(pair: tuple[str, str], prompts: _Sample, draws: Array) -> Difference:
    freedom = len(prompts.values) - 1
    return Difference(
        *pair,
        len(prompts.values),
        True,
        prompts.mean,
        *bootstrap.percentiles(draws),
        win_rate=float(np.mean(prompts.values > 0) + np.mean(prompts.values == 0) / 2),
        p_value=max(_p_value(prompts.mean, prompts.squared_error(), freedom), 2.0**-freedom),
        is_significant=False,
    )


def _unmatched_difference(pair: tuple[str, str], first: _Sample, second: _Sample, draws: Array) -> Difference:
    difference = 0.0 if math.isclose(first.mean, second.mean, rel_tol=_ROUNDING) else first.mean - second.mean
    return Difference(
        *pair,
        min(len(first.sums), len(second.sums)),
        False,
        difference,
        *bootstrap.percentiles(draws),
        win_rate=_superiority(first.values, second.values),
        p_value=_welch(difference, first, second),
        is_significant=False,
    )


def _superiority(first: Array, second: Array) -> float:
    """Probability that one of first is higher than one of second, ties half."""
    if not len(first) or not len(second):
        return math.nan
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.mean() / 2 / len(second))


def _welch(difference: float, first: _Sample, second: _Sample) -> float:
    """Two-sided p value of Welch's test, with Satterthwaite's degrees of freedom rounded down."""
    if math.isnan(difference):
        return math.nan
    sizes = len(first.sums), len(second.sums)
    if min(sizes) < 2:
        return 1.0
    errors = first.squared_error(), second.squared_error()
    total = sum(errors)
    shares = sum(error**2 / (size - 1) for error, size in zip(errors, sizes, strict=True))
    freedom = int(total**2 / shares) if shares else sum(sizes) - 2
    return max(_p_value(difference, total, max(freedom, 1)), _separation(*sizes))


def _separation(first: int, second: int) -> float:
    """Probability, if labels were dealt out at random, that all of one group's prompts lie above all of the other's.

    Of either group's, that is: 2 of `comb(first + second, first)` ways, at most 1.
    """
    ways = math.lgamma(first + second + 1) - math.lgamma(first + 1) - math.lgamma(second + 1)
    return min(1.0, 2 * math.exp(-ways))


def _p_value(difference: float, squared_error: float, freedom: int) -> float:
    """Two-sided p value of a difference with Student's t distribution."""
    if difference == 0:
        return 1.0
    return _student(abs(difference) / math.sqrt(squared_error) if squared_error else math.inf, freedom)


def _student(t: float, freedom: int) -> float:
    """Probability that |T| exceeds t >= 0: the finite series of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4."""
    if freedom >= _NORMAL_FREEDOM:
        return math.erfc(t / math.sqrt(2))
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    terms = freedom // 2
    steps = np.arange(1, terms)
    series = float(np.cumprod((2 * steps - 1 + odd) / (2 * steps + odd) * math.cos(angle) ** 2).sum())
    series = math.sin(angle) * (1 + series) if terms else 0.0
    inside = 2 / math.pi * (angle + math.cos(angle) * series) if odd else series
    return max(0.0, 1 - inside)


def _corrected(found: Sequence[Difference]) -> list[Difference]:
    """The differences with p values corrected for their number by Holm's step-down procedure (Holm 1979)."""
    tested = sorted((each.p_value, index) for index, each in enumerate(found) if not math.isnan(each.p_value))
    corrected = list(found)
    p_value = 0.0
    for rank, (raw, index) in enumerate(tested):
        p_value = max(p_value, min(1.0, raw * (len(tested) - rank)))
        corrected[index] = replace(found[index], p_value=p_value, is_significant=p_value < SIGNIFICANCE)
    return corrected
