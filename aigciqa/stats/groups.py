"""Groups of scores against each other: means with intervals, differences, win rates, significance.

Prompts are what is resampled (`aigciqa.stats.means`), and where two groups have the same prompts, their difference is
that within prompts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Array, Interval
from aigciqa.stats.means import ScoresByPrompt, mean_intervals, resampled_means, resampled_ratios
from aigciqa.stats.significance import holm, paired_t_test, welch_test

SIGNIFICANCE = 0.05
#: Fewer prompts in common are no ground for a matched comparison.
MIN_MATCHED = 2
#: Relative difference of means that summing in another order can make.
_ROUNDING = 1e-12
#: Pairs of groups that are resampled at once: many thousands would take gigabytes.
_PAIRS = 200
#: Between a prompt and its seed, which has no such character.
_BETWEEN = "\0"
#: Of the resamples of the first group and of the second, which are independent.
_SEEDS = 0, 1

Pair = tuple[str, str]


def proving_prompts(pairs: int) -> int:
    """How many prompts it takes at least for one of so many pairs of groups to differ significantly."""
    return math.floor(math.log2(2 * pairs / SIGNIFICANCE)) + 1


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of one group.

    Attributes:
        values: (n,); what is not finite counts as not scored and is left out everywhere.
        keys: the prompt of each value; None if unknown, and each value then counts as a prompt of its own.
        seeds: the seed of each value, where only scores of the same prompt and seed are to be compared; their
            differences are averaged within prompts, since the seeds of one prompt are not independent.

    Raises:
        InputError: values that are not one-dimensional, or another number of keys or seeds.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.groups import Scores
        >>> len(Scores(np.array([3.5, 4.0]), keys=("a cat", "a dog")).values)
        2
    """

    values: NDArray[Any]
    keys: tuple[str, ...] | None = None
    seeds: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if np.ndim(self.values) != 1:
            raise InputError(f"scores are a one-dimensional array; got one of shape {np.shape(self.values)}")
        if self.keys is not None and len(self.keys) != len(self.values):
            raise InputError(f"{len(self.values)} scores but {len(self.keys)} keys: give each score its prompt")
        if self.seeds is not None and (self.keys is None or len(self.seeds) != len(self.values)):
            raise InputError(
                f"{len(self.values)} scores but {len(self.seeds)} seeds: give each its prompt and its seed"
            )


@dataclass(frozen=True)
class GroupSummary:
    """Summary statistics of one group. Figures are NaN where there is nothing to compute them from.

    Attributes:
        name: of the group.
        n: its scores.
        mean: of the scores.
        low: lower end of the mean's 95% interval (percentile bootstrap, Efron 1979; 1,000 resamples of the prompts).
            NaN for a single prompt. Of fewer than ten prompts the interval is too narrow.
        high: its upper end.
        median: of the scores.
        worst: the lowest score.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.groups import Scores, summaries
        >>> summaries({"sd": Scores(np.array([3.0, 3.5, 4.0]))})[0].mean
        3.5
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
    """The difference of two groups' means, with its test. Figures are NaN where a group has no scores.

    Attributes:
        first: name of a group.
        second: name of the group it is compared with.
        n: prompts in common if matched, else the prompts of the group that has fewer.
        matched: whether the scores are compared prompt by prompt.
        difference: mean of first less mean of second, over the prompts in common if matched.
        low: lower end of its 95% interval, of this difference by itself, as for `GroupSummary`.
        high: its upper end.
        win_rate: share of prompts where first scores higher, ties half; if not matched, the probability that a score
            of first is higher than one of second (Mann and Whitney 1947).
        p_value: two-sided, of no difference in the means: Student's t test of the prompts' differences if matched, else
            Welch's (1947) with a variance between prompts; never below what complete separation of so few prompts
            would come out at by chance. Corrected for all pairs tested (Holm 1979). 1 where a group has a single
            prompt: such a pair is not tested.
        is_significant: whether it is below 5%.
        pairs: pairs of prompt and seed in common, where these are matched; else None.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.groups import Scores, differences
        >>> prompts = tuple("abcdefgh")
        >>> one, other = np.arange(8.0), np.arange(8.0) + 1 + 0.1 * (np.arange(8) % 2)
        >>> (found,) = differences({"sd": Scores(one, prompts), "mj": Scores(other, prompts)})
        >>> found.first, round(found.difference, 2), found.matched, found.is_significant
        ('sd', -1.05, True, True)
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
    pairs: int | None = None

    def turned(self) -> Difference:
        """The difference of the second from the first."""
        return replace(
            self, first=self.second, second=self.first,
            difference=-self.difference, low=-self.high, high=-self.low, win_rate=1 - self.win_rate,
        )  # fmt: skip


