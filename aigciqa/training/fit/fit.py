"""`fit_head`: few ratings in, a checkpoint out, with honest figures; and what to rate next."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import aigciqa
from aigciqa.checkpoints.card import RATED, checked_folder
from aigciqa.checkpoints.format import CONFIG_FILE
from aigciqa.databases.database import Database
from aigciqa.errors import ImageError, InputError, OutputExistsError
from aigciqa.heads.linear import LinearHead
from aigciqa.metric import Metric
from aigciqa.records import Item
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.training.fit.crossvalidation import cross_validate
from aigciqa.training.fit.features import FeatureReader, Measured, frozen_metric, succeeded
from aigciqa.training.fit.kernels import Array
from aigciqa.training.fit.ratings import Ratings, read_ratings
from aigciqa.training.fit.regression import LinearFit, fit
from aigciqa.training.fit.suggest import suggest
from aigciqa.training.fit.tasks import Task, pair_task, score_task
from aigciqa.utils.files import locked
from aigciqa.utils.paths import absolute, counted, shown

#: Most rated images that a checkpoint remembers, by the first digits of the sha256 of their content.
_MOST_MARKS, _DIGITS = 10_000, 8
#: Of the trunk's statistics and of `lite`'s in the kernel, to start from.
SHARES = (0.95, 0.05)


def fit_head(
    ratings: str | os.PathLike[str] | Database,
    *,
    output: str | os.PathLike[str],
    metric: str | Metric | None = None,
    dimensions: str | Sequence[str] | None = None,
    score_ranges: Mapping[str, tuple[float, float]] | tuple[float, float] | None = None,
    references: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    seed: int = 0,
    device: str | torch.device | None = None,
    workers: int | None = None,
    cache_dir: str | os.PathLike[str] | bool | None = None,
    progress: bool = False,
) -> Metric:
    """Fit a head to twenty to a hundred ratings of your own, and write it as a checkpoint.

    A frozen trunk describes each image, and a ridge (a Gaussian process with a linear kernel) learns the ratings from
    that. Its strength is the one with which left-out groups of images are predicted best. The same ratings and seed
    give the same bytes on one machine.

    Args:
        ratings: a table (`.csv`, `.json`, `.jsonl`, `.parquet`, `.xlsx`) with a column `image` and one of numbers for
            each dimension, or with columns `better` and `worse`; a folder with such a table; a `Database`. Optional
            columns: `reference`, `prompt`, `group`, `generator`, `votes`, `<dimension>_std`. docs/fit.md says which
            columns are taken for what.
        output: folder of the checkpoint: `create_metric(..., weights=output)` and `Metric.from_pretrained(output)`
            load it.
        metric: whose trunk describes the images: a name, whose ImageNet weights are taken, or a metric with its own
            weights. If absent `nr-efficientnet-lite2`, whose weights the extra `fit` installs. A full-reference one
            reads differences from the image prompts, too.
        dimensions: the columns that hold ratings; those of numbers if absent.
        score_ranges: dimension -> (lowest, highest) rating there can be, or one pair for all.
        references: image prompt of the images that have none in the table, or a folder of them.
        overwrite: replace a checkpoint that is in `output`.
        seed: of the folds and resamples that figures are made with.
        device: where to compute features; the CPU if absent.
        workers: decoding threads; one per core if absent.
        cache_dir: folder in which features are kept by content, so that a second fit takes a moment;
            `~/.cache/aigciqa` if absent, none if False.
        progress: show a progress bar.

    Returns:
        The metric, which is what was written. `config.results` has, for each dimension, agreement with ratings that
        were left out (SRCC, PLCC, RMSE with 95% intervals), the same for controls, and a learning curve.

    Raises:
        InputError: ratings that can't be used; the message lists every problem.
        ImageError: images that can't be read; it lists them.
        OutputExistsError: `output` holds a checkpoint, or something else.
        MissingExtraError: a package is missing.
        WeightsError: the trunk's weights could not be loaded.

    Example::

        metric = aigciqa.fit_head("ratings.csv", output="my-metric", score_ranges=(1, 5))
        metric.predict("new.png", uncertainty=True)
    """
    if seed < 0:
        raise InputError(f"seed is 0 or more; got {seed}")
    folder = checked_folder(output)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one for the checkpoint")
    if (folder / CONFIG_FILE).exists() and not overwrite:
        raise OutputExistsError(f"{folder} holds a checkpoint already: pass `overwrite=True` to replace it")
    with locked(folder):
        rated = read_ratings(ratings, dimensions, score_ranges, references)
        frozen, reader = prepared(metric, dict(rated.score_ranges), device, workers, cache_dir)
        task, measured = _task(frozen, reader, rated, progress)
        figures = cross_validate(task, controls=_controls(measured), generators=rated.generators, seed=seed)
        training = {
            "recipe": "aigciqa.fit_head",
            "version": aigciqa.__version__,
            "trunk": f"{frozen.config.backbone}, frozen",
            "images": len(rated.images),
            RATED: " ".join(sorted(_marks(measured)) if len(measured) <= _MOST_MARKS else ()),
            "ratings": {name: each.ratings for name, each in figures.items()},
            "seed": seed,
        }
        results = {name: each.to_json() for name, each in figures.items()}
        found = fit(task)
        scores = dict(zip(found.dimensions, found.predict(task.features).T, strict=True))
        known = ReferenceSet.of("rated images", scores, rated.score_ranges)
        fitted = _fitted(frozen, found, training, results, known)
        fitted.save_pretrained(folder)
    return fitted


def suggest_ratings(
    ratings: str | os.PathLike[str] | Database | Metric,
    images: Iterable[str | os.PathLike[str] | Item],
    n: int = 20,
    *,
    metric: str | Metric | None = None,
    dimensions: str | Sequence[str] | None = None,
    score_ranges: Mapping[str, tuple[float, float]] | tuple[float, float] | None = None,
    references: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    workers: int | None = None,
    cache_dir: str | os.PathLike[str] | bool | None = None,
    progress: bool = False,
) -> list[Item]:
    """The images whose ratings would teach most: they are uncertain, stand for many others, and are unlike each other.

    Args:
        ratings: those that there are, as `fit_head` takes them; or what it made of them, a `Metric` or its folder.
        images: to choose from. Those that were rated are not chosen, also if they lie elsewhere by now; of copies, one
            is. Where a reference is needed, `Item` objects with one.
        n: how many.

    The other arguments are `fit_head`'s; of a checkpoint, `metric`, `dimensions`, `score_ranges` and `references` are
    known.

    Returns:
        Items, the most instructive first; fewer than `n` if there are fewer.

    Raises:
        InputError: as `fit_head`; a checkpoint without such a head; no images.
        ImageError, MissingExtraError, WeightsError: as `fit_head`. Images to choose from that can't be read are left
            out, with a warning.

    Example::

        for item in aigciqa.suggest_ratings("ratings.csv", glob.glob("outputs/*.png"), n=10):
            print(item.image)
    """
    if n < 1:
        raise InputError(f"n is 1 or more; got {n}")
    items = [each if isinstance(each, Item) else Item(os.fspath(each)) for each in images]
    known: frozenset[str] = frozenset()
    if not isinstance(ratings, Database | Metric) and Path(os.path.expanduser(ratings), CONFIG_FILE).exists():
        ratings = Metric.from_pretrained(ratings, device=device)
    if isinstance(ratings, Metric):
        frozen = ratings
        found = _fit_of(frozen)
        reader = FeatureReader(frozen, cache_dir, workers)
        marks = set(str(frozen.config.training.get(RATED, "")).split())
    else:
        rated = read_ratings(ratings, dimensions, score_ranges, references)
        frozen, reader = prepared(metric, dict(rated.score_ranges), device, workers, cache_dir)
        task, of_rated = _task(frozen, reader, rated, progress)
        found = fit(task)
        known, marks = frozenset(rated.images), _marks(of_rated)
    items = [item for item in items if absolute(item.image) not in known]
    readings = list(zip(items, reader.read(items, progress), strict=True))
    if errors := [each for _, each in readings if isinstance(each, ImageError)]:
        warnings.warn(f"{counted(errors, 'image')} left out: {shown(list(map(str, errors)))}", stacklevel=2)
    pool: dict[tuple[str, str | None], tuple[Item, Measured]] = {}  # of copies, the first
    for item, each in readings:
        if isinstance(each, Measured) and _mark(each) not in marks:
            pool.setdefault((each.digest, item.reference), (item, each))
    if not pool:
        raise InputError("no images to choose from, beside those that were rated")
    items, measured = map(list, zip(*pool.values(), strict=True))
    blocks = blocks_of(frozen, measured)
    if frozen.requires_reference:
        blocks += _differences(frozen, reader, items, measured, progress)
    return [items[index] for index in suggest(found, np.concatenate(blocks, axis=1), n)]


def _mark(measured: Measured) -> str:
    return measured.digest[:_DIGITS]


def _marks(measured: Iterable[Measured]) -> set[str]:
    return set(map(_mark, measured))


def prepared(
    metric: str | Metric | None,
    score_ranges: dict[str, tuple[float, float]],
    device: str | torch.device | None,
    workers: int | None,
    cache_dir: str | os.PathLike[str] | bool | None,
) -> tuple[Metric, FeatureReader]:
    frozen = frozen_metric(metric, score_ranges).to("cpu" if device is None else device)
    return frozen, FeatureReader(frozen, cache_dir, workers)


def _task(frozen: Metric, reader: FeatureReader, rated: Ratings, progress: bool) -> tuple[Task, list[Measured]]:
    """What is to be fitted, and what is known of the images."""
    measured = succeeded(reader.read(rated.images, progress))
    blocks = blocks_of(frozen, measured)
    if frozen.requires_reference:
        items = [Item(image, reference) for image, reference in zip(rated.images, rated.references, strict=True)]
        blocks += _differences(frozen, reader, items, measured, progress)
    has_trunk = len(blocks) == len(SHARES) * (1 + frozen.requires_reference)  # `lite` has its statistics alone
    shares = SHARES * (1 + frozen.requires_reference) if has_trunk else None
    groups = _groups(rated, measured)
    if rated.pairs:
        pairs = {name: (each.better, each.worse, each.weight) for name, each in rated.pairs.items()}
        return pair_task(blocks, pairs, score_ranges=rated.score_ranges, groups=groups, shares=shares), measured
    return score_task(blocks, rated.scores, weights=rated.weights, groups=groups, shares=shares), measured


def _groups(rated: Ratings, measured: Sequence[Measured]) -> list[str]:
    """The group of each image. A copy makes one of two groups: left out alone, it would be known from the other."""
    groups = list(rated.groups)
    first: dict[str, int] = {}
    for index, each in enumerate(measured):
        joins = groups[first.setdefault(each.digest, index)]
        if groups[index] != joins:
            groups = [joins if group == groups[index] else group for group in groups]
    return groups


def blocks_of(frozen: Metric, measured: Sequence[Measured]) -> list[Array]:
    """Features (n, d) by where they come from."""
    features = np.stack([each.features for each in measured]).astype(np.float64)
    widths: Any = frozen.backbone.widths
    parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
    return [part for part in parts if part.shape[1]]


def _differences(
    frozen: Metric, reader: FeatureReader, items: Sequence[Item], measured: Sequence[Measured], progress: bool
) -> list[Array]:
    """How far images' features are from their references', by where they come from."""
    references = dict.fromkeys(item.reference for item in items if item.reference is not None)
    if alone := [item.image for item in items if item.reference is None]:
        raise InputError(
            f"{counted(alone, 'image')} without a reference, and {frozen.name} needs one: {shown(alone)}. Add a column "
            "'reference', or pass `references=FOLDER`"
        )
    found = dict(zip(references, succeeded(reader.read(list(references), progress)), strict=True))
    of_references = blocks_of(frozen, [found[item.reference] for item in items if item.reference is not None])
    return [one - other for one, other in zip(blocks_of(frozen, measured), of_references, strict=True)]


def _controls(measured: Sequence[Measured]) -> dict[str, Array]:
    """What needs no fit, and should agree less."""
    return {
        "nr-lite": np.array([each.lite for each in measured]),
        "image size": np.array([each.pixels for each in measured]),
        "file size": np.array([each.size for each in measured]),
    }


def _fitted(
    frozen: Metric, found: LinearFit, training: dict[str, Any], results: dict[str, Any], known: ReferenceSet
) -> Metric:
    """The metric with its head."""
    head = frozen.head
    assert isinstance(head, LinearHead)
    state = head.state_dict()
    rows, columns = found.basis.shape[0], len(found.dimensions)
    values = {
        "scores.weight": found.weight, "scores.bias": found.bias, "centre": found.centre, "scale": found.scale,
        "prior": found.prior, "noise": found.noise,
    }  # fmt: skip
    for name, value in values.items():
        state[name].copy_(torch.from_numpy(value))
    state["basis"][:rows] = torch.from_numpy(found.basis)
    state["shrink"][:columns, :rows] = torch.from_numpy(found.shrink)
    frozen.config = replace(frozen.config, training=training, results=results, reference_sets=(known,))
    return frozen


def _fit_of(metric: Metric) -> LinearFit:
    """What a fitted metric's head knows."""
    if not isinstance(metric.head, LinearHead):
        raise InputError(f"{metric.name} has no head from fit_head, which alone knows what it is uncertain of")
    state = {name: tensor.double().numpy(force=True) for name, tensor in metric.head.state_dict().items()}
    weight, bias = state.pop("scores.weight"), state.pop("scores.bias")
    return LinearFit(metric.dimensions, weight, bias, **state, strengths=np.array([]), shares=np.array([]))
