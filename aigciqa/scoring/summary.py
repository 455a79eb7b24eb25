"""Means with confidence intervals, per metric and group, kept while rows stream by."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aigciqa.tables.text import TextTable

#: Two-sided 95% points of Student's t for 1 to 30 degrees of freedom; the normal distribution's is 1.960.
_T95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
_Z95 = 1.960


@dataclass
class Moments:
    """Count, mean and variance of a stream of numbers (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        delta = value - self.mean
        self.mean += delta / self.count
        self.squares += delta * (value - self.mean)

    def half_width(self) -> float:
        """Half of the mean's 95% confidence interval (Student's t); NaN for fewer than two numbers."""
        if self.count < 2:
            return math.nan
        freedom = self.count - 1
        quantile = _T95[freedom - 1] if freedom <= len(_T95) else _Z95 + 2.4 / freedom
        return quantile * math.sqrt(self.squares / freedom / self.count)


@dataclass
class _Line:
    failed: int = 0
    moments: dict[str, Moments] = field(default_factory=dict)


class Summary:
    """Collects rows; `lines` prints them.

    Args:
        dimensions: the score columns.
    """

    def __init__(self, dimensions: Sequence[str]) -> None:
        self.dimensions = tuple(dimensions)
        self.groups: dict[tuple[str, str], _Line] = {}

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        for row in rows:
            line = self.groups.setdefault((row["metric"], row["group"] or ""), _Line())
            if row["error"] is not None:
                line.failed += 1
                continue
            for name in self.dimensions:
                if row[name] is not None:
                    line.moments.setdefault(name, Moments()).add(row[name])

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return sum(line.failed + self._scored(line) for line in self.groups.values())

    @property
    def failed(self) -> int:
        """How many of them have an error."""
        return sum(line.failed for line in self.groups.values())

    def lines(self) -> list[str]:
        """An aligned table: metric, group, n, failed, and per dimension the mean with its 95% interval."""
        grouped = any(group for _, group in self.groups)
        header = ("metric", *(["group"] if grouped else []), "n", "failed", *(f"{d} (95% CI)" for d in self.dimensions))
        rows = tuple(
            (
                metric, *([group or "-"] if grouped else []), str(self._scored(line)), str(line.failed),
                *(_interval(line.moments.get(name)) for name in self.dimensions),
            )
            for (metric, group), line in self.groups.items()
        )  # fmt: skip
        return TextTable("Summary", header, rows, left=2 if grouped else 1).aligned().split("\n")

    def _scored(self, line: _Line) -> int:
        return max((moments.count for moments in line.moments.values()), default=0)


def _interval(moments: Moments | None) -> str:
    if moments is None:
        return "-"
    half = moments.half_width()
    spread = "" if math.isnan(half) else f" ± {half:.3f}"
    return f"{moments.mean:.3f}{spread}"
