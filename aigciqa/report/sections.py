"""What the page says of groups: summaries and differences. Figures cover every row, whatever is shown."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigciqa.report.collection import PEOPLE, Collection, Column
from aigciqa.report.prompts import Matches
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import srcc_interval
from aigciqa.stats.groups import Difference, GroupSummary, Scores, differences, summaries

#: Groups that are listed; with more, the largest.
GROUP_LIMIT = 200
#: Groups that are compared pair by pair: the best of each column. A baseline is compared with all that are listed.
PAIRED_LIMIT = 12
#: Images that people have rated; of fewer, a correlation says nothing.
MIN_RATED = 10

#: Percentiles that a row of the distribution draws: the ends of its line, of its box, and the median between them.
PERCENTILES = (5, 25, 50, 75, 95)
#: At most so many steps between the lowest and the highest score of an axis.
_STEPS = 7

Members = Mapping[str, NDArray[np.intp]]


@dataclass(frozen=True)
class Line:
    """A group in a table."""

    summary: GroupSummary
    failed: int  # rows without a score
    worst: int | None  # index of the image with the lowest score; None without scores
    percentiles: tuple[float, ...]  # PERCENTILES of the scores; empty without scores


@dataclass(frozen=True)
class Axis:
    """Where scores lie on a line from one value to another."""

    low: float
    high: float
    ticks: list[float]

    @classmethod
    def over(cls, low: float, high: float) -> Axis:
        """An axis over all scores, with a little room at its ends, and ticks at round numbers."""
        room = 0.02 * (high - low) or 0.5
        low, high = low - room, high + room
        rough = (high - low) / _STEPS
        power = 10 ** math.floor(math.log10(rough))
        step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough)
        numbers = range(math.ceil(low / step), math.floor(high / step) + 1)
        return cls(low, high, [number * step for number in numbers])

    def share(self, value: float) -> float:
        """Where a value lies, in percent of the axis' length."""
        return 100 * (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Agreement:
    """How a column of scores ranks the images that people have rated."""

    column: Column
    n: int  # images with both
    srcc: Interval | None  # with people's ratings; None of fewer than MIN_RATED images


@dataclass(frozen=True)
class Panel:
    """One column of scores."""

    column: Column
    lines: list[Line]  # by group, best mean first
    total: Line  # all images
    pairs: list[Difference]
    differences: dict[tuple[str, str], Difference]  # of first and second, both ways round
    low: float  # lowest score of all
    high: float
    axis: Axis

    @property
    def paired(self) -> list[str]:
        """The groups that are compared, best first."""
        return list(dict.fromkeys(first for first, _ in self.differences))

    @property
    def best(self) -> str | None:
        """The group that is significantly better than each of the others that are compared; mostly there is none."""
        for name in self.paired:
            leads = [each for (first, _), each in self.differences.items() if first == name]
            if all(lead.is_significant and lead.difference > 0 for lead in leads):
                return name
        return None

    @property
    def is_beyond_scale(self) -> bool:
        """Whether scores are lower or higher than the scale says, as a linear head's can be."""
        scale = self.column.score_range
        return scale is not None and (self.low < scale[0] or self.high > scale[1])

    @property
    def is_cut(self) -> bool:
        """Whether more groups have scores than are compared."""
        return sum(line.summary.n > 0 for line in self.lines) > len(self.paired)


def members_of(collection: Collection) -> dict[str, NDArray[np.intp]]:
    """Group -> indices of its images, for the listed groups, in order of appearance."""
    sizes = collection.sizes()
    largest = {group for group, _ in sizes.most_common(GROUP_LIMIT)}
    members: dict[str, list[int]] = {group: [] for group in sizes if group in largest}
    for index, image in enumerate(collection.images):
        if image.group in members:
            members[image.group].append(index)
    return {group: np.array(indices, dtype=np.intp) for group, indices in members.items()}


def panels(
    collection: Collection,
    columns: Sequence[Column],
    members: Members,
    matches: Matches,
    baseline: str | None = None,
) -> list[Panel]:
    """What there is to say of each column; all groups are compared with the baseline, or the best with each other."""
    prompts = np.array([image.prompt for image in collection.images], dtype=object)
    keys, seeds = ({group: _known(each, indices) for group, indices in members.items()} for each in matches)
    found = []
    for column in columns:
        values, failed = column.values, collection.failed
        by_prompt = {group: Scores(values[indices], tuple(prompts[indices])) for group, indices in members.items()}
        lines = [
            _line(each, failed[column.metric, each.name], column, members[each.name]) for each in summaries(by_prompt)
        ]
        (whole,) = summaries({"": Scores(values, tuple(prompts))})
        all_failed = sum(count for (metric, _), count in failed.items() if metric == column.metric)
        total = _line(whole, all_failed, column, np.arange(len(values)))
        scored = [line.summary.name for line in lines if line.summary.n]
        pairs = _pairs({group: Scores(values[members[group]], keys[group], seeds[group]) for group in scored}, baseline)
        extent = float(np.nanmin(values)), float(np.nanmax(values))
        found.append(Panel(column, lines, total, pairs, _both_ways(pairs), *extent, Axis.over(*extent)))
    return found


def agreements(collection: Collection, columns: Sequence[Column]) -> list[Agreement]:
    """Of each column of scores whose dimension people have rated, the agreement with them; prompts are resampled."""
    rated = {column.dimension: column.values for column in columns if column.metric == PEOPLE}
    found = []
    for column in columns:
        if column.metric == PEOPLE or column.dimension not in rated:
            continue
        ratings = rated[column.dimension]
        both = np.flatnonzero(np.isfinite(column.values) & np.isfinite(ratings))
        prompts = [collection.images[index].prompt for index in both]
        srcc = srcc_interval(column.values[both], ratings[both], prompts) if len(both) >= MIN_RATED else None
        found.append(Agreement(column, len(both), srcc))
    return found


def _known(matches: Sequence[str | None], indices: NDArray[np.intp]) -> tuple[str, ...] | None:
    """What a group's images are matched by; None if it is unknown of one."""
    known = tuple(match for index in indices if (match := matches[index]) is not None)
    return known if len(known) == len(indices) else None


def _pairs(scored: Mapping[str, Scores], baseline: str | None) -> list[Difference]:
    """The differences that are shown of groups, best mean first."""
    if baseline is None:
        return differences(dict(itertools.islice(scored.items(), PAIRED_LIMIT)))
    return differences(scored, baseline=baseline) if baseline in scored else []


def _line(summary: GroupSummary, failed: int, column: Column, indices: NDArray[np.intp]) -> Line:
    values = column.values[indices]
    if not summary.n:
        return Line(summary, failed, None, ())
    percentiles = np.nanpercentile(values, PERCENTILES)
    return Line(summary, failed, int(indices[np.nanargmin(values)]), tuple(percentiles.tolist()))


def _both_ways(found: Sequence[Difference]) -> dict[tuple[str, str], Difference]:
    return {(each.first, each.second): each for each in [*found, *(each.turned() for each in found)]}
