"""Training of the paper's metrics: `aigciqa train` as a function.

As published (PKU-I2IQA, section 5): Adam, learning rate 1e-4, weight decay 1e-5, batch 8, mean squared error, random
crop and horizontal flip of every image for itself, 100 epochs, the epoch with the best SRCC. Opinion scores are
learnt in standard deviations from their mean, so that their unit does not matter; on the paper's scale of five points
one is about a point. Beyond that: several dimensions jointly, a frozen backbone, mixed precision, several devices
(Lightning Fabric), early stopping, and runs that go on after being killed as if nothing had happened.
"""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aigciqa import __version__
from aigciqa.backbones.base import Backbone
from aigciqa.checkpoints.format import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    MetricConfig,
    model_card,
    read_config,
    write_checkpoint,
)
from aigciqa.cpu.convolution import use_products
from aigciqa.cpu.parallel_passes import SideBySide
from aigciqa.errors import CheckpointError, InputError, OutputExistsError, TrainingError
from aigciqa.images.preprocess import normalize
from aigciqa.metric import Metric, create_metric
from aigciqa.registry import Preprocess
from aigciqa.training.activation_checkpointing import checkpointed_forward
from aigciqa.training.image_cache import ImageCache, Pixels, build_cache, default_folder
from aigciqa.training.state import check_images, digests, read_state, save_state, split_metadata
from aigciqa.training.targets import Targets, check_ratings
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.files import locked, replacing

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from aigciqa.databases.base import Database, Sample
    from aigciqa.databases.splits import Split
    from aigciqa.stats.correlations import Agreement

PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}
#: Files of a run, below `training/` in the checkpoint's folder.
STATE_FILE, LOG_FILE, SPLIT_FILE = "state.pt", "log.csv", "split.json"
#: Images per pass when nothing is learned from them.
EVALUATION_BATCH = 32


