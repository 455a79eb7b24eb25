"""Means with 95% intervals, per metric and group, of rows that stream by."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.means import ScoresByPrompt, mean_intervals, prompt_of
from aigciqa.tables.columns import percentile_columns
from aigciqa.tables.text import TextTable, with_interval

if TYPE_CHECKING:
    from aigciqa.metric import Metric


@dataclass
class _Group:
    """The rows of one metric and group, in a few bytes each: hashes of their prompts, and their scores."""

    failed: int = 0
    prompts: array[int] = field(default_factory=lambda: array("q"))
    scores: dict[str, array[float]] = field(default_factory=dict)

    def means(self, dimensions: Sequence[str]) -> list[Interval]:
        """The mean of each dimension."""
        if not self.prompts:
            return [Interval(math.nan, math.nan, math.nan)] * len(dimensions)
        prompts = np.array(self.prompts)
        return mean_intervals([ScoresByPrompt.of(self.scores[name], prompts) for name in dimensions])


class Summary:
    """Collects rows, of which it sums up the score columns that have `score_ranges`."""

    def __init__(self, score_ranges: Mapping[str, tuple[float, float]]) -> None:
        self.score_ranges = score_ranges
        self.dimensions = tuple(score_ranges)
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take rows as `tables.columns.to_row` makes them."""
        for row in rows:
            group = self._groups.setdefault((row["metric"], row["group"] or ""), _Group())
            if row["error"] is not None:
                group.failed += 1
                continue
            group.prompts.append(hash(prompt_of(row)))
            for name in self.dimensions:
                score = math.nan if row[name] is None else row[name]
                group.scores.setdefault(name, array("d")).append(score)

    @property
    def failed(self) -> int:
        """How many rows have an error."""
        return sum(group.failed for group in self._groups.values())

    @property
    def is_grouped(self) -> bool:
        """Whether any row has a group."""
        return any(group for _, group in self._groups)

    def lines(self) -> list[str]:
        """The scale, and an aligned table: metric, group, n, failed, and per dimension the mean with its 95% interval.

        The groups of a metric are sorted by their mean of the first dimension, the best first.
        """
        grouped = self.is_grouped
        header = ("metric", *(["group"] if grouped else []), "n", "failed", *(f"{d} (95% CI)" for d in self.dimensions))
        by_size = sorted(self._groups, key=lambda key: len(self._groups[key].prompts))  # equal sizes share resamples
        means = {key: self._groups[key].means(self.dimensions) for key in by_size}
        metrics = list(dict.fromkeys(metric for metric, _ in self._groups))

        def rank(key: tuple[str, str]) -> tuple[int, float]:
            mean = means[key][0].value
            return metrics.index(key[0]), math.inf if math.isnan(mean) else -mean

        rows = tuple(
            (
                metric, *([name or "-"] if grouped else []), str(len(self._groups[metric, name].prompts)),
                str(self._groups[metric, name].failed), *map(_cell, means[metric, name]),
            )
            for metric, name in sorted(self._groups, key=rank)
        )  # fmt: skip
        table = TextTable("Summary", header, rows, left=2 if grouped else 1).aligned()
        return [f"{self._scales()}, higher is better", *table.split("\n")]

    def _scales(self) -> str:
        """What range each dimension has: those with the same one together."""
        scales = list(dict.fromkeys(self.score_ranges.values()))
        named = {scale: [name for name in self.dimensions if self.score_ranges[name] == scale] for scale in scales}
        return "; ".join(f"{', '.join(names)}: {low:g} to {high:g}" for (low, high), names in named.items())


def percentile_lines(metrics: Iterable[Metric], dimensions: Iterable[str]) -> list[str]:
    """What the percentiles beside scores are percentiles of, a line for each metric."""
    columns = ", ".join(percentile_columns(dimensions))
    return [
        f"{columns} by {metric.name}: % of {metric.config.reference_set().label} that score lower" for metric in metrics
    ]


def _cell(mean: Interval) -> str:
    """A mean and its interval, in letters that every terminal has."""
    return "-" if math.isnan(mean.value) else with_interval(mean.value, mean.low, mean.high).replace("−", "-")
