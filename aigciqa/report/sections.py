"""What the page says of groups: summaries and differences. Figures cover every row, whatever is shown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aigciqa.report.collection import PEOPLE, Collection, Column
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import srcc_interval
from aigciqa.stats.groups import Difference, GroupSummary, Scores, differences, summaries

#: Groups that are listed; with more, the largest.
GROUP_LIMIT = 200
#: Groups that are compared pair by pair: the best of each column. A baseline is compared with all that are listed.
PAIRED_LIMIT = 12
#: Images that people have rated; of fewer, a correlation says nothing.
MIN_RATED = 10

Members = Mapping[str, NDArray[np.intp]]


@dataclass(frozen=True)
class Line:
    """A group in a table."""

    summary: GroupSummary
    failed: int  # rows without a score
    worst: int | None  # index of the image with the lowest score; None without scores


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

    @property
    def paired(self) -> list[str]:
        """The groups that are compared, best first."""
        return list(dict.fromkeys(first for first, _ in self.differences))

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
    matches: Sequence[str | None],
    baseline: str | None = None,
) -> list[Panel]:
    """What there is to say of each column; all groups are compared with the baseline, or the best with each other."""
    prompts = np.array([image.prompt for image in collection.images], dtype=object)
    by_group = {group: _known(matches, indices) for group, indices in members.items()}
    found = []
    for column in columns:
        values, failed = column.values, collection.failed
        by_prompt = {group: Scores(values[indices], tuple(prompts[indices])) for group, indices in members.items()}
        lines = [
            Line(each, failed[column.metric, each.name], _worst(column, members[each.name]))
            for each in summaries(by_prompt)
        ]
        (whole,) = summaries({"": Scores(values, tuple(prompts))})
        all_failed = sum(count for (metric, _), count in failed.items() if metric == column.metric)
        total = Line(whole, all_failed, _worst(column, np.arange(len(values))))
        scored = [line.summary.name for line in lines if line.summary.n]
        pairs = _pairs({group: Scores(values[members[group]], by_group[group]) for group in scored}, baseline)
        extent = float(np.nanmin(values)), float(np.nanmax(values))
        found.append(Panel(column, lines, total, pairs, _both_ways(pairs), *extent))
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


def _worst(column: Column, indices: NDArray[np.intp]) -> int | None:
    values = column.values[indices]
    return int(indices[np.nanargmin(values)]) if np.isfinite(values).any() else None


def _both_ways(found: Sequence[Difference]) -> dict[tuple[str, str], Difference]:
    turned = [
        replace(
            each, first=each.second, second=each.first,
            difference=-each.difference, low=-each.high, high=-each.low, win_rate=1 - each.win_rate,
        )
        for each in found
    ]  # fmt: skip
    return {(each.first, each.second): each for each in [*found, *turned]}
