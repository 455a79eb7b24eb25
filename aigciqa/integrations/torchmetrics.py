"""The mean score as a torchmetrics `Metric`: for training loops, Lightning and several processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aigciqa.create import create_metric
from aigciqa.metric import Metric
from aigciqa.utils.extras import needs_extra

with needs_extra("torchmetrics", "MeanScore needs torchmetrics"):
    import torchmetrics


class MeanScore(torchmetrics.Metric):
    """Mean score of all images since the last `reset`, those of all processes where there are several.

    Its memory does not grow with the number of images, which is exact up to 16,777,216 (2 to the 24th).

    Args:
        metric: a `Metric`, or what `create_metric` takes as a name.
        details: `compute` returns a dict: dimension -> mean and `<dimension>_std` -> standard deviation, for every
            dimension, and `count`.
        **options: torchmetrics' own, such as `process_group`.

    Example:
        >>> import torch
        >>> from aigciqa.integrations.torchmetrics import MeanScore
        >>> quality = MeanScore("nr-lite", details=True)
        >>> quality.update(torch.zeros(2, 3, 64, 64))
        >>> quality.update(torch.ones(1, 3, 64, 64))
        >>> int(quality.compute()["count"])
        3
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    moments: Tensor

    def __init__(self, metric: str | Metric, *, details: bool = False, **options: Any) -> None:
        with torch.device("cpu"):  # torchmetrics would start on the default device, which may be none to compute on
            super().__init__(**options)
        self.metric: Metric = create_metric(metric) if isinstance(metric, str) else metric
        self.details = details
        start = torch.zeros(3, len(self.metric.dimensions), dtype=torch.float32, device="cpu")
        self.add_state("moments", start, dist_reduce_fx=_merged)
        self.to(self.metric.device)

    def update(self, images: Any, reference: Any = None) -> None:
        """Score images, and for FR their image prompts as references, in any form that a `Metric` takes.

        Raises:
            TypeError, ValueError: as calling the metric.
        """
        scores = torch.stack(list(self.metric.predict(images, reference).values())).detach()
        mean = scores.mean(dim=1)
        squares = (scores - mean[:, None]).square().sum(dim=1)
        batch = torch.stack([torch.full_like(mean, scores.shape[1]), mean, squares])
        self.moments = _merged(torch.stack([self.moments, batch.to(self.moments)]))

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The mean of the main dimension, a scalar; NaN where nothing was scored. With `details`, the dict."""
        count, mean, squares = self.moments
        dimensions = self.metric.dimensions
        means: dict[str, Tensor] = dict(zip(dimensions, torch.where(count > 0, mean, torch.nan), strict=True))
        if not self.details:
            return means[self.metric.dimension]
        deviations = torch.where(count > 1, squares / (count - 1), torch.nan).sqrt()
        names = (f"{dimension}_std" for dimension in dimensions)
        return {**means, **dict(zip(names, deviations, strict=True)), "count": count[0].long()}


def _merged(parts: Tensor) -> Tensor:
    """Moments of several sets of scores taken together (Chan et al. 1979), which stays exact where sums would not.

    From (sets, 3, dimensions), number of scores, their mean, the sum of the squares of their distances to it, to
    (3, dimensions).
    """
    counts, means, squares = parts.unbind(1)
    count = counts.sum(dim=0)
    mean = (counts / count.clamp(min=1) * means).sum(dim=0)
    return torch.stack([count, mean, (squares + counts * (means - mean).square()).sum(dim=0)])
