"""Features of images by a frozen trunk, kept by content so that no image is read by the network twice."""

from __future__ import annotations

import copy
import functools
import hashlib
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from aigciqa.backbones.crops import CropsBackbone
from aigciqa.backbones.statistics import StatisticsBackbone
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import state_sha256
from aigciqa.create import create_metric
from aigciqa.errors import ImageError, MissingExtraError
from aigciqa.heads import build_head
from aigciqa.images.decode import size_of
from aigciqa.images.preprocess import Preprocessor
from aigciqa.images.reading import read_content
from aigciqa.metric import Metric
from aigciqa.records import Item
from aigciqa.registry import METRICS, Preprocess, metric_info
from aigciqa.scoring.decoding import DecoderPool, Decoding
from aigciqa.scoring.encoder import BatchEncoder, Encoder
from aigciqa.scoring.inference_threads import InferenceThreads
from aigciqa.training.image_cache import default_folder
from aigciqa.utils.files import write_file
from aigciqa.utils.hardware import undisturbed
from aigciqa.utils.lookahead import look_ahead
from aigciqa.utils.paths import counted

#: The metric whose trunk is taken if none is named.
DEFAULT_METRIC = "nr-efficientnet-lite2"
#: Short side that images are resized to, and side of the square in their middle that is read, where a trunk reads any
#: size. On AI-generated images more is seen at this size than at the 224 or 260 pixels that trunks are trained with.
_RESIZE, _CROP = 480, 320
_LEVELS = (1 / 255,) * 3
#: Of what is kept: a change of how features are made must change it.
_VERSION = 2
#: Bytes that a file of the cache begins with; numbers follow: pixels, size, score, features.
_CHECKSUM = 4
#: Of images that can't be read, an error names so many.
_LISTED = 20
#: Images decoded ahead of the network.
_AHEAD = 8

#: Path of an image, or an item that may hold its content.
Source: TypeAlias = "str | Item"


@dataclass(frozen=True)
class Measured:
    """What is known of an image before anybody rates it.

    Attributes:
        digest: of its content, which tells a copy under another name.
        features: float32 (D,).
        pixels: how many the image has.
        size: bytes of its file.
        lite: its score by `nr-lite`.
    """

    digest: str
    features: np.ndarray
    pixels: float
    size: float
    lite: float


def frozen_metric(metric: str | Metric | None, score_ranges: dict[str, tuple[float, float]]) -> Metric:
    """A metric with the statistics of a trunk as its features, and a linear head that is to be fitted.

    Args:
        metric: whose trunk: a name, whose ImageNet weights are taken (those inside the package for `lite`), or a metric
            with its own weights; None for the one that agrees best.
        score_ranges: dimension -> (lowest, highest).

    Raises:
        InputError: unknown name.
        MissingExtraError: a package is missing that has the trunk or its weights.
        WeightsError: the weights could not be loaded.
    """
    if isinstance(metric, Metric) and isinstance(metric.backbone, CropsBackbone):
        metric = metric.name  # whose trunk has its ImageNet weights
    if not isinstance(metric, Metric):
        spec = metric_info(metric or DEFAULT_METRIC)
        weights = "default" if spec.backbone == METRICS["nr-lite"].backbone else "imagenet"
        try:
            metric = create_metric(spec.name, weights=weights)
        except MissingExtraError as error:
            raise MissingExtraError(f"{error}; or take `metric='nr-lite'`, which needs nothing") from None
    else:
        with torch.inference_mode(False):  # whose tensors could never have gradients
            metric = copy.deepcopy(metric).float()  # the caller's stays as it is
    return _frozen(metric, score_ranges)


@undisturbed("cpu")
def _frozen(metric: Metric, score_ranges: dict[str, tuple[float, float]]) -> Metric:
    """The metric itself, with another backbone and a head to be fitted."""
    config, trunk = metric.config, metric.backbone
    if isinstance(trunk, StatisticsBackbone):
        return _renewed(metric, score_ranges, config.preprocess, trunk)
    seen = config.preprocess
    resize, crop = (_RESIZE, _CROP) if trunk.input_side is None else (seen.resize, trunk.input_side)
    preprocess = Preprocess(resize=resize, crop=crop, std=_LEVELS, interpolation=seen.interpolation)
    backbone = StatisticsBackbone(trunk)
    backbone.shift.copy_(torch.tensor(seen.mean).view(3, 1, 1) * 255)
    backbone.factor.copy_(1 / (255 * torch.tensor(seen.std).view(3, 1, 1)))
    backbone.lite.load_state_dict(create_metric("nr-lite").backbone.state_dict())
    return _renewed(metric, score_ranges, preprocess, backbone)


def _renewed(
    metric: Metric,
    score_ranges: dict[str, tuple[float, float]],
    preprocess: Preprocess,
    backbone: StatisticsBackbone,
) -> Metric:
    """The metric with another backbone, and a head to be fitted."""
    old = metric.config
    metric.config = MetricConfig(
        metric=old.metric,
        kind=old.kind,
        backbone=old.backbone,
        options={**old.options, "statistics": True},
        head="linear",
        score_ranges=score_ranges,
        preprocess=preprocess,
    )
    metric.dimension, metric.as_loss, metric.autocast_dtype = metric.dimensions[0], False, None
    metric.preprocessor = Preprocessor(preprocess)
    metric.backbone = backbone
    with torch.random.fork_rng(devices=[]):
        metric.head = build_head("linear", old.kind, backbone.feature_dim, len(score_ranges))
    return metric.requires_grad_(True).eval()