@dataclass(frozen=True)
class Settings:
    """What a run is made with; together with the split it decides the outcome.

    Attributes:
        metric: name of the metric to train.
        dimensions: opinion scores to learn, jointly where there are several.
        epochs: passes over the training part.
        batch_size: images per step, over all devices.
        learning_rate, weight_decay: Adam's.
        gradient_accumulation: steps whose gradients are added up before the weights move.
        patience: epochs without a better SRCC after which to stop; None trains all epochs.
        seed: of the head's initial weights, of the order of the images, of crops and flips.
        start: the weights to start from: `"imagenet"`, `"none"` (random), or a folder, repo or ImageNet file.
        frozen: train the head alone, on features computed once (centre crop).
        dtype: what the network computes in: `"float32"`, or mixed with `"bfloat16"` or `"float16"`.
        activation_checkpointing: compute feature maps twice instead of keeping them: less memory, more time, the same
            outcome.
    """

    metric: str
    dimensions: tuple[str, ...]
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    gradient_accumulation: int = 1
    patience: int | None = None
    seed: int = 0
    start: str = "imagenet"
    frozen: bool = False
    dtype: str = "float32"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if not self.dimensions or len(set(self.dimensions)) < len(self.dimensions):
            raise InputError(f"dimensions are one or more distinct names; got {self.dimensions}")
        for name in ("epochs", "batch_size", "gradient_accumulation"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more; got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience is 1 or more; got {self.patience}")
        if not 0 < self.learning_rate < math.inf or not 0 <= self.weight_decay < math.inf:
            raise InputError(f"learning rate {self.learning_rate}, weight decay {self.weight_decay}: not positive")
        if self.dtype not in PRECISIONS:
            raise InputError(f"dtype is one of {', '.join(PRECISIONS)}; got {self.dtype!r}")


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs done.
        best_epoch: the one whose weights are kept, from 1; 0 before there is one.
        best: its mean SRCC on the validation part; minus infinity where that is NaN, so that any number is better.
        history: a row of the log for each epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: float = -float("inf")
    history: list[dict[str, float]] = field(default_factory=list)


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
        license: SPDX identifier of the weights' licence.
        tensorboard: also log to `training/tensorboard`.
        progress: whether to show bars.

    Returns:
        The best epoch's metric.

    Raises:
        ValueError: unusable settings, dimensions the database does not have, ratings that are all equal, fewer than
            three images to choose the epoch on, or a run to resume that is one of other settings, images or ratings.
        OutputExistsError: `output` holds a checkpoint or a run, and `resume` is not set; or a README of yours.
        LockedError: another run writes to `output`.
        DatabaseError: images can't be read.
        TrainingError: it diverged; the best epoch before that is kept.
    """
    absent = [name for name in settings.dimensions if name not in database.dimensions]
    if absent:
        raise InputError(f"{database.name} was not rated for {absent[0]}; it has: {', '.join(database.dimensions)}")
    check_ratings(split, settings.dimensions)
    fabric = _launched(settings, device, devices)
    folder = Path(output).expanduser()
    if fabric.is_global_zero:
        _check_folder(folder, resume)
    state_file = folder / "training" / STATE_FILE
    with locked(state_file) if fabric.is_global_zero else nullcontext(), _alone(fabric.device.type):
        if fabric.is_global_zero:
            _prepare_folder(folder, split, resume)
        fabric.barrier()
        state = read_state(state_file, _plain(settings), split) if state_file.exists() else None
        targets = Targets.of(split.train, settings.dimensions)
        metric = _initial(settings, database, targets, state)
        paths = [path for sample in (*split.train, *split.validation) for path in _images(sample, metric)]
        workers = workers or os.cpu_count() or 1
        with fabric.rank_zero_first():
            pixels = build_cache(
                paths,
                metric.config.preprocess,
                Path(cache).expanduser() if cache is not None else default_folder(),
                workers=workers,
                progress=progress and fabric.is_global_zero,
            )
        images = digests(paths, split.root, workers)
        learner = Learner(fabric, metric, settings, split.train, pixels)
        if not learner.batches(1):
            raise InputError(f"{len(split.train)} images to train on can't be shared by {fabric.world_size} devices")
        run = _Run(learner, split, folder, replace(metric.config, license=license), images, progress)
        if state is not None:
            check_images(state_file, state, images)
            run.restore(state)
        run.go(tensorboard)
        if fabric.is_global_zero:
            _write_results(folder, split, str(fabric.device), workers)
        fabric.barrier()
    return Metric.from_pretrained(folder, metric=settings.metric)


@contextmanager
def _alone(device: str) -> Iterator[None]:
    """Training with gradients, whatever the caller has set: no autocast, and new tensors on the CPU.

    An autocast of the caller's would also keep the half-precision weights that a run's own makes for one step.
    """
    is_within = torch.is_autocast_enabled(device)
    autocast = torch.autocast(device, enabled=False, cache_enabled=False) if is_within else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), torch.device("cpu"), autocast:
        yield


def _launched(settings: Settings, device: str, devices: int) -> Fabric:
    """The devices; raises InputError where there are none of that kind, or they can't share a batch."""
    from lightning_fabric import Fabric

    try:
        fabric = Fabric(accelerator=device, devices=devices, precision=PRECISIONS[settings.dtype])  # type: ignore[arg-type]
    except (RuntimeError, ValueError, ImportError) as error:  # none here, no such kind, no driver's package
        raise InputError(f"device {device}: {error}") from None
    fabric.launch()
    if settings.batch_size % fabric.world_size:
        raise InputError(f"batches of {settings.batch_size} images can't be shared by {fabric.world_size} devices")
    return fabric


def _write_results(folder: Path, split: Split, device: str, workers: int | None) -> None:
    """Add the figures on the test part to the checkpoint's config and card."""
    from aigciqa.evaluation.evaluate import evaluate
    from aigciqa.stats.correlations import MIN_SAMPLES

    if len(split.test) < MIN_SAMPLES:
        return
    metric = Metric.from_pretrained(folder)
    evaluation = evaluate(metric.to(device), split.test, workers=workers)
    results = {each.dimension: _figures(each.agreement) for each in evaluation.results}
    write_checkpoint(folder, replace(metric.config, results=results), metric.state_dict(), _changed_card(folder))


def _figures(agreement: Agreement) -> dict[str, Any]:
    """Figures as `config.json` keeps them: [value, low, high], or the value alone where it has no interval."""
    figures: dict[str, Any] = {}
    for name, each in agreement.intervals().items():
        if math.isfinite(each.value):
            values = [round(value, 4) for value in (each.value, each.low, each.high) if math.isfinite(value)]
            figures[name] = values if len(values) == 3 else values[0]
    return figures


def _initial(settings: Settings, database: Database, targets: Targets, state: dict[str, Any] | None) -> Metric:
    """The metric to train, whose head gives targets: with its starting weights, or as the state's are to be put in."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        template = create_metric(settings.metric, weights=None)
        if settings.metric.endswith("-lite"):
            raise InputError(f"{settings.metric} is trained by examples/train_lite.py; expected a metric of the paper")
        config = replace(
            template.config,
            dimensions=settings.dimensions,
            score_range={name: database.score_range[name] for name in settings.dimensions},
        )
        metric = Metric(config if state is None else replace(config, options=state["options"]))
    if state is not None:
        return metric
    with torch.no_grad():  # the head starts at the mean opinion, as it would after a few steps
        metric.head.get_parameter("fc2.bias").zero_()
    return _with_start(metric, settings.start, targets)


def _with_start(metric: Metric, start: str, targets: Targets) -> Metric:
    """A metric with the weights to start from; from a checkpoint of the same kind and dimensions, the head's too."""
    from aigciqa.checkpoints.imagenet import load_imagenet

    config = metric.config
    if start == "imagenet":
        return load_imagenet(metric)
    if start == "none":
        return metric
    path = Path(start).expanduser()
    if path.is_file():
        return load_imagenet(metric, path)
    given = Metric.from_pretrained(start)
    if given.config.backbone != config.backbone:
        raise InputError(f"{start} has the backbone {given.config.backbone}; expected {config.backbone}")
    started = Metric(replace(config, options=given.config.options))
    started.backbone.load_state_dict(given.backbone.state_dict())
    started.head.load_state_dict(metric.head.state_dict())
    if given.config.kind == config.kind and given.dimensions == config.dimensions:
        ranges = [[each.score_range[name] for name in config.dimensions] for each in (given.config, config)]
        started.load_state_dict(targets.from_scores(given.state_dict(), *ranges))
    return started


def _images(sample: Sample, metric: Metric) -> list[str]:
    """The files of a sample that a metric reads."""
    if not metric.requires_reference:
        return [sample.image]
    if sample.reference is None:
        raise InputError(f"{sample.image} has no image prompt, and {metric.name} needs one: train an nr- metric")
    return [sample.image, sample.reference]


def _check_folder(folder: Path, resume: bool) -> None:
    """Raise unless the folder is new, or has a run to go on with.

    The state is written before the checkpoint: a run without it was killed in its first epoch, and has nothing to lose.
    """
    state, has_head = folder / "training" / STATE_FILE, (folder / CONFIG_FILE).exists()
    if resume and state.exists():
        return
    if resume and (has_head or not (folder / "training" / SPLIT_FILE).exists()):
        what = state.relative_to(folder)
        raise InputError(f"nothing to resume in {folder}: it holds no {what}; train anew in another folder")
    if state.exists() or has_head:
        raise OutputExistsError(f"{folder} holds a run or a checkpoint already: resume it, or name another folder")
    for name in (CARD_FILE, WEIGHTS_FILE):
        if (folder / name).exists():
            raise OutputExistsError(f"{folder / name} would be replaced: move it away, or name another folder")


def _prepare_folder(folder: Path, split: Split, resume: bool) -> None:
    """Make the folder of a new run. What another run has done to it since it was checked is seen here."""
    _check_folder(folder, resume)
    (folder / "training").mkdir(parents=True, exist_ok=True)
    if not (folder / "training" / STATE_FILE).exists():
        split.save(folder / "training" / SPLIT_FILE)


def _changed_card(folder: Path) -> str | None:
    """The checkpoint's card, if someone has changed it since it was written: it is kept."""
    try:
        card = (folder / CARD_FILE).read_bytes().decode()
        config, _ = read_config(folder / CONFIG_FILE)
    except (FileNotFoundError, CheckpointError):
        return None
    return None if card == model_card(config) else card


class Trainee(nn.Module):
    """What learns: preprocessed images in, targets out, in training mode where the metric is pinned to evaluation."""

    def __init__(self, metric: Metric, settings: Settings, device: torch.device) -> None:
        super().__init__()
        self.activation_checkpointing = settings.activation_checkpointing
        is_on_cpu = device.type == "cpu"
        has_layout = is_on_cpu and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self.blocked = has_layout and metric.backbone.has_blocked_layout and settings.dtype == "float32"
        layout = torch.contiguous_format if self.blocked else torch.channels_last
        self.backbone = metric.backbone.to(memory_format=layout).requires_grad_(not settings.frozen)
        self.head = metric.head
        self.spec: Preprocess = metric.config.preprocess
        has_cores = is_on_cpu and torch.get_num_threads() > 1
        has_pairs = metric.requires_reference and not settings.frozen
        # Fabric takes bfloat16 on the CPU where float16 was asked for.
        is_mixed = is_on_cpu and settings.dtype != "float32"
        if is_mixed and not settings.frozen:
            use_products(self.backbone)
        self.passes: SideBySide | None = None
        if has_cores and has_pairs and self.backbone.runs_side_by_side:
            self.passes = SideBySide(self.backbone, self.encode, torch.bfloat16 if is_mixed else torch.float32)

    def encode(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """Features (B, D) of images, uint8 (B, 3, h, w)."""
        images = normalize(pixels.float().div_(255), self.spec)
        if self.blocked:
            images = images.to_mkldnn()
        again = self.activation_checkpointing and torch.is_grad_enabled()
        maps = checkpointed_forward(backbone, images) if again else backbone(images)
        features: Tensor = backbone.pool((maps.to_dense() if self.blocked else maps).float())
        return features

    def forward(self, generated: Tensor, reference: Tensor | None = None) -> Tensor:
        """Targets (B, n), as found, of uint8 images (B, 3, h, w), or of their features (B, D).

        The images of a pair go through the backbone apart, as in the paper authors' script: batch normalisation sees
        generated images and prompts one after the other.
        """
        parts = [part for part in (generated, reference) if part is not None]
        if parts[0].dim() == 2:
            features = parts
        elif self.passes is not None:
            features = self.passes.features(parts)
        else:
            features = [self.encode(self.backbone, part) for part in parts]
        found: Tensor = self.head(torch.cat(features, dim=1))
        return found.float()


class Learner:
    """A metric, what it learns from, and how: steps of training, and scores of what it has learnt so far."""

    def __init__(
        self, fabric: Fabric, metric: Metric, settings: Settings, samples: Sequence[Sample], images: ImageCache
    ) -> None:
        """Args as `train` has them; `metric`'s head is to give targets, and `images` holds those of the samples."""
        self.fabric = fabric
        self.settings = settings
        self.samples = samples
        self.images = images
        self.spec = metric.config.preprocess
        self.with_reference = metric.requires_reference
        self.targets = Targets.of(samples, settings.dimensions)
        self.wanted = self.targets.values(samples, settings.dimensions)
        self.trainee = Trainee(metric, settings, fabric.device)
        learning = [parameter for parameter in self.trainee.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(
            learning, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        self.model, self.optimizer = fabric.setup(self.trainee, optimizer)
        self.features: dict[str, Tensor] = {}

    def steps(self, epoch: int) -> Iterator[tuple[float, int]]:
        """Train through an epoch, from 1: the loss of each step, and of how many images it is."""
        self.trainee.train()
        if self.settings.frozen:
            self.trainee.backbone.eval()
        self.optimizer.zero_grad()
        with self.trainee.passes.running() if self.trainee.passes is not None else nullcontext():
            yield from self._steps(epoch)

    def _steps(self, epoch: int) -> Iterator[tuple[float, int]]:
        batches = self.batches(epoch)
        for step, chosen in enumerate(batches):
            rng = np.random.default_rng([self.settings.seed, epoch, step, self.fabric.global_rank])
            mine = chosen[self.fabric.global_rank :: self.fabric.world_size]
            found = self.model(*(part.to(self.fabric.device) for part in self._inputs(mine, rng)))
            # Lightning gives them in the default dtype
            loss = (found.float() - self.wanted[mine].to(found.device)).square().mean()
            moves = (step + 1) % self.settings.gradient_accumulation == 0 or step + 1 == len(batches)
            with self.fabric.no_backward_sync(self.model, enabled=not moves):
                self.fabric.backward(loss / self.settings.gradient_accumulation)
            if moves:
                self.optimizer.step()
                self.optimizer.zero_grad()
            if self.fabric.world_size > 1:  # all stop where one has to
                loss = self.fabric.all_reduce(loss.detach(), reduce_op="mean")
            yield loss.item(), len(mine)

    def batches(self, epoch: int) -> list[NDArray[np.int64]]:
        """Numbers of the samples of each step: of the seed and the epoch alone. Every device gets as many."""
        order = np.random.default_rng([self.settings.seed, epoch]).permutation(len(self.samples))
        size = self.settings.batch_size
        parts = [order[start : start + size] for start in range(0, len(order), size)]
        return [part for part in parts if len(part) % self.fabric.world_size == 0]

    def weights(self) -> dict[str, Tensor]:
        """The metric's weights as they are now, those that give scores."""
        return self.targets.to_scores(self.trainee.state_dict())

    @torch.no_grad()
    def scores(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Scores (n, dimensions) of other samples in the cache, each distinct image encoded once."""
        self.trainee.eval()
        columns = self._columns(samples)
        self._encode([path for column in columns for path in column])
        features = torch.cat([self._features_of(column) for column in columns], dim=1).to(self.fabric.device)
        if not self.settings.frozen:
            self.features.clear()  # the next step changes them
        scores: NDArray[np.float64] = self.targets.scores(self.trainee.head(features)).numpy()
        return scores

    def _columns(self, samples: Sequence[Sample]) -> list[list[str]]:
        """Paths of the generated images, and of the references if the metric reads them."""
        columns = [[sample.image for sample in samples]]
        return [*columns, [str(sample.reference) for sample in samples]] if self.with_reference else columns

    def _inputs(self, chosen: NDArray[np.int64], rng: np.random.Generator) -> list[Tensor]:
        """What the model reads: a part for each column of images, or their features if the backbone is frozen."""
        columns = self._columns([self.samples[int(number)] for number in chosen])
        if not self.settings.frozen:
            return [_stack([self._augmented(path, rng) for path in column]) for column in columns]
        self._encode([path for column in columns for path in column])
        return [self._features_of(column) for column in columns]

    def _augmented(self, path: str, rng: np.random.Generator) -> Pixels:
        """A random crop, mirrored or not."""
        side = _crop(self.spec)
        height, width = self.images.size(path)
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        pixels = self.images.crop(path, top, left, side)
        return pixels[:, ::-1] if rng.random() < 0.5 else pixels

    def _centre(self, path: str) -> Pixels:
        side = _crop(self.spec)
        top, left = (round((length - side) / 2.0) for length in self.images.size(path))
        return self.images.crop(path, top, left, side)

    def _features_of(self, paths: Sequence[str]) -> Tensor:
        return torch.stack([self.features[path] for path in paths])

    @torch.no_grad()
    def _encode(self, paths: Sequence[str]) -> None:
        """Keep the features of the centre crops of images that have none yet."""
        missing = [path for path in dict.fromkeys(paths) if path not in self.features]
        for start in range(0, len(missing), EVALUATION_BATCH):
            part = missing[start : start + EVALUATION_BATCH]
            pixels = _stack([self._centre(path) for path in part]).to(self.fabric.device)
            with self.fabric.autocast():
                features = self.trainee.encode(self.trainee.backbone, pixels)
            self.features.update(zip(part, features.float().cpu(), strict=True))


class _Run:
    """A run of training on disk, from its first epoch or a later one to its last."""

    def __init__(
        self,
        learner: Learner,
        split: Split,
        folder: Path,
        config: MetricConfig,
        images: dict[str, str],
        progress: bool,
    ) -> None:
        self.learner = learner
        self.fabric = learner.fabric
        self.settings = learner.settings
        self.split = split
        self.folder = folder
        self.config = config
        self.bars = progress and self.fabric.is_global_zero
        self.progress = Progress()
        self.trained_on = {**split_metadata(split), "images": images}

    def go(self, tensorboard: bool) -> None:
        """Train what is left of the epochs.

        Raises:
            TrainingError: it diverged.
        """
        writer = self._writer() if tensorboard and self.fabric.is_global_zero else None
        while self.progress.epoch < self.settings.epochs and not self._exhausted():
            started = time.monotonic()
            loss = self._epoch()
            if self.fabric.is_global_zero:
                self._close_epoch(loss, time.monotonic() - started, writer)
            self.progress = self.fabric.broadcast(self.progress)
        if writer is not None:
            writer.close()
        if self.progress.best == -math.inf:
            warnings.warn(
                f"no epoch could be chosen: in each, all images of the validation part got the same score. Epoch "
                f"{self.progress.best_epoch} is kept; train with another learning rate or seed, in another folder",
                stacklevel=3,
            )

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of the last whole epoch."""
        self.learner.trainee.load_state_dict(state["model"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        self.progress = Progress(**state["progress"])
        if self.fabric.is_global_zero:
            self._write_outcome()  # it may be what the run was killed in

    def _exhausted(self) -> bool:
        patience = self.settings.patience
        return patience is not None and self.progress.epoch - self.progress.best_epoch >= patience

    def _epoch(self) -> float:
        """One pass over the training part; returns the mean loss."""
        from tqdm import tqdm

        epoch = self.progress.epoch + 1
        total, count = 0.0, 0
        steps = tqdm(
            self.learner.steps(epoch),
            total=len(self.learner.batches(epoch)),
            desc=f"epoch {epoch}",
            unit="step",
            leave=False,
            disable=None if self.bars else True,
        )
        for loss, images in steps:
            if not math.isfinite(loss):
                steps.close()
                raise self._diverged(f"the loss is {loss}")
            total, count = total + loss * images, count + images
        return total / count

    def _diverged(self, what: str) -> TrainingError:
        best = self.progress.best_epoch
        kept = f"epoch {best} is kept in {self.folder}" if best else "no weights are kept"
        return TrainingError(
            f"training diverged in epoch {self.progress.epoch + 1}: {what}; {kept}. Train with a smaller learning rate "
            f"than {self.settings.learning_rate:g} in another folder"
        )

    def _validate(self) -> dict[str, float]:
        """SRCC on the validation part, by dimension; NaN where all scores are equal."""
        from scipy.stats import spearmanr

        scores = self.learner.scores(self.split.validation)
        if not np.isfinite(scores).all():
            raise self._diverged("scores of the validation part are not finite")
        found = {}
        for column, name in enumerate(self.settings.dimensions):
            opinions = [sample.scores[name] for sample in self.split.validation]
            constant = np.ptp(scores[:, column]) == 0
            found[name] = float("nan") if constant else float(spearmanr(scores[:, column], opinions)[0])
        return found

    def _close_epoch(self, loss: float, seconds: float, writer: Any) -> None:
        """Validate, keep the weights if they are the best, and put everything on disk."""
        if not all(torch.isfinite(value).all() for value in self.learner.weights().values()):
            raise self._diverged("weights are not finite")
        correlations = self._validate()
        progress = self.progress
        progress.epoch += 1
        mean = float(np.mean(list(correlations.values())))
        row = {"epoch": float(progress.epoch), "loss": loss, "srcc": mean, "seconds": round(seconds, 3)}
        row |= {f"srcc_{name}": value for name, value in correlations.items()}
        progress.history.append(row)
        if mean > progress.best or not progress.best_epoch:
            progress.best, progress.best_epoch = mean if math.isfinite(mean) else -math.inf, progress.epoch
        self._save_state()  # before the checkpoint: whatever a run is killed in, it goes on from here
        self._write_outcome()
        if writer is not None:
            for name, value in row.items():
                writer.add_scalar(name, value, progress.epoch)
        if self.bars:
            from tqdm import tqdm

            best = "  (best)" if progress.best_epoch == progress.epoch else ""
            line = f"epoch {progress.epoch}: loss {loss:.4f}, validation SRCC {mean:.4f}, {seconds:.1f} s{best}"
            tqdm.write(line, file=sys.stderr)

    def _save_state(self) -> None:
        state = {
            "model": self.learner.trainee.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "progress": asdict(self.progress),
            "settings": _plain(self.settings),
            "options": dict(self.config.options),
            **self.trained_on,
        }
        save_state(self.folder / "training" / STATE_FILE, state)

    def _write_outcome(self) -> None:
        """The checkpoint, if the last epoch is the best, and the log."""
        if self.progress.best_epoch == self.progress.epoch:
            self._write_head()
        self._write_log()

    def _write_log(self) -> None:
        path = self.folder / "training" / LOG_FILE
        with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            rows = csv.DictWriter(file, list(self.progress.history[0]))
            rows.writeheader()
            rows.writerows({**row, "epoch": int(row["epoch"])} for row in self.progress.history)

    def _write_head(self) -> None:
        """The checkpoint's folder, of the weights as they are."""
        config = replace(self.config, training=self._metadata())
        write_checkpoint(self.folder, config, self.learner.weights(), _changed_card(self.folder))

    def _metadata(self) -> dict[str, Any]:
        """What the checkpoint's config says of its training."""
        settings = {key: value for key, value in _plain(self.settings).items() if key not in ("metric", "dimensions")}
        return {
            "database": self.split.database,
            "protocol": self.split.protocol,
            "split": self.split.digest,
            "options": dict(self.split.options),
            **settings,
            "optimizer": "Adam",
            "loss": "MSE",
            "targets": "standardised",
            "best_epoch": self.progress.best_epoch,
            "validation_srcc": round(self.progress.best, 4) if math.isfinite(self.progress.best) else None,
            "selected_on_test": self.split.selected_on_test,
            "versions": {"aigciqa": __version__, "torch": torch.__version__},
        }

    def _writer(self) -> Any:
        with needs_extra("train", "--tensorboard needs tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        return SummaryWriter(self.folder / "training" / "tensorboard")


def _stack(images: Sequence[Pixels]) -> Tensor:
    """uint8 (B, 3, h, w), channels last in memory."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _crop(spec: Preprocess) -> int:
    assert spec.crop is not None  # the paper's metrics all crop
    return spec.crop


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON and weights-only pickles keep them."""
    metadata: dict[str, Any] = json.loads(json.dumps(asdict(settings), allow_nan=False))
    return metadata