@dataclass(frozen=True)
class NonInferiority:
    """How far the mean of a group lies above a share of the baseline's. Figures are NaN where there are no scores.

    This is the comparison of a non-inferiority test whose margin is a share of the baseline's mean.
    """

    name: str
    n: int  # prompts compared, as for `Difference`
    matched: bool  # prompt by prompt
    mean: float  # over the prompts in common if matched
    baseline_mean: float  # over the same
    margin: float  # the mean less that share of the baseline's
    low: float  # of the margin's 95% interval
    high: float


def summaries(groups: Mapping[str, Scores]) -> list[GroupSummary]:
    """Summary statistics of each group, best mean first, those without scores last.

    The other groups don't change a group's figures.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.groups import Scores, summaries
        >>> old, new = Scores(np.array([1.0, 2.0, 3.0])), Scores(np.array([2.0, 4.0, 3.0]))
        >>> [(each.name, each.mean) for each in summaries({"old": old, "new": new})]
        [('new', 3.0), ('old', 2.0)]
    """
    samples = _by_prompt(groups)
    means = mean_intervals(list(samples.values()))
    found = [_summary(*each) for each in zip(groups, samples.values(), means, strict=True)]
    return sorted(found, key=lambda each: (math.isnan(each.mean), -each.mean))


def differences(groups: Mapping[str, Scores], *, baseline: str | None = None) -> list[Difference]:
    """The differences between the means of groups.

    Args:
        groups: name -> scores, higher is better.
        baseline: compare every other group with this one; if None, all pairs, in the order of `groups`.

    Raises:
        InputError: the baseline is no group.

    Example:
        >>> import numpy as np
        >>> from aigciqa.stats.groups import Scores, differences
        >>> prompts = ("cat", "dog", "boat")
        >>> old, new = Scores(np.array([1.0, 2.0, 3.0]), prompts), Scores(np.array([2.0, 4.0, 3.0]), prompts)
        >>> (found,) = differences({"new": new, "old": old})
        >>> found.difference, found.n, found.is_significant
        (1.0, 3, False)
    """
    if baseline is not None and baseline not in groups:
        raise InputError(f"the baseline {baseline!r} is none of the groups: {', '.join(groups)}")
    samples = _by_prompt(groups)
    if baseline is None:
        pairs = list(itertools.combinations(samples, 2))
    else:
        pairs = [(name, baseline) for name in samples if name != baseline]
    parts = [pairs[start : start + _PAIRS] for start in range(0, len(pairs), _PAIRS)]
    found = [each for part in parts for each in _uncorrected(samples, part)]
    p_values = holm([each.p_value if each.n > 1 else math.nan for each in found])
    return [
        replace(each, p_value=p_value, is_significant=p_value < SIGNIFICANCE) if each.n > 1 else each
        for each, p_value in zip(found, p_values, strict=True)
    ]


def non_inferiority(groups: Mapping[str, Scores], baseline: str, share: float) -> list[NonInferiority]:
    """How far each group but the baseline lies above `share` of the baseline; errors as for `differences`."""
    shared = {
        name: replace(scores, values=np.asarray(scores.values) * share) if name == baseline else scores
        for name, scores in groups.items()
    }
    samples = _by_prompt(groups)
    found = []
    for each in differences(shared, baseline=baseline):
        mean, baseline_mean = _compared_means(samples[each.first], samples[baseline])
        margin = 0.0 if math.isclose(mean, share * baseline_mean, rel_tol=_ROUNDING) else each.difference
        found.append(NonInferiority(each.first, each.n, each.matched, mean, baseline_mean, margin, each.low, each.high))
    return found


def _by_prompt(groups: Mapping[str, Scores]) -> dict[str, ScoresByPrompt]:
    return {name: _sample(scores) for name, scores in groups.items()}


def _sample(scores: Scores) -> ScoresByPrompt:
    sample = ScoresByPrompt.of(scores.values, scores.keys)
    if scores.seeds is None:
        return sample
    both = [f"{key}{_BETWEEN}{seed}" for key, seed in zip(scores.keys or (), scores.seeds, strict=True)]
    return replace(sample, by_seed=ScoresByPrompt.of(scores.values, both))


def _summary(name: str, sample: ScoresByPrompt, mean: Interval) -> GroupSummary:
    values = sample.values
    median, worst = (float(np.median(values)), float(values.min())) if len(values) else (math.nan, math.nan)
    return GroupSummary(name, len(values), mean.value, mean.low, mean.high, median, worst)


