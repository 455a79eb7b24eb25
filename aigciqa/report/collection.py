"""Rows of scores, gathered image by image."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aigciqa.registry import known_metric
from aigciqa.stats.means import prompt_of
from aigciqa.tables.columns import finite, scores_of, uncertainty_columns
from aigciqa.tables.provenance import MetricFacts

#: Failures that are kept with their reason; the others are counted.
FAILURE_LIMIT = 1000
#: Longest side of a map that is kept; larger ones are averaged down.
MAP_SIDE = 32
LEVELS = 255
#: What the report calls people's ratings, where it calls others by their metric.
PEOPLE = "people"


class Image(NamedTuple):
    """An image of the report."""

    path: str
    reference: str | None  # its path
    group: str  # empty if there is none
    prompt: str  # by which it is resampled
    text: str | None  # of its prompt
    match: str | None  # as `Report.add` was given it
    seed: str | None
    model: str | None


class Failure(NamedTuple):
    """A row without scores, and why."""

    path: str
    group: str
    metric: str
    reason: str


@dataclass(frozen=True)
class Column:
    """One dimension by one metric."""

    metric: str
    dimension: str
    values: NDArray[np.float64]  # (images,), NaN where an image has no such score
    deviations: NDArray[np.float64]  # (images,), of the scores; NaN where none is known
    score_range: tuple[float, float] | None  # lowest and highest; None if unknown

    @property
    def label(self) -> str:
        """What the page calls it."""
        return f"{self.metric} · {self.dimension}"


@dataclass(frozen=True, slots=True)
class SmallMap:
    """A quality map in 8 bits."""

    shape: tuple[int, int]  # (h, w)
    levels: bytes  # uint8, row by row; 0 is `low`, 255 is `high`
    low: float
    high: float

    @classmethod
    def of(cls, quality_map: NDArray[Any]) -> SmallMap:
        """A map (h, w) of scores."""
        small = _averaged(_averaged(np.asarray(quality_map, dtype=np.float64)).T).T
        low, high = float(small.min()), float(small.max())
        share = (small - low) / (high - low) if high > low else np.zeros_like(small)
        return cls((small.shape[0], small.shape[1]), np.rint(share * LEVELS).astype(np.uint8).tobytes(), low, high)

    def scores(self) -> NDArray[np.float64]:
        """The map (h, w), to the nearest level."""
        levels = np.frombuffer(self.levels, dtype=np.uint8).reshape(self.shape)
        return self.low + levels.astype(np.float64) * ((self.high - self.low) / LEVELS)


class Collection:
    """What a report shows, gathered while rows come, in less than a kilobyte for an image with its map."""

    def __init__(self, columns: Sequence[str], metrics: Mapping[str, MetricFacts]) -> None:
        self.uncertainty = uncertainty_columns(columns)
        self.dimensions = tuple(name for name in scores_of(columns) if name not in self.uncertainty.values())
        self.images: list[Image] = []
        self.failures: list[Failure] = []
        self.failed: Counter[tuple[str, str]] = Counter()  # by metric and group
        self.maps: dict[tuple[int, str], SmallMap] = {}
        self._metrics = metrics
        self._values: dict[tuple[str, str], array[float]] = {}  # by metric and column
        self._scored: set[tuple[int, str]] = set()  # index of an image, and metric
        self._indices: dict[Image, int] = {}
        self._texts: dict[str, str] = {}

    def add(self, row: Mapping[str, Any], quality_map: NDArray[Any] | None, match: str | None) -> None:
        """Take a row, its map and its match as `Report.add` does."""
        metric, group = row["metric"], row["group"] or ""
        if row["error"] is not None:
            self.failed[metric, group] += 1
            if len(self.failures) < FAILURE_LIMIT:
                self.failures.append(Failure(row["image"], group, metric, row["error"]))
            return
        text, seed, model = (str(row[name]) if row.get(name) else None for name in ("prompt", "seed", "model"))
        text = text and self._texts.setdefault(text, text)  # several images have it
        image = Image(row["image"], row["reference"] or None, group, prompt_of(row), text, match, seed, model)
        index = self._index(image, metric)
        for name in (*self.dimensions, *self.uncertainty.values()):
            if not math.isnan(value := finite(row.get(name))):
                values = self._values.setdefault((metric, name), array("d"))
                values.extend([math.nan] * (index + 1 - len(values)))
                values[index] = value
        if quality_map is not None and np.isfinite(quality_map).all():
            self.maps[index, metric] = SmallMap.of(quality_map)

    def sizes(self) -> Counter[str]:
        """Group -> how many images it has, in order of appearance."""
        sizes = Counter(image.group for image in self.images)
        for _, group in self.failed:
            sizes.setdefault(group, 0)
        return sizes

    def columns(self) -> list[Column]:
        """The columns of scores, in order of their metrics' first rows."""
        found = []
        for metric, dimension in self._values:
            if dimension in self.dimensions:
                deviations = self._whole(metric, self.uncertainty.get(dimension))
                score_range = self.facts_of(metric).score_ranges.get(dimension)
                found.append(Column(metric, dimension, self._whole(metric, dimension), deviations, score_range))
        return found

    def facts_of(self, metric: str) -> MetricFacts:
        """What is known of a metric: what the report was told, else what the table of metrics says."""
        if metric in self._metrics:
            return self._metrics[metric]
        spec = known_metric(metric)
        if spec is None:
            return MetricFacts({})
        return MetricFacts(spec.score_ranges, None if spec.embedded else spec.preprocess.seen)  # ours see whole images

    def _whole(self, metric: str, name: str | None) -> NDArray[np.float64]:
        """What a metric's rows have in a column, for every image."""
        whole = np.full(len(self.images), math.nan)
        if name is not None:
            values = self._values.get((metric, name), ())
            whole[: len(values)] = values
        return whole

    def _index(self, image: Image, metric: str) -> int:
        """The index of an image; one that a metric has scored before is listed again."""
        index = self._indices.get(image)
        if index is None or (index, metric) in self._scored:
            index = self._indices[image] = len(self.images)
            self.images.append(image)
        self._scored.add((index, metric))
        return index


def _averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m) with at most MAP_SIDE rows, each the mean of neighbouring ones."""
    if len(values) <= MAP_SIDE:
        return values
    starts = np.arange(MAP_SIDE) * len(values) // MAP_SIDE
    sizes = np.diff(np.append(starts, len(values)))
    averaged: NDArray[np.float64] = np.add.reduceat(values, starts) / sizes[:, None]
    return averaged
