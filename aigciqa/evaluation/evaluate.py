"""`evaluate`: how well metrics agree with the people who rated samples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.evaluation.predictions import Array, Predictions, opinions, predictions_of
from aigciqa.evaluation.results import PAPER_DATABASE, Comparison, Evaluation, Published, Result, Setting, published
from aigciqa.registry import SCORE_RANGES, known_metric
from aigciqa.stats import bootstrap
from aigciqa.stats.correlations import MIN_SAMPLES, Agreement, agreement, srcc, srcc_within
from aigciqa.stats.significance import MIN_SAMPLES as MIN_COMPARED
from aigciqa.stats.significance import steiger, williams

if TYPE_CHECKING:
    import torch

    from aigciqa.databases import Sample
    from aigciqa.metric import Metric


def evaluate(
    metrics: str | Metric | Predictions | Sequence[str | Metric | Predictions],
    samples: Sequence[Sample],
    *,
    dimensions: Sequence[str] | None = None,
    setting: Setting | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> Evaluation:
    """How well metrics agree with people.

    Args:
        metrics: names, `Metric`s, or `Predictions` made before; one or several.
        samples: of a database, such as `split.test`.
        dimensions: of the opinion scores; all that samples have and some metric predicts, if absent.
        setting: which samples these are; for reports and the paper's rows.
        resamples, seed: of the bootstrap.
        batch_size, workers, device, dtype: as for `aigciqa.score_files`.

    Raises:
        InputError: a dimension nobody predicts or rates, a label used twice, or fewer than three samples were scored.

    Example:
        >>> import numpy as np
        >>> from aigciqa import Sample
        >>> from aigciqa.evaluation import Predictions, evaluate
        >>> ratings = {"a": 1.0, "b": 2.0, "c": 3.5, "d": 4.0}
        >>> samples = [Sample(f"/{name}.png", None, None, None, name, {"quality": x}) for name, x in ratings.items()]
        >>> mine = Predictions("mine", {"quality": np.array([0.1, 0.4, 0.3, 0.9])}, (None,) * 4)
        >>> round(evaluate(mine, samples).result("mine", "quality").agreement.srcc.value, 3)
        0.8
    """
    predictions = predictions_of(metrics, samples, batch_size=batch_size, workers=workers, device=device, dtype=dtype)
    labels = [each.label for each in predictions]
    if len(set(labels)) < len(labels):
        raise InputError(f"every metric needs a label of its own; got {', '.join(labels)}")
    setting = setting or Setting()
    pool = _Pool(samples, setting, resamples, seed)
    results: list[Result] = []
    comparisons: list[Comparison] = []
    for name in _dimensions(predictions, samples, dimensions):
        scored = [each for each in predictions if name in each.scores]
        results += [pool.result(each, name) for each in scored]
        pairs = itertools.combinations(scored, 2)
        comparisons += filter(None, (pool.comparison(first, second, name) for first, second in pairs))
    return Evaluation(setting, tuple(samples), tuple(predictions), tuple(results), tuple(comparisons))


@dataclass(frozen=True)
class _Pool:
    """Samples, and what is computed of them."""

    samples: Sequence[Sample]
    setting: Setting
    resamples: int
    seed: int

    def result(self, predictions: Predictions, dimension: str) -> Result:
        scores, mos = predictions.oriented(dimension), opinions(self.samples, dimension)
        rows = np.flatnonzero(np.isfinite(scores) & np.isfinite(mos))
        if len(rows) < MIN_SAMPLES:
            why = next((error for error in predictions.errors if error is not None), "they have no opinion scores")
            raise InputError(
                f"{predictions.label} has {dimension} scores of {len(rows)} of {len(scores)} images; a correlation "
                f"takes at least {MIN_SAMPLES}. The first problem: {why}"
            )
        members = self._generators(rows).items()
        return Result(
            metric=predictions.label,
            dimension=dimension,
            agreement=self._agreement(scores, mos, rows),
            within=srcc_within(scores[rows], mos[rows], self._groups(rows), resamples=self.resamples, seed=self.seed),
            generators={name: self._agreement(scores, mos, of) for name, of in members if len(of) >= MIN_SAMPLES},
            published=_published(self.setting, predictions.metric, dimension),
            failed=sum(error is not None for error in predictions.errors),
        )

    def comparison(self, first: Predictions, second: Predictions, dimension: str) -> Comparison | None:
        """None where too few samples were scored by both, or a metric gives all the same score."""
        x, y, mos = first.oriented(dimension), second.oriented(dimension), opinions(self.samples, dimension)
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(mos))
        if len(rows) < MIN_COMPARED:
            return None
        x, y, mos = x[rows], y[rows], mos[rows]
        ours, theirs, between = srcc(x, mos), srcc(y, mos), srcc(x, y)
        if not all(map(math.isfinite, (ours, theirs, between))):
            return None
        difference = bootstrap.interval(
            lambda weights: bootstrap.spearman(weights, x, mos) - bootstrap.spearman(weights, y, mos),
            self._groups(rows),
            self.resamples,
            self.seed,
        )
        return Comparison(
            first=first.label,
            second=second.label,
            dimension=dimension,
            n=len(rows),
            difference=difference,
            williams=williams(ours, theirs, between, len(rows)),
            steiger=steiger(ours, theirs, between, len(rows)),
        )

    def _groups(self, rows: Iterable[int]) -> list[str]:
        return [self.samples[row].group for row in rows]

    def _generators(self, rows: Iterable[int]) -> dict[str, list[int]]:
        members: dict[str, list[int]] = {}
        for row in rows:
            if (name := self.samples[row].generator) is not None:
                members.setdefault(name, []).append(row)
        return dict(sorted(members.items()))

    def _agreement(self, scores: Array, mos: Array, rows: Sequence[int] | NDArray[np.intp]) -> Agreement:
        return agreement(scores[rows], mos[rows], groups=self._groups(rows), resamples=self.resamples, seed=self.seed)


def _dimensions(
    predictions: Sequence[Predictions], samples: Sequence[Sample], asked: Sequence[str] | None
) -> list[str]:
    """Those asked for; else all that are both predicted and rated, those of the paper first."""
    predicted = dict.fromkeys(name for each in predictions for name in each.scores)
    rated = dict.fromkeys(name for sample in samples for name in sample.scores)
    names = [name for name in dict.fromkeys((*SCORE_RANGES, *predicted)) if name in predicted and name in rated]
    if asked is not None:
        for name in asked:
            if name not in names:
                whose = "no metric here predicts it" if name in rated else f"the ratings are of {', '.join(rated)}"
                raise InputError(f"can't evaluate {name!r}: {whose}")
        return list(dict.fromkeys(asked))
    if not names:
        raise InputError(
            f"nothing to compare: the metrics predict {', '.join(predicted) or 'nothing'}, the ratings are of "
            f"{', '.join(rated) or 'nothing'}"
        )
    return names


def _published(setting: Setting, metric: str | None, dimension: str) -> Published | None:
    spec = known_metric(metric or "")
    if spec is None or setting.database != PAPER_DATABASE or setting.part != "test":
        return None
    return published(setting.protocol, spec.kind, spec.backbone, dimension)
