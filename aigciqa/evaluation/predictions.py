"""What metrics say of samples: `predict` runs them, in one pass over the files."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.records import Item

if TYPE_CHECKING:
    import torch

    from aigciqa.databases import Sample
    from aigciqa.metric import Metric

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What one metric says of n samples.

    Example:
        >>> import numpy as np
        >>> from aigciqa.evaluation import Predictions
        >>> lpips = Predictions("lpips", {"quality": np.array([0.2, 0.5])}, (None, None), lower_better=True)
        >>> lpips.oriented("quality")
        array([-0.2, -0.5])

    Attributes:
        label: how tables name it.
        scores: dimension -> (n,), NaN where an image could not be scored.
        errors: why it could not, per sample; None if it was.
        metric: name in the table of metrics; None of any other metric.
        lower_better: whether low scores are good; agreement is then that of the negated scores.
    """

    label: str
    scores: Mapping[str, Array]
    errors: tuple[str | None, ...]
    metric: str | None = None
    lower_better: bool = False

    def oriented(self, dimension: str) -> Array:
        """Scores (n,) of which higher is better."""
        return -self.scores[dimension] if self.lower_better else self.scores[dimension]


def predict(
    metrics: Mapping[str, str | Metric],
    samples: Sequence[Sample],
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    progress: Callable[[], Any] | None = None,
) -> list[Predictions]:
    """Score samples by several metrics, in one pass over the files and of all dimensions.

    Full-reference metrics read a sample's image prompt; a sample without one is an error of theirs.

    Args:
        metrics: label -> a name or a `Metric`.
        samples: of a database.
        batch_size, workers, device, dtype: as for `aigciqa.score_files`.
        progress: called after every score.

    Raises:
        InputError: no metrics or no samples.

    Example:
        >>> import pathlib, tempfile
        >>> from PIL import Image
        >>> from aigciqa import Sample
        >>> from aigciqa.evaluation import predict
        >>> path = str(pathlib.Path(tempfile.mkdtemp()) / "a.png")
        >>> Image.new("RGB", (64, 64)).save(path)
        >>> (lite,) = predict({"mine": "nr-lite"}, [Sample(path, None, None, None, "a prompt", {"quality": 3.5})])
        >>> lite.label, lite.scores["quality"].shape, lite.errors
        ('mine', (1,), (None,))
    """
    from aigciqa.create import as_metrics
    from aigciqa.scoring.engine import score_files

    if not metrics or not samples:
        raise InputError(f"nothing to score: {len(metrics)} metrics and {len(samples)} samples")
    loaded = as_metrics(metrics.values(), device=device, dtype=dtype)
    items = (
        Item(os.fspath(sample.image), None if sample.reference is None else os.fspath(sample.reference), sample.group)
        for sample in samples
    )
    scores = [{name: np.full(len(samples), math.nan) for name in each.dimensions} for each in loaded]
    errors: list[list[str | None]] = [[] for _ in loaded]
    for number, record in enumerate(score_files(items, metric=loaded, batch_size=batch_size, workers=workers)):
        row, column = divmod(number, len(loaded))
        errors[column].append(record.error)
        for name, score in record.scores.items():
            scores[column][name][row] = score
        if progress is not None:
            progress()
    return [
        Predictions(label, table, tuple(failed), each.name, each.lower_better)
        for label, each, table, failed in zip(metrics, loaded, scores, errors, strict=True)
    ]


def predictions_of(
    metrics: str | Metric | Predictions | Sequence[str | Metric | Predictions],
    samples: Sequence[Sample],
    **options: Any,
) -> list[Predictions]:
    """One per metric, in order; those that must be run share a pass, with the options of `predict`."""
    from aigciqa.metric import Metric

    given = [metrics] if isinstance(metrics, (str, Metric, Predictions)) else list(metrics)
    run = {(each if isinstance(each, str) else each.name): each for each in given if not isinstance(each, Predictions)}
    if len(run) < sum(not isinstance(each, Predictions) for each in given):
        raise InputError("the same metric twice: call aigciqa.evaluation.predict with a label for each")
    made = iter(predict(run, samples, **options) if run else ())
    predictions = [each if isinstance(each, Predictions) else next(made) for each in given]
    for each in predictions:
        for count in (len(each.errors), *map(len, each.scores.values())):
            if count != len(samples):
                raise InputError(f"{each.label}: predictions of {count} samples, not of these {len(samples)}")
    return predictions


def opinions(samples: Sequence[Sample], dimension: str) -> Array:
    """The mean opinion scores (n,) of samples; NaN where one is not rated for the dimension."""
    return np.array([sample.scores.get(dimension, math.nan) for sample in samples], dtype=np.float64)
