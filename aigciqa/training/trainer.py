"""Training of the paper's metrics: `aigciqa train` as a function.

The recipe is that of the paper (PKU-I2IQA, section 5); `settings` holds its numbers, `learner` one step of it, `loop`
the epochs. Beyond the paper: several dimensions jointly, a frozen backbone, mixed precision, several devices (Lightning
Fabric), early stopping, and runs that go on after being killed as if nothing had happened.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aigciqa.create import create_metric, load_imagenet
from aigciqa.errors import InputError
from aigciqa.metric import Metric
from aigciqa.stats.correlations import MIN_SAMPLES
from aigciqa.training.image_cache import build_cache, default_folder
from aigciqa.training.learner import Learner, Targets
from aigciqa.training.loop import Run
from aigciqa.training.run_folder import RunFolder, check_images, digests, read_state
from aigciqa.training.settings import PRECISIONS
from aigciqa.training.settings import Settings as Settings
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import locked
from aigciqa.utils.hardware import check_device
from aigciqa.utils.object_stores import local_path
from aigciqa.utils.paths import counted, shown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from aigciqa.databases import Database, Sample, Split
    from aigciqa.stats.correlations import Agreement


def train(
    database: Database,
    split: Split,
    settings: Settings,
    output: str | os.PathLike[str],
    *,
    resume: bool = False,
    devices: int = 1,
    device: str = "auto",
    cache: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    license: str | None = None,
    tensorboard: bool = False,
    progress: bool = True,
) -> Metric:
    """Train a metric on the training part of a split, and keep the epoch that does best on the validation part.

    After every epoch the state is on disk: a run that was killed goes on with `resume`, and on the CPU ends bit for bit
    where it would have ended. The folder is a checkpoint for `create_metric`, `aigciqa score` and `aigciqa publish`;
    what else the run keeps is below `training/` in it.

    Args:
        database: where the samples are from.
        split: its parts to train on and to choose the epoch on.
        settings: what to train, and how.
        output: folder of the checkpoint, made if absent.
        resume: go on with the run that `output` holds; one that was killed in its first epoch begins anew.
        devices: how many to use, each a process of its own.
        device: `"auto"`, `"cpu"`, `"cuda"` or `"mps"`.
        cache: where decoded images are kept; see `image_cache.default_folder`.
        workers: decoding threads; one per core if absent.
        license: SPDX identifier of the weights' license; with `resume`, that of the run if absent.
        tensorboard: also log to `training/tensorboard`.
        progress: whether to show bars.

    Returns:
        The best epoch's metric.

    Raises:
        InputError: unusable settings, dimensions the database does not have, ratings that are all equal, fewer than
            three images to choose the epoch on, nothing to resume, or a run of other settings, images or ratings.
        OutputExistsError: `output` holds a checkpoint or a run, and `resume` is not set; or a README of yours.
        LockedError: another run writes to `output`.
        DatabaseError: images can't be read.
        TrainingError: it diverged; the best epoch before that is kept.
    """
    absent = [name for name in settings.dimensions if name not in database.dimensions]
    if absent:
        raise InputError(f"{database.name} was not rated for {absent[0]}; it has: {', '.join(database.dimensions)}")
    _check_ratings(split, settings.dimensions)
    fabric = _launched(settings, device, devices)
    folder = RunFolder(local_path(output))
    if fabric.is_global_zero:
        folder.check(resume)
    with locked(folder.state_file) if fabric.is_global_zero else nullcontext(), _undisturbed(fabric.device.type):
        if fabric.is_global_zero:
            folder.prepare(split, resume)
        fabric.barrier()
        state = read_state(folder.state_file, settings.to_dict(), split) if folder.state_file.exists() else None
        metric = _starting_metric(settings, database.score_range, split.train, state)
        paths = [path for sample in (*split.train, *split.validation) for path in _images(sample, metric)]
        workers = workers or os.cpu_count() or 1
        with fabric.rank_zero_first():
            images = build_cache(
                paths,
                metric.config.preprocess,
                Path(os.path.expanduser(cache)) if cache is not None else default_folder(),
                workers=workers,
                progress=progress and fabric.is_global_zero,
            )
        if state is not None and license is None:
            license = folder.license()
        learner = Learner(fabric, metric, settings, split.train, images)
        if not learner.batches(1):
            raise InputError(f"{len(split.train)} images to train on can't be shared by {fabric.world_size} devices")
        found = digests(paths, split.root, workers)
        run = Run(learner, split, folder, replace(metric.config, license=license), found, progress)
        if state is not None:
            check_images(folder.state_file, state, found)
            run.restore(state)
        run.go(tensorboard)
        if fabric.is_global_zero:
            _write_results(folder, split, license, str(fabric.device), workers)
        fabric.barrier()
    return Metric.from_pretrained(folder.path, metric=settings.metric)


def _starting_metric(
    settings: Settings,
    score_range: Mapping[str, tuple[float, float]],
    samples: Sequence[Sample],
    state: Mapping[str, Any] | None,
) -> Metric:
    """The metric to train, whose head gives targets; with a run's state its weights are still to be put in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        template = create_metric(settings.metric, weights=None)
        if not template.head.output_layer or template.config.preprocess.crop is None:
            raise InputError(
                f"{settings.metric} can't be trained here: expected a head with an output_layer, and a preprocess with "
                "a crop; the embedded metrics are made by examples/train_lite.py"
            )
        config = replace(template.config, score_ranges={name: score_range[name] for name in settings.dimensions})
        metric = Metric(config if state is None else replace(config, options=state["options"]))
    if state is not None:
        return metric
    with torch.no_grad():  # the head starts at the mean opinion, as it would after a few steps
        metric.head.get_parameter(f"{metric.head.output_layer}.bias").zero_()
    return _with_start(metric, settings.start, samples)


