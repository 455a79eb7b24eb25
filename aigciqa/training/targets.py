"""Opinion scores as training sees them: in standard deviations from their mean, whatever unit they are given in."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from aigciqa.errors import InputError
from aigciqa.stats.correlations import MIN_SAMPLES

if TYPE_CHECKING:
    from aigciqa.databases import Sample, Split
    from aigciqa.metric import Metric


@dataclass(frozen=True)
class Targets:
    """What is learnt of each of n dimensions: (score - mean) / deviation.

    Attributes:
        dimensions: their names.
        layer: name of the head's output layer in the metric's `state_dict()`.
        mean: (n,) float64, of the training part's scores.
        deviation: (n,) float64, their standard deviation.
    """

    dimensions: tuple[str, ...]
    layer: str
    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, samples: Sequence[Sample], metric: Metric) -> Targets:
        """Those of the samples to train a metric on, whose scores are not all equal."""
        scores = _scores(samples, metric.dimensions)
        layer = f"head.{metric.head.output_layer}"
        return cls(metric.dimensions, layer, scores.mean(0), scores.std(0, correction=0))

    def values(self, samples: Sequence[Sample]) -> Tensor:
        """Targets (samples, n), float32."""
        return ((_scores(samples, self.dimensions) - self.mean) / self.deviation).float()

    def scores(self, values: Tensor) -> Tensor:
        """Scores (B, n), float64 on the CPU, of a head's values."""
        return values.cpu().double() * self.deviation + self.mean

    def to_scores(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A metric's weights whose output layer gives targets -> those that give scores."""
        return self._mapped(weights, self.deviation, self.mean)

    def from_scores(
        self, weights: Mapping[str, Tensor], given: Sequence[tuple[float, float]], wanted: Sequence[tuple[float, float]]
    ) -> dict[str, Tensor]:
        """A metric's weights that give scores -> those whose output layer gives targets.

        Args:
            weights: the metric's `state_dict()`.
            given: (lowest, highest) of each dimension's scores by these weights.
            wanted: (lowest, highest) of the scores to learn.
        """
        lows, highs = torch.tensor(given, dtype=torch.float64).T
        wanted_lows, wanted_highs = torch.tensor(wanted, dtype=torch.float64).T
        factor = (wanted_highs - wanted_lows) / (highs - lows)
        offset = (wanted_lows - lows * factor - self.mean) / self.deviation
        return self._mapped(weights, factor / self.deviation, offset)

    def _mapped(self, weights: Mapping[str, Tensor], factor: Tensor, offset: Tensor) -> dict[str, Tensor]:
        """Weights of a metric whose outputs are `factor * output + offset`; the output layer's are on the CPU."""
        names = f"{self.layer}.weight", f"{self.layer}.bias"
        weight, bias = (weights[name].cpu().double() for name in names)
        mapped = dict(zip(names, (weight * factor[:, None], bias * factor + offset), strict=True))
        return {**weights, **{name: value.to(weights[name].dtype) for name, value in mapped.items()}}


def check_ratings(split: Split, dimensions: Sequence[str]) -> None:
    """Refuse what nothing could be learnt from, or no epoch be chosen by.

    Raises:
        InputError: naming the part of the split and the dimension.
    """
    for part, samples, fewest in (("training", split.train, 1), ("validation", split.validation, MIN_SAMPLES)):
        if len(samples) < fewest:
            raise InputError(
                f"the {part} part has {len(samples)} images, and at least {fewest} are needed: rate more images, or "
                "split them another way"
            )
        for name in dimensions:
            scores = {sample.scores[name] for sample in samples}
            if not all(map(math.isfinite, scores)):
                raise InputError(f"ratings of {name} in the {part} part are NaN or infinite; expected numbers")
            if len(scores) == 1:
                raise InputError(
                    f"all {len(samples)} images of the {part} part have the same {name}, {scores.pop():g}: leave "
                    f"{name} out of the dimensions, rate more images, or split them another way (another seed)"
                )


def _scores(samples: Sequence[Sample], dimensions: Sequence[str]) -> Tensor:
    return torch.tensor([[sample.scores[name] for name in dimensions] for sample in samples], dtype=torch.float64)