def _compared_means(first: ScoresByPrompt, second: ScoresByPrompt) -> tuple[float, float]:
    """The means of two groups, over the prompts in common if they can be matched."""
    matched = _matched_means(first, second)
    return (first.mean, second.mean) if matched is None else (float(matched.first.mean()), float(matched.second.mean()))


class _Matched(NamedTuple):
    """The means (m,) of the prompts that two groups have in common, over common seeds where these are matched."""

    first: Array
    second: Array
    pairs: int | None  # of prompt and seed


def _matched_means(first: ScoresByPrompt, second: ScoresByPrompt) -> _Matched | None:
    """What two groups have in common; None if that are too few prompts."""
    if first.by_seed is not None and second.by_seed is not None:
        return _means_over_seeds(first.by_seed, second.by_seed)
    common = _common_means(first, second)
    return None if common is None or len(common[0]) < MIN_MATCHED else _Matched(*common[1:], None)


def _means_over_seeds(first: ScoresByPrompt, second: ScoresByPrompt) -> _Matched | None:
    common = _common_means(first, second)
    if common is None:
        return None
    keys, *means = common
    prompts, index, counts = np.unique(
        np.array([key.rpartition(_BETWEEN)[0] for key in keys], dtype=object), return_inverse=True, return_counts=True
    )
    if len(prompts) < MIN_MATCHED:
        return None
    one, other = (np.bincount(index, each, len(prompts)) / counts for each in means)
    return _Matched(one, other, len(keys))


def _common_means(first: ScoresByPrompt, second: ScoresByPrompt) -> tuple[NDArray[Any], Array, Array] | None:
    """The keys (m,) that both have, and the means of their scores."""
    if first.prompts is None or second.prompts is None:
        return None
    common, mine, theirs = np.intersect1d(first.prompts, second.prompts, assume_unique=True, return_indices=True)
    return common, first.sums[mine] / first.counts[mine], second.sums[theirs] / second.counts[theirs]


def _uncorrected(samples: Mapping[str, ScoresByPrompt], pairs: Sequence[Pair]) -> list[Difference]:
    """The differences of pairs of groups, each as if it were the only one."""
    matched = {pair: _matched_means(samples[pair[0]], samples[pair[1]]) for pair in pairs}
    inside = {pair: _differences_within(means) for pair, means in matched.items() if means is not None}
    totals = {pair: (values, np.ones(len(values))) for pair, values in inside.items()}
    draws = dict(zip(totals, resampled_ratios(list(totals.values())), strict=True))
    draws |= _independent_draws(samples, [pair for pair in pairs if pair not in totals])
    found = [_difference(pair, samples, inside.get(pair), draws[pair]) for pair in pairs]
    return [
        replace(each, pairs=means.pairs) if means else each for each, means in zip(found, matched.values(), strict=True)
    ]


def _differences_within(means: _Matched) -> Array:
    """The differences (m,) within the prompts that both groups have."""
    first, second, _ = means
    return np.where(np.isclose(first, second, rtol=_ROUNDING, atol=0), 0.0, first - second)


def _independent_draws(samples: Mapping[str, ScoresByPrompt], pairs: Sequence[Pair]) -> dict[Pair, Array]:
    """Differences (1000,) of means of groups that are resampled independently."""
    draws = []
    for side, seed in enumerate(_SEEDS):
        names = dict.fromkeys(pair[side] for pair in pairs)
        draws.append(dict(zip(names, resampled_means([samples[name] for name in names], seed), strict=True)))
    return {(first, second): draws[0][first] - draws[1][second] for first, second in pairs}


def _difference(pair: Pair, samples: Mapping[str, ScoresByPrompt], inside: Array | None, draws: Array) -> Difference:
    """How two groups differ: within prompts if they are matched, else as independent samples."""
    low, high = bootstrap.percentiles(draws)
    if inside is not None:
        wins = float(np.mean(inside > 0) + np.mean(inside == 0) / 2)
        p_value = paired_t_test(inside)
        return Difference(*pair, len(inside), True, float(inside.mean()), low, high, wins, p_value, False)
    first, second = (samples[name] for name in pair)
    sizes = len(first.sums), len(second.sums)
    difference = 0.0 if math.isclose(first.mean, second.mean, rel_tol=_ROUNDING) else first.mean - second.mean
    wins = _superiority(first.values, second.values)
    p_value = welch_test(difference, (first.squared_error(), second.squared_error()), sizes)
    return Difference(*pair, min(sizes), False, difference, low, high, wins, p_value, False)


def _superiority(first: Array, second: Array) -> float:
    """Probability that one of first is higher than one of second, ties half."""
    if not len(first) or not len(second):
        return math.nan
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.mean() / 2 / len(second))
