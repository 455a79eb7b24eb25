"""Where a score stands among the scores of images that are known: its percentile in a reference set."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.errors import InputError, shortened
from aigciqa.stats.bootstrap import Array

#: Quantiles that are kept of a set, evenly spaced from the lowest score to the highest.
QUANTILES = 101
#: Decimals of a score between 0 and 5, and as many digits of others: processors differ far below that.
_DECIMALS = 3
#: What a file may say.
_LONGEST_NAME, _MOST_QUANTILES = 100, 1001


@dataclass(frozen=True)
class ReferenceSet:
    """The scores that a metric gave to a set of images, as quantiles; the images themselves are not kept.

    Attributes:
        name: what the images are, in the plural, such as `"AI-generated images"`.
        n: how many there are.
        quantiles: dimension -> ascending scores, evenly spaced in rank from the lowest to the highest.

    Example:
        >>> from aigciqa.stats.reference_sets import ReferenceSet
        >>> known = ReferenceSet.of("photographs", {"quality": [1, 2, 3, 4]}, {"quality": (0, 5)})
        >>> known.percentiles("quality", [0.5, 2, 2.5, 5]).tolist()
        [0.0, 37.5, 50.0, 100.0]
    """

    name: str
    n: int
    quantiles: Mapping[str, tuple[float, ...]]

    @classmethod
    def of(
        cls, name: str, scores: Mapping[str, ArrayLike], score_ranges: Mapping[str, tuple[float, float]]
    ) -> ReferenceSet:
        """The set of images with these scores, (n,) for each dimension."""
        shares, quantiles = np.linspace(0, 1, QUANTILES), {}
        for dimension, values in scores.items():
            low, high = score_ranges[dimension]
            found = np.quantile(np.asarray(values, dtype=np.float64), shares, method="hazen")
            quantiles[dimension] = tuple(found.round(_DECIMALS - math.floor(math.log10(high - low))).tolist())
        return cls(name, len(np.asarray(next(iter(scores.values())))), quantiles)

    @classmethod
    def from_dict(cls, data: Any) -> ReferenceSet:
        """What `dataclasses.asdict` made of a set, read from JSON; an InputError says what is wrong with it."""
        try:
            name, n = str(data["name"]), int(data["n"])
            quantiles = {str(key): tuple(map(float, values)) for key, values in data["quantiles"].items()}
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
            raise InputError(f"{shortened(repr(data), 200)} is no reference set: name, n, quantiles") from None
        if not (0 < len(name) <= _LONGEST_NAME and name.isprintable() and n > 0):
            raise InputError(f"{shortened(repr(name), 200)} with n {n}: expected a name and a number of images")
        for dimension, values in quantiles.items():
            ascends = all(low <= high for low, high in itertools.pairwise(values))  # NaN does not
            if not (2 <= len(values) <= _MOST_QUANTILES and ascends and np.isfinite(values).all()):
                raise InputError(
                    f"{shortened(name)}: quantiles of {dimension!r}: expected 2 to {_MOST_QUANTILES} ascending numbers"
                )
        return cls(name, n, quantiles)

    @property
    def label(self) -> str:
        """How many of what: `160 AI-generated images`."""
        return f"{self.n:,} {self.name}"

    def percentiles(self, dimension: str, scores: ArrayLike) -> Array:
        """The share of the set that scores lower, those that score the same counted half: 0 to 100, to one decimal."""
        known, values = np.array(self.quantiles[dimension]), np.asarray(scores, dtype=np.float64)
        first, past = (np.searchsorted(known, values, side) for side in ("left", "right"))
        between = np.interp(values, known, np.arange(len(known)))
        positions: Array = np.where(past > first, (first + past - 1) / 2, between)
        rounded: Array = (100 * positions / (len(known) - 1)).round(1)
        return rounded
