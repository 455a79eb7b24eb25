"""What the engine knows of an item on its way to the records."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aigciqa.records import Item, Record

if TYPE_CHECKING:
    import numpy as np

    from aigciqa.metric import Metric
    from aigciqa.scoring.batches import Encoded
    from aigciqa.scoring.decoding import Decoding, Preprocessed
    from aigciqa.scoring.encoder import Encoder
    from aigciqa.scoring.reference_cache import Reference


@dataclass(eq=False)
class Entry:
    """An item, what has been made of it so far, and why a metric can't score it.

    Attributes:
        item: without the content of its images.
        image: the image being decoded; None if the item has an error.
        reference: its reference, if it has one and a metric needs it.
        preprocessed: the image as each network sees it.
        encoded: features by each network.
        scores: dimension -> score, by each metric.
        quality_maps: by each metric, where they are asked for.
        failures: why a metric can't score it.
    """

    item: Item
    image: Decoding | None
    reference: Reference | None
    preprocessed: Preprocessed = field(default_factory=dict)
    encoded: dict[Encoder, Encoded] = field(default_factory=dict)
    scores: dict[Metric, dict[str, float]] = field(default_factory=dict)
    quality_maps: dict[Metric, np.ndarray] = field(default_factory=dict)
    failures: dict[Metric, str] = field(default_factory=dict)

    def fail(self, metrics: Iterable[Metric], reason: str) -> None:
        """Note why metrics can't score it; what was noted first stays."""
        for metric in metrics:
            self.failures.setdefault(metric, reason)

    def record(self, metric: Metric) -> Record:
        """What came of it by one metric."""
        return Record(
            image=self.item.image,
            reference=self.item.reference,
            group=self.item.group,
            metric=metric.name,
            scores=self.scores.get(metric, {}),
            error=self.failures.get(metric),
            quality_map=self.quality_maps.get(metric),
            extra=self.item.extra,
        )
