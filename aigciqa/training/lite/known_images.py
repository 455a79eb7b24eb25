"""The reference sets of the embedded metrics: what they score images that are known, for percentiles.

Only quantiles of the scores are kept. A full-reference metric has none: its score depends on what the reference is (the
same image, or another of its subject), so no one set would do for all uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aigciqa.metric import Metric
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.tables.csv_text import read_records
from aigciqa.training.lite.photos import Photo


def reference_sets(metric: Metric, photos: Sequence[Photo], realness: Path | None) -> tuple[ReferenceSet, ...]:
    """The AI-generated pictures of `realness` (512 x 384), where that is at hand, and photographs held out."""
    if metric.requires_reference:
        return ()
    images = {"photographs": [photo.path for photo in photos]}
    if realness is not None:
        rows = read_records(realness / "ratings.csv", "image")
        generated = [realness / row["image"] for row in rows if row["ai_generated"] == "1"]
        images = {"small AI-generated images": generated, **images}
    return tuple(
        ReferenceSet.of(name, {metric.dimension: [float(metric(path)) for path in paths]}, metric.config.score_ranges)
        for name, paths in images.items()
    )
