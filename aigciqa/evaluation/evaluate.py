"""`evaluate`: metrics over the samples of a database, and how well each agrees with people."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.evaluation import paper
from aigciqa.records import Item
from aigciqa.registry import METRICS, SCORE_RANGES
from aigciqa.stats import bootstrap
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import MIN_SAMPLES, Agreement, agreement, srcc, srcc_within
from aigciqa.stats.significance import MIN_SAMPLES as MIN_COMPARED
from aigciqa.stats.significance import Test, steiger, williams

if TYPE_CHECKING:
    import torch

    from aigciqa.databases import Sample
    from aigciqa.metric import Metric

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Predictions:
    """What one metric says of n samples.

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


@dataclass(frozen=True)
class Setting:
    """Which samples were scored: what a report says of them, and where the paper's rows are looked up.

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
    published: paper.Published | None
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
            mos = np.array([sample.scores.get(each.dimension, math.nan) for sample in self.samples], dtype=np.float64)
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
    """
    from aigciqa.metric import as_metrics
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
        resamples: of the bootstrap.
        seed: of the bootstrap.
        batch_size, workers, device, dtype: as for `aigciqa.score_files`.

    Raises:
        ValueError: a dimension nobody predicts or rates, a label used twice, or fewer than three samples were scored.
    """
    predictions = _predictions(metrics, samples, batch_size, workers, device, dtype)
    labels = [each.label for each in predictions]
    if len(set(labels)) < len(labels):
        raise InputError(f"every metric needs a label of its own; got {', '.join(labels)}")
    setting = setting or Setting()
    chosen = _dimensions(predictions, samples, dimensions)
    pool = _Pool(samples, setting, resamples, seed)
    results = [pool.result(each, name) for name in chosen for each in predictions if name in each.scores]
    comparisons = [
        found
        for name in chosen
        for first, second in itertools.combinations([each for each in predictions if name in each.scores], 2)
        if (found := pool.comparison(first, second, name)) is not None
    ]
    return Evaluation(setting, tuple(samples), tuple(predictions), tuple(results), tuple(comparisons))


class _Pool:
    """Samples as columns, and what is computed of them."""

    def __init__(self, samples: Sequence[Sample], setting: Setting, resamples: int, seed: int) -> None:
        self.samples = samples
        self.setting = setting
        self.resamples = resamples
        self.seed = seed
        self.groups: list[Hashable] = [
            number if sample.group is None else sample.group for number, sample in enumerate(samples)
        ]

    def result(self, predictions: Predictions, dimension: str) -> Result:
        scores, mos = predictions.oriented(dimension), self._mos(dimension)
        rows = np.flatnonzero(np.isfinite(scores) & np.isfinite(mos))
        if len(rows) < MIN_SAMPLES:
            why = next((error for error in predictions.errors if error is not None), "they have no opinion scores")
            raise InputError(
                f"{predictions.label} has {dimension} scores of {len(rows)} of {len(scores)} images; a correlation "
                f"takes at least {MIN_SAMPLES}. The first problem: {why}"
            )
        return Result(
            metric=predictions.label,
            dimension=dimension,
            agreement=self._agreement(scores, mos, rows),
            within=srcc_within(scores[rows], mos[rows], self._groups(rows), resamples=self.resamples, seed=self.seed),
            generators={
                name: self._agreement(scores, mos, members)
                for name, members in self._generators(rows).items()
                if len(members) >= MIN_SAMPLES
            },
            published=_published(self.setting, predictions.metric, dimension),
            failed=sum(error is not None for error in predictions.errors),
        )

    def comparison(self, first: Predictions, second: Predictions, dimension: str) -> Comparison | None:
        """None where too few samples were scored by both, or a metric gives all the same score."""
        x, y, mos = first.oriented(dimension), second.oriented(dimension), self._mos(dimension)
        rows = np.flatnonzero(np.isfinite(x) & np.isfinite(y) & np.isfinite(mos))
        if len(rows) < MIN_COMPARED:
            return None
        x, y, mos = x[rows], y[rows], mos[rows]
        ours, theirs, between = srcc(x, mos), srcc(y, mos), srcc(x, y)
        if not all(map(math.isfinite, (ours, theirs, between))):
            return None
        draws = [
            bootstrap.spearman(weight, x, mos) - bootstrap.spearman(weight, y, mos)
            for weight in bootstrap.weights(self._groups(rows), self.resamples, self.seed)
        ]
        low, high = bootstrap.percentiles(np.concatenate(draws)) if draws else (math.nan, math.nan)
        return Comparison(
            first=first.label,
            second=second.label,
            dimension=dimension,
            n=len(rows),
            difference=Interval(ours - theirs, low, high),
            williams=williams(ours, theirs, between, len(rows)),
            steiger=steiger(ours, theirs, between, len(rows)),
        )

    def _mos(self, dimension: str) -> Array:
        return np.array([sample.scores.get(dimension, math.nan) for sample in self.samples], dtype=np.float64)

    def _groups(self, rows: Iterable[int]) -> list[Hashable]:
        return [self.groups[row] for row in rows]

    def _generators(self, rows: Iterable[int]) -> dict[str, list[int]]:
        members: dict[str, list[int]] = {}
        for row in rows:
            if (name := self.samples[row].generator) is not None:
                members.setdefault(name, []).append(row)
        return dict(sorted(members.items()))

    def _agreement(self, scores: Array, mos: Array, rows: Sequence[int] | NDArray[np.intp]) -> Agreement:
        return agreement(scores[rows], mos[rows], groups=self._groups(rows), resamples=self.resamples, seed=self.seed)


def _predictions(
    metrics: str | Metric | Predictions | Sequence[str | Metric | Predictions],
    samples: Sequence[Sample],
    batch_size: int | None,
    workers: int | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
) -> list[Predictions]:
    """One per metric, in order; those that must be run share a pass."""
    from aigciqa.metric import Metric

    given = [metrics] if isinstance(metrics, (str, Metric, Predictions)) else list(metrics)
    run = {(each if isinstance(each, str) else each.name): each for each in given if not isinstance(each, Predictions)}
    if len(run) < sum(not isinstance(each, Predictions) for each in given):
        raise InputError("the same metric twice: call aigciqa.evaluation.predict with a label for each")
    made = iter(
        predict(run, samples, batch_size=batch_size, workers=workers, device=device, dtype=dtype) if run else ()
    )
    predictions = [each if isinstance(each, Predictions) else next(made) for each in given]
    for each in predictions:
        if len(each.errors) != len(samples):
            raise InputError(f"{each.label}: predictions of {len(each.errors)} samples, not of these {len(samples)}")
    return predictions


def _dimensions(
    predictions: Sequence[Predictions], samples: Sequence[Sample], asked: Sequence[str] | None
) -> list[str]:
    predicted = {name for each in predictions for name in each.scores}
    rated = {name for sample in samples for name in sample.scores}
    names = sorted(predicted & rated, key=lambda name: list(SCORE_RANGES).index(name) if name in SCORE_RANGES else 99)
    if asked is not None:
        for name in asked:
            if name not in names:
                whose = "no metric here predicts it" if name in rated else f"the ratings are of {', '.join(rated)}"
                raise InputError(f"can't evaluate {name!r}: {whose}")
        return list(dict.fromkeys(asked))
    if not names:
        raise InputError(
            f"nothing to compare: the metrics predict {', '.join(sorted(predicted)) or 'nothing'}, the ratings are of "
            f"{', '.join(sorted(rated)) or 'nothing'}"
        )
    return names


def _published(setting: Setting, metric: str | None, dimension: str) -> paper.Published | None:
    if setting.database != paper.DATABASE or setting.part != "test":
        return None
    spec = METRICS.get(metric or "")
    if spec is None:
        return None
    return paper.published(setting.protocol, spec.kind, spec.backbone, dimension)
