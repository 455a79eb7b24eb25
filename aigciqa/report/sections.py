"""What the page says of groups: summaries, differences, histograms. Figures cover every row, whatever is shown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.report.collection import Collection, Column
from aigciqa.stats.groups import Difference, GroupSummary, Scores, differences, summaries

#: Groups that are listed; with more, the largest.
GROUP_LIMIT = 200
#: Groups that are compared pair by pair: the best of each column. A baseline is compared with all that are listed.
PAIRED_LIMIT = 12
#: Groups that charts show in a colour of their own: the largest. The others share one.
COLOURED_LIMIT = 7
BINS = 40

Members = Mapping[str, NDArray[np.intp]]


@dataclass(frozen=True)
class Line:
    """A group in a table.

    Attributes:
        summary: its figures.
        failed: its rows without a score.
        worst: index of the image with the lowest score; None without scores.
    """

    summary: GroupSummary
    failed: int
    worst: int | None


@dataclass(frozen=True)
class Panel:
    """One column of scores.

    Attributes:
        column: the scores.
        lines: by group, best mean first.
        total: all images.
        pairs: how groups differ.
        differences: (first, second) -> how they differ, both ways round.
        low: lowest score of all.
        high: highest score of all.
    """

    column: Column
    lines: list[Line]
    total: Line
    pairs: list[Difference]
    differences: dict[tuple[str, str], Difference]
    low: float
    high: float

    @property
    def paired(self) -> list[str]:
        """The groups that are compared, best first."""
        return list(dict.fromkeys(first for first, _ in self.differences))

    @property
    def is_cut(self) -> bool:
        """Whether more groups have scores than are compared."""
        return sum(line.summary.n > 0 for line in self.lines) > len(self.paired)


@dataclass(frozen=True)
class Histogram:
    """How the scores of a column are distributed.

    Attributes:
        edges: of the bins.
        counts: for each coloured group the images in each bin, then those of the other groups.
    """

    edges: list[float]
    counts: list[list[int]]


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
    collection: Collection, columns: Sequence[Column], members: Members, baseline: str | None = None
) -> list[Panel]:
    """What there is to say of each column; all groups are compared with the baseline, or the best with each other."""
    prompts = np.array([image.prompt for image in collection.images], dtype=object)
    matches = {group: _matches(collection, indices) for group, indices in members.items()}
    everything = np.arange(len(prompts))
    found = []
    for column in columns:
        failed = {group: collection.failed[column.metric, group] for group in members}
        all_failed = sum(count for (metric, _), count in collection.failed.items() if metric == column.metric)
        ordered = summaries({group: _by_prompt(column, prompts, indices) for group, indices in members.items()})
        (total,) = summaries({"": _by_prompt(column, prompts, everything)})
        scored = {
            each.name: Scores(column.values[members[each.name]], matches[each.name]) for each in ordered if each.n
        }
        pairs = _pairs(scored, baseline)
        found.append(
            Panel(
                column=column,
                lines=[Line(each, failed[each.name], _worst(column, members[each.name])) for each in ordered],
                total=Line(total, all_failed, _worst(column, everything)),
                pairs=pairs,
                differences=_both_ways(pairs),
                low=float(np.nanmin(column.values)),
                high=float(np.nanmax(column.values)),
            )
        )
    return found


def _by_prompt(column: Column, prompts: NDArray[Any], indices: NDArray[np.intp]) -> Scores:
    """The scores of some images, to be resampled by prompt."""
    return Scores(column.values[indices], tuple(prompts[indices]))


def _matches(collection: Collection, indices: NDArray[np.intp]) -> tuple[str, ...] | None:
    """What a group's images are matched by; None if it is unknown of one."""
    found = [collection.images[index].match for index in indices]
    known = tuple(match for match in found if match is not None)
    return known if len(known) == len(found) else None


def _pairs(scored: Mapping[str, Scores], baseline: str | None) -> list[Difference]:
    """The differences that are shown of groups, best mean first."""
    if baseline is None:
        return differences(dict(itertools.islice(scored.items(), PAIRED_LIMIT)))
    return differences(scored, baseline=baseline) if baseline in scored else []


def coloured(members: Members) -> list[str]:
    """The groups that charts tell apart, in order of appearance."""
    largest = sorted(members, key=lambda group: -len(members[group]))[:COLOURED_LIMIT]
    return [group for group in members if group in largest]


def histogram(column: Column, members: Members) -> Histogram:
    """The histogram of a column."""
    edges = np.histogram_bin_edges(column.values[np.isfinite(column.values)], BINS)
    counts = [np.histogram(column.values[members[group]], edges)[0] for group in coloured(members)]
    rest = np.histogram(column.values, edges)[0] - sum(counts)
    return Histogram(edges.round(6).tolist(), [each.tolist() for each in [*counts, rest]])


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