def _with_start(metric: Metric, start: str, samples: Sequence[Sample]) -> Metric:
    """A metric with the weights to start from; also those of the head, if a checkpoint of its kind has such a one."""
    config = metric.config
    if start == "imagenet":
        return load_imagenet(metric)
    if start == "none":
        return metric
    path = Path(os.path.expanduser(start))
    if path.is_file():
        return load_imagenet(metric, path)
    given = Metric.from_pretrained(start)
    if given.config.backbone != config.backbone:
        raise InputError(f"{start} has the backbone {given.config.backbone}; expected {config.backbone}")
    started = Metric(replace(config, options=given.config.options))
    if started.feature_dim != metric.feature_dim:
        raise InputError(
            f"{start} was made by `aigciqa fit`, or has a head of that kind, whose features are others than those that "
            "are trained here: start from a checkpoint of `aigciqa train`"
        )
    started.backbone.load_state_dict(given.backbone.state_dict())
    started.head.load_state_dict(metric.head.state_dict())
    is_trained = bool(given.config.training)  # else its head is random, and so is the scale of what it gives
    has_head = (given.config.kind, given.config.head, given.dimensions) == (config.kind, config.head, config.dimensions)
    if is_trained and has_head:
        ranges = [[each.score_ranges[name] for name in config.dimensions] for each in (given.config, config)]
        started.load_state_dict(Targets.of(samples, metric).from_scores(given.state_dict(), *ranges))
    return started


def _check_ratings(split: Split, dimensions: Sequence[str]) -> None:
    """Refuse what nothing could be learnt from, or no epoch be chosen by."""
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


def _launched(settings: Settings, device: str, devices: int) -> Fabric:
    """The devices; raises InputError where there are none of that kind, or they can't share a batch."""
    with needs_extra("train", "training needs lightning-fabric"):
        from lightning_fabric import Fabric

    if device != "auto":
        check_device(device)
    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=PRECISIONS[settings.dtype])  # type: ignore[arg-type]
    except (RuntimeError, ValueError, ImportError) as error:  # so many are not here, or no driver's package
        raise InputError(f"`device={device!r}`, `devices={devices}`: {error}") from None
    fabric.launch()
    if settings.batch_size % fabric.world_size:
        raise InputError(f"batches of {settings.batch_size} images can't be shared by {fabric.world_size} devices")
    return fabric


@contextmanager
def _undisturbed(device: str) -> Iterator[None]:
    """Training with gradients, whatever the caller has set: no autocast, and new tensors on the CPU.

    An autocast of the caller's would also keep the half-precision weights that a run's own makes for one step.
    """
    is_within = torch.is_autocast_enabled(device)
    autocast = torch.autocast(device, enabled=False, cache_enabled=False) if is_within else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), autocast:
        yield


def _images(sample: Sample, metric: Metric) -> list[str]:
    """The files of a sample that a metric reads."""
    if not metric.requires_reference:
        return [sample.image]
    if sample.reference is None:
        raise InputError(f"{sample.image} has no image prompt, and {metric.name} needs one: train an nr- metric")
    return [sample.image, sample.reference]


def _write_results(folder: RunFolder, split: Split, license: str | None, device: str, workers: int) -> None:
    """Add the figures on the test part to the checkpoint's config and card, and the license, which may be a new one."""
    from aigciqa.evaluation.evaluate import evaluate

    metric = Metric.from_pretrained(folder.path)
    config = replace(metric.config, license=license)
    if len(split.test) >= MIN_SAMPLES:
        try:
            evaluation = evaluate(metric.to(device), split.test, workers=workers)
        except InputError as error:  # hardly any of its images can be read
            warnings.warn(f"there are no figures on the test part: {error}", stacklevel=3)
        else:
            if failures := evaluation.failures:
                of = counted(split.test, "image")
                why = f"{len(failures)} of the {of} of the test part can't be read, and its figures are of the others"
                warnings.warn(f"{why}: {shown([error for _, _, error in failures])}", stacklevel=3)
            config = replace(config, results={each.dimension: _figures(each.agreement) for each in evaluation.results})
    folder.write_checkpoint(config, metric.state_dict())


def _figures(agreement: Agreement) -> dict[str, Any]:
    """Figures as `config.json` keeps them: [value, low, high], or the value alone where it has no interval."""
    figures: dict[str, Any] = {}
    for name, each in agreement.intervals().items():
        if math.isfinite(each.value):
            values = [round(value, 4) for value in (each.value, each.low, each.high) if math.isfinite(value)]
            figures[name] = values if len(values) == 3 else values[0]
    return figures