class FeatureReader:
    """Measures images, with `nr-lite` as a control.

    Images are encoded one at a time: features then depend on the image alone, to the last bit.

    Args:
        metric: as `frozen_metric` makes it.
        cache: folder in which what was measured is kept; None for `~/.cache/aigciqa`; False to keep nothing.
        workers: decoding threads; one per core if absent.
    """

    def __init__(self, metric: Metric, cache: str | os.PathLike[str] | bool | None, workers: int | None) -> None:
        self.lite = create_metric("nr-lite", device=metric.device)
        self.metrics = (metric, self.lite)
        self.specs = tuple(each.config.preprocess for each in self.metrics)
        self.workers = workers if workers is not None else os.cpu_count() or 1
        self.width = metric.feature_dim
        self.device = metric.device
        self.folder: Path | None = None
        if cache is not False:
            weights = [state_sha256(each.backbone.state_dict()) for each in self.metrics]
            built = metric.config.backbone, sorted(metric.config.options.items())  # the same weights may do otherwise
            key = hashlib.sha256(f"{_VERSION} {built} {weights} {self.specs}".encode()).hexdigest()[:16]
            root = default_folder() if cache is None or cache is True else Path(os.path.expanduser(cache))
            self.folder = root / "features" / key

    @functools.cached_property
    def encoders(self) -> tuple[Encoder, ...]:
        """Made when the first image is not in the cache."""
        return tuple(Encoder(each) for each in self.metrics)

    def read(self, images: Sequence[Source], progress: bool = False) -> Iterator[Measured | ImageError]:
        """What is known of images, in order; instead of one that can't be read, why."""
        pool = DecoderPool(self.workers, "pillow", self.device)
        # One torch thread for each image, however many there are: sums of several are rounded otherwise.
        threads = InferenceThreads(torch.get_num_threads() if self.device.type == "cpu" else 1)
        with closing(pool), closing(threads):
            started = look_ahead((self._start(pool, image) for image in images), _AHEAD)
            found = threads.map(lambda each: self._finish(pool, each), started)
            yield from tqdm(found, "features", len(images), unit="image", disable=None if progress else True)

    def _start(self, pool: DecoderPool, image: Source) -> Measured | ImageError | _Started:
        """What is kept of an image, or the beginning of its decoding."""
        name, content = (image, None) if isinstance(image, str) else (image.image, image.content)
        try:
            data = content if isinstance(content, bytes) else read_content(name)
            width, height = size_of(data, name)
        except ImageError as error:
            return error
        digest = hashlib.sha256(data).hexdigest()
        file = None
        if self.folder is not None:
            file = self.folder / digest[:2] / f"{digest}.features"
            kept = _kept(file, digest, self.width)
            if kept is not None:
                return kept
        return _Started(self.encoders, pool.submit(name, data, self.specs), digest, width * height, len(data), file)

    @torch.no_grad()
    def _finish(self, pool: DecoderPool, started: Measured | ImageError | _Started) -> Measured | ImageError:
        """Encode an image and keep what was found."""
        if not isinstance(started, _Started):
            return started
        batches = BatchEncoder(1)
        try:
            preprocessed = pool.result(started.decoding)
        except ImageError as error:
            return error
        encoded = [batches.encode(each, [preprocessed[each.spec]])[0] for each in started.encoders]
        if encoded[0] is None or encoded[1] is None:
            return ImageError(f"{started.decoding.name}: not enough memory on {self.device}")
        score = self.lite.regress(encoded[1].features[None])[0, 0].item()
        features = encoded[0].features.numpy(force=True)
        measured = Measured(started.digest, features, started.pixels, started.size, score)
        if started.file is not None:
            _keep(started.file, measured)
        return measured


@dataclass(frozen=True)
class _Started:
    encoders: tuple[Encoder, ...]
    decoding: Decoding
    digest: str
    pixels: float
    size: float
    file: Path | None


def _kept(file: Path, digest: str, width: int) -> Measured | None:
    """What a file of the cache says; None if it is not there, or damaged."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    content = stored[_CHECKSUM:]
    if len(content) != 8 * (width + 3) or stored[:_CHECKSUM] != _checksum(digest, content):
        return None
    values = np.frombuffer(content, "<f8")
    return Measured(digest, values[3:].astype(np.float32), *map(float, values[:3]))


def _keep(file: Path, measured: Measured) -> None:
    content = np.array([measured.pixels, measured.size, measured.lite, *measured.features], "<f8").tobytes()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, _checksum(measured.digest, content) + content)
    except OSError:  # a cache that can't be written is none
        return


def _checksum(digest: str, content: bytes) -> bytes:
    return zlib.crc32(content, zlib.crc32(digest.encode())).to_bytes(_CHECKSUM, "little")


def succeeded(found: Iterable[Measured | ImageError]) -> list[Measured]:
    """What was measured.

    Raises:
        ImageError: for some images nothing was; it names the first twenty.
    """
    measured: list[Measured] = []
    errors: list[ImageError] = []
    for each in found:
        if isinstance(each, Measured):
            measured.append(each)
        else:
            errors.append(each)
    if errors:
        more = f"\n- and {len(errors) - _LISTED} more" if len(errors) > _LISTED else ""
        lines = "\n".join(f"- {error}" for error in errors[:_LISTED])
        raise ImageError(f"{counted(errors, 'image')} can't be read; mend or leave out the rows:\n{lines}{more}")
    return measured
