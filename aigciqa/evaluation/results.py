"""What an evaluation finds: `aigciqa.evaluation.text` writes it, `aigciqa.evaluation.plots` draws it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from aigciqa.evaluation.paper import Published
from aigciqa.evaluation.predictions import Predictions, opinions
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import Agreement
from aigciqa.stats.significance import Test

if TYPE_CHECKING:
    from aigciqa.databases import Sample


@dataclass(frozen=True)
class Setting:
    """Which samples were scored. Reports say so, and the paper's rows are those of the same setting.

    Example:
        >>> from aigciqa.evaluation import Setting
        >>> Setting("pku-i2iqa", "paper", "test").protocol
        'paper'

    Attributes:
        database: name of the database.
        protocol: of the split.
        part: of the split: `train`, `validation`, `test` or `all`.
        seed: of the split.
        split: its digest.
    """

    database: str = ""
    protocol: str = ""
    part: str = ""
    seed: int | None = None
    split: str = ""


@dataclass(frozen=True)
class Result:
    """One metric on one dimension.

    Attributes:
        metric: label of the predictions.
        dimension: of the opinion scores.
        agreement: over all samples scored.
        within: mean SRCC among the images of one prompt.
        generators: the agreement for each generator with at least three images.
        published: the paper's row for the same metric, database, protocol and dimension.
        failed: samples that could not be scored.
    """

    metric: str
    dimension: str
    agreement: Agreement
    within: Interval
    generators: Mapping[str, Agreement]
    published: Published | None
    failed: int


@dataclass(frozen=True)
class Comparison:
    """Two metrics on one dimension, over the samples that both scored.

    Attributes:
        first: label.
        second: label.
        dimension: of the opinion scores.
        n: samples.
        difference: SRCC of the first less that of the second; both of the same resamples, by prompt group.
        williams: Williams' t test of the two SRCC.
        steiger: Steiger's Z test of the two SRCC.
    """

    first: str
    second: str
    dimension: str
    n: int
    difference: Interval
    williams: Test
    steiger: Test


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. `aigciqa.evaluation.text` writes it, `aigciqa.evaluation.plots` draws it.

    Attributes:
        setting: which samples were scored.
        samples: the samples, in order.
        predictions: what each metric said of them.
        results: one per metric and dimension.
        comparisons: one per pair of metrics and dimension.
    """

    setting: Setting
    samples: tuple[Sample, ...]
    predictions: tuple[Predictions, ...]
    results: tuple[Result, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def failures(self) -> list[tuple[str, str, str]]:
        """(metric, image, error) of what could not be scored."""
        return [
            (each.label, os.fspath(sample.image), error)
            for each in self.predictions
            for sample, error in zip(self.samples, each.errors, strict=True)
            if error is not None
        ]

    @property
    def notes(self) -> list[str]:
        """A sentence for each result without correlations, because all its scores or ratings are equal."""
        scores = {each.label: each.scores for each in self.predictions}
        found = []
        for each in self.results:
            mos = opinions(self.samples, each.dimension)
            given = scores[each.metric][each.dimension]
            both = np.isfinite(given) & np.isfinite(mos)
            for values, who in ((given[both], f"{each.metric} gives"), (mos[both], "people give")):
                if np.ptp(values) == 0:
                    found.append(
                        f"{who} all {len(values)} images the same {each.dimension} score, {values[0]:g}: there is no "
                        "correlation"
                    )
        return list(dict.fromkeys(found))

    def result(self, metric: str, dimension: str) -> Result:
        """The result of a metric's label and a dimension.

        Raises:
            KeyError: there is none.
        """
        for each in self.results:
            if (each.metric, each.dimension) == (metric, dimension):
                return each
        raise KeyError(f"no result of {metric!r} on {dimension!r}")
