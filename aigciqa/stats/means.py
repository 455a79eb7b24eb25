"""Means of scores and their 95% intervals, by resampling prompts.

Images of one prompt are not independent: an easy prompt is easy for every generator, and for each of its images. So a
resample draws prompts, each with all its images (cluster bootstrap; Davison and Hinkley 1997, 3.8).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Array, Interval

#: More prompts than this are dealt out to as many blocks, which are resampled in their stead: an interval's ends move
#: by 3% of its half width, less than from one seed to another, and any number of prompts takes the time of these.
_BLOCKS = 500


def prompt_of(row: Mapping[str, Any]) -> str:
    """The prompt of a table's row: its reference, else its cell `prompt`, else the image, which stands for itself."""
    return str(row["reference"] or row.get("prompt") or row["image"])


def mean_interval(scores: ArrayLike, prompts: Sequence[Any] | NDArray[Any] | None = None) -> Interval:
    """The mean of scores and its 95% interval, by the percentile bootstrap over prompts.

    The order of the scores does not matter. The ends are NaN for a single prompt; for fewer than ten, the interval is
    too narrow.

    Args:
        scores: (n,); what is not finite is left out.
        prompts: of each score; None: each score is of a prompt of its own.

    Example:
        >>> from aigciqa.stats.means import mean_interval
        >>> print(mean_interval([1.0, 1.5, 2.0, 4.0]))
        2.125 [1.250, 3.375]
        >>> print(mean_interval([1.0, 1.5, 2.0, 4.0], ["cat", "cat", "dog", "dog"]))
        2.125 [1.250, 3.000]
    """
    return mean_intervals([ScoresByPrompt.of(scores, prompts)])[0]


def mean_intervals(samples: Sequence[ScoresByPrompt]) -> list[Interval]:
    """The same of many samples, which share their resamples."""
    draws = resampled_means(samples)
    return [Interval(sample.mean, *bootstrap.percentiles(each)) for sample, each in zip(samples, draws, strict=True)]


@dataclass(frozen=True, eq=False)
class ScoresByPrompt:
    """Scores, added up by prompt."""

    values: Array  # (n,), finite
    sums: Array  # (m,), of each prompt's scores
    counts: Array  # (m,), how many it has
    prompts: NDArray[Any] | None = None  # (m,), sorted; None if each score is of a prompt of its own
    by_seed: ScoresByPrompt | None = None  # the same by (prompt, seed), if only the same seeds are compared

    @classmethod
    def of(cls, scores: ArrayLike, prompts: Sequence[Any] | NDArray[Any] | None = None) -> ScoresByPrompt:
        """Add up scores (n,), whose prompts are given or each its own; what is not finite is left out."""
        values = np.asarray(scores, dtype=np.float64)
        finite = np.isfinite(values)
        values = values[finite]
        if prompts is None:
            return cls(values, values, np.ones(len(values)))
        each = prompts if isinstance(prompts, np.ndarray) else np.array(prompts, dtype=object)
        distinct, index, counts = np.unique(each[finite], return_inverse=True, return_counts=True)
        sums = np.bincount(index, values, len(distinct)).astype(np.float64)
        return cls(values, sums, counts.astype(np.float64), distinct)

    @property
    def mean(self) -> float:
        """Of all scores; NaN if there are none."""
        return float(self.values.mean()) if len(self.values) else math.nan

    def squared_error(self) -> float:
        """Variance of the mean, from the residual sums of prompts (Liang and Zeger 1986); s² / n if each has one score.

        NaN for fewer than two prompts.
        """
        count = len(self.sums)
        if count < 2:
            return math.nan
        residuals = self.sums - self.counts * self.mean
        return float(count / (count - 1) * np.sum(residuals**2) / len(self.values) ** 2)


def resampled_means(samples: Sequence[ScoresByPrompt], seed: int = 0) -> list[Array]:
    """Means (1000,) of resamples of each sample's prompts; NaN for fewer than two prompts.

    They are drawn in the order of the scores, so that neither the rows' order nor a path's spelling matters.
    """
    ordered = [(each.sums, each.counts, np.lexsort((each.counts, each.sums))) for each in samples]
    return resampled_ratios([(sums[order], counts[order]) for sums, counts, order in ordered], seed)


def resampled_ratios(totals: Sequence[tuple[Array, Array]], seed: int = 0) -> list[Array]:
    """Sum of sums (m,) by sum of counts (m,) in resamples of the m, for each pair of them: (1000,), NaN for m < 2.

    Pairs of one size share their resamples, so that many pairs cost little more than one.
    """
    blocks = [_blocks(sums, counts, seed) for sums, counts in totals]
    ratios = [np.full(bootstrap.RESAMPLES, math.nan)] * len(blocks)
    by_size: dict[int, list[int]] = {}
    for index, (sums, _) in enumerate(blocks):
        by_size.setdefault(len(sums), []).append(index)
    for size, indices in by_size.items():
        if size > 1:
            weight = _weights(size, seed)
            sums, counts = (np.stack([blocks[index][each] for index in indices], axis=1) for each in (0, 1))
            for index, column in zip(indices, (weight @ sums / (weight @ counts)).T, strict=True):
                ratios[index] = column
    return ratios


def _blocks(sums: Array, counts: Array, seed: int) -> tuple[Array, Array]:
    """The sums and counts of prompts, dealt out to `_BLOCKS` blocks and added up if they are more."""
    if len(sums) <= _BLOCKS:
        return sums, counts
    block = np.random.default_rng(seed).permutation(len(sums)) % _BLOCKS
    return np.bincount(block, sums).astype(np.float64), np.bincount(block, counts).astype(np.float64)


@functools.lru_cache(maxsize=16)  # of at most 4 MB each
def _weights(count: int, seed: int) -> Array:
    return np.concatenate(list(bootstrap.weights(range(count), bootstrap.RESAMPLES, seed)))
