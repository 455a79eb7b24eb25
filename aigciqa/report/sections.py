"""What the page says of groups: standings, differences, histograms. Figures cover every row, whatever is shown."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigciqa.report.collection import Collection, Column
from aigciqa.stats.groups import Difference, Scores, Standing, differences, standings

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
        standing: its figures.
        failed: its rows without a score.
        worst: place of the image with the lowest score; None without scores.
    """

    standing: Standing
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
        return sum(line.standing.n > 0 for line in self.lines) > len(self.paired)


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
    """Group -> places of its images, for the listed groups, in order of appearance."""
    sizes = collection.sizes()
    largest = {group for group, _ in sizes.most_common(GROUP_LIMIT)}
    places: dict[str, list[int]] = {group: [] for group in sizes if group in largest}
    for place, image in enumerate(collection.images):
        if image.group in places:
            places[image.group].append(place)
    return {group: np.array(listed, dtype=np.intp) for group, listed in places.items()}


def panels(
    collection: Collection, columns: Sequence[Column], members: Members, baseline: str | None = None
) -> list[Panel]:
    """What there is to say of each column; all groups are compared with the baseline, or the best with each other."""
    prompts = [image.prompt for image in collection.images]
    keys = {group: _keys(prompts, places) for group, places in members.items()}
    everything = np.arange(len(prompts))
    all_keys = _keys(prompts, everything)
    found = []
    for column in columns:
        groups = {group: Scores(column.values[places], keys[group]) for group, places in members.items()}
        ordered = standings(groups)
        failed = {group: collection.failed[column.metric, group] for group in members}
        all_failed = sum(count for (metric, _), count in collection.failed.items() if metric == column.metric)
        scored = {each.name: groups[each.name] for each in ordered if each.n}
        if baseline is None:
            pairs = differences(dict(itertools.islice(scored.items(), PAIRED_LIMIT)))
        else:
            pairs = differences(scored, baseline=baseline) if baseline in scored else []
        found.append(
            Panel(
                column=column,
                lines=[Line(each, failed[each.name], _worst(column, members[each.name])) for each in ordered],
                total=Line(standings({"": Scores(column.values, all_keys)})[0], all_failed, _worst(column, everything)),
                pairs=pairs,
                differences=_both_ways(pairs),
                low=float(np.nanmin(column.values)),
                high=float(np.nanmax(column.values)),
            )
        )
    return found


def coloured(members: Members) -> list[str]:
    """The groups that charts tell apart, in order of appearance."""
    largest = sorted(members, key=lambda group: -len(members[group]))[:COLOURED_LIMIT]
    return [group for group in members if group in largest]


def histogram(column: Column, members: Members) -> Histogram:
    """The histogram of a column."""
    values = column.values[np.isfinite(column.values)]
    edges = np.histogram_bin_edges(values, BINS)
    counts = [np.histogram(_finite(column.values[members[group]]), edges)[0] for group in coloured(members)]
    rest = np.histogram(values, edges)[0] - sum(counts)
    return Histogram(edges.round(6).tolist(), [each.tolist() for each in [*counts, rest]])


def _keys(prompts: Sequence[str | None], places: NDArray[np.intp]) -> tuple[str, ...] | None:
    """The prompts of a group; None if one is unknown."""
    found = [prompts[place] for place in places]
    known = tuple(key for key in found if key is not None)
    return known if len(known) == len(found) else None


def _worst(column: Column, places: NDArray[np.intp]) -> int | None:
    values = column.values[places]
    return int(places[np.nanargmin(values)]) if np.isfinite(values).any() else None


def _both_ways(found: Sequence[Difference]) -> dict[tuple[str, str], Difference]:
    turned = [
        Difference(
            each.second, each.first, each.n, each.matched, -each.difference, -each.high, -each.low,
            1 - each.win_rate, each.p_value, each.is_significant,
        )
        for each in found
    ]  # fmt: skip
    return {(each.first, each.second): each for each in [*found, *turned]}


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite
