"""What an evaluation finds, and the figures that the PKU-I2IQA paper publishes (arXiv 2311.15556, 200 rows)."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from aigciqa.evaluation.predictions import Predictions, opinions
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import MIN_TELLING, Agreement
from aigciqa.stats.significance import Test
from aigciqa.tables.csv_text import read_records

if TYPE_CHECKING:
    from aigciqa.databases import Sample

#: The database of the paper.
PAPER_DATABASE = "pku-i2iqa"


class Published(NamedTuple):
    """A row of the paper; its PLCC is of the scores as they are, without a mapping.

    Example:
        >>> from aigciqa.evaluation import Published
        >>> Published(srcc=0.6, plcc=0.7).srcc
        0.6
    """

    srcc: float
    plcc: float


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

    Example:
        >>> import numpy as np
        >>> from aigciqa import Sample
        >>> from aigciqa.evaluation import Predictions, evaluate
        >>> samples = [Sample(f"/{n}.png", None, None, None, str(n), {"quality": float(n)}) for n in range(5)]
        >>> (result,) = evaluate(Predictions("mine", {"quality": np.arange(5.0)}, (None,) * 5), samples).results
        >>> result.metric, result.dimension, round(result.agreement.srcc.value, 3)
        ('mine', 'quality', 1.0)
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
        first: label of the one.
        second: label of the other.
        dimension: of the opinion scores.
        n: samples.
        difference: SRCC of the first less that of the second; both of the same resamples, by prompt group.
        williams: Williams' t test of the two SRCC.
        steiger: Steiger's Z test of the two SRCC.

    Example:
        >>> import numpy as np
        >>> from aigciqa import Sample
        >>> from aigciqa.evaluation import Predictions, evaluate
        >>> samples = [Sample(f"/{n}.png", None, None, None, str(n), {"quality": float(n)}) for n in range(5)]
        >>> good = Predictions("good", {"quality": np.arange(5.0)}, (None,) * 5)
        >>> poor = Predictions("poor", {"quality": np.array([1.0, 0.0, 2.0, 4.0, 3.0])}, (None,) * 5)
        >>> (comparison,) = evaluate([good, poor], samples).comparisons
        >>> comparison.first, comparison.second, round(comparison.difference.value, 3)
        ('good', 'poor', 0.2)
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
        samples: in order.
        predictions: what each metric said of them.
        results: one per metric and dimension.
        comparisons: one per pair of metrics and dimension.

    Example:
        >>> import numpy as np
        >>> from aigciqa import Sample
        >>> from aigciqa.evaluation import Predictions, evaluate
        >>> samples = [Sample(f"/{n}.png", None, None, None, str(n), {"quality": float(n)}) for n in range(5)]
        >>> found = evaluate(Predictions("mine", {"quality": np.arange(5.0)}, (None,) * 5), samples)
        >>> len(found.results), found.comparisons, found.failures
        (1, (), [])
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
        """A sentence for each result that lacks figures.

        All its scores or ratings are equal; it has so few images that `text` leaves them out; or the logistic did not
        converge.
        """
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
            few = [each.agreement, *each.generators.values()]
            if any(agreement.n < MIN_TELLING for agreement in few):
                found.append(f"correlations of fewer than {MIN_TELLING} images are left out, for they say nothing")
            mapped = [agreement for agreement in few if agreement.n >= MIN_TELLING]
            if any(agreement.mapping is None and math.isfinite(agreement.srcc.value) for agreement in mapped):
                found.append(
                    f"the logistic from {each.metric} to {each.dimension} did not converge, for all images or those of "
                    "a generator: PLCC fitted and RMSE are left out there"
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


def published(protocol: str, kind: str, backbone: str, dimension: str) -> Published | None:
    """The paper's row, or None where it has none.

    Args:
        protocol: of the library (`paper`, `sd`, `mj`, `sd-mj`, `mj-sd`); `all` is the paper's name for `paper`.
        kind: `nr` or `fr`.
        backbone: as in the table of metrics.
        dimension: `quality`, `authenticity`, `correspondence` or `overall`.

    Example:
        >>> from aigciqa.evaluation import published
        >>> published("paper", "nr", "vgg16", "quality")
        Published(srcc=0.6734, plcc=0.6854)
    """
    return _rows().get(("all" if protocol == "paper" else protocol, kind, backbone, dimension))


@functools.cache
def _rows() -> dict[tuple[str, ...], Published]:
    rows = read_records(Path(__file__).with_name("pku_i2iqa_results.csv"), "protocol")
    key = ("protocol", "kind", "backbone", "dimension")
    return {tuple(row[name] for name in key): Published(float(row["srcc"]), float(row["plcc"])) for row in rows}
