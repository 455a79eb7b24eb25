"""The network as scoring runs it: rearranged to be fast, since it is never trained, on batches that fit in memory."""

from __future__ import annotations

import contextlib
import copy
import linecache
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

import numpy as np
import torch
from torch import Tensor, fx, nn

from aigciqa.backbones.base import Backbone
from aigciqa.cpu.fusion import fold_normalisation, fuse_convolutions
from aigciqa.metric import Metric
from aigciqa.registry import TIMM

#: Feature maps as the features are pooled from them, or as `Metric.quality_map` draws from.
Maps = Literal["coarse", "dense"]
#: Images a network is laid out for; it reads more or fewer as well.
_BATCH = 8
#: Random images on which the rearranged network is compared with the plain one.
_PROBES = 2
#: How far its feature maps may be from the plain network's, as a share of their norm: what rounding explains in float32
#: on a CPU, in a GPU's TF32, and in bfloat16 and float16.
_TOLERANCE, _TOLERANCE_TF32, _TOLERANCE_HALF = 1e-3, 1e-2, 0.1
#: What errors say where memory is short: a GPU's allocator; the CPU's; cuBLAS and cuDNN; torch, where none of cuDNN's
#: algorithms finds room to work in.
_NO_MEMORY = ("out of memory", "can't allocate memory", "STATUS_ALLOC_FAILED", "unable to find an engine to execute")


class Encoder:
    """Features of preprocessed images, for all metrics that share a backbone.

    Of a convolutional backbone it keeps a copy whose batch normalisation is folded into the convolutions, channels last
    in memory, its weights in the dtype the metric computes in; on a CPU, convolutions also add and rectify. `lite` and
    transformers run as they are; so does what can't be traced or would compute something else, with a warning unless it
    is timm's.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.spec = metric.config.preprocess
        self.side = self.spec.crop or 224
        self.dtype = metric.autocast_dtype or torch.float32
        self.has_dense_maps = type(metric.backbone).dense is not Backbone.dense
        is_convolutional = metric.backbone.is_convolutional
        is_convolutional &= any(isinstance(module, nn.Conv2d) for module in metric.backbone.modules())
        with torch.inference_mode(), metric.autocast(None):
            self.network = self._rearranged() if is_convolutional else None

    def encode(self, pixels: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor | None]:
        """Features (B, D) of preprocessed images, uint8 (B, 3, h, w), on the CPU or the metric's device.

        The second result is feature maps (B, C, h, w), as `Metric.score_map` takes them, if asked for.
        """
        device = self.metric.device
        with torch.inference_mode(), self.metric.autocast(None):
            if device.type == "cuda" and pixels.device.type == "cpu":
                pixels = pixels.pin_memory().to(device, non_blocking=True)
            read = self._maps(pixels)
            features = self.metric.backbone.pool(read)
            if maps is None:
                return features, None
            if maps == "dense" and self.has_dense_maps:
                read = self.metric.feature_maps(pixels, dense=True)
            return features, read

    def _maps(self, pixels: Tensor) -> Tensor:
        if self.network is None:
            return self.metric.feature_maps(pixels)
        maps: Tensor = self.network(self._normalized(pixels).to(self.dtype))
        return maps.to(self._weights_dtype)

    @property
    def _weights_dtype(self) -> torch.dtype:
        """What the caller has cast the metric to, and its head reads; float32 mostly."""
        return next(self.metric.backbone.parameters()).dtype

    def _normalized(self, pixels: Tensor) -> Tensor:
        return self.metric.preprocessor.normalize(pixels.to(self.metric.device))

    def _rearranged(self) -> fx.GraphModule | None:
        """A copy of the backbone for inference alone; None, with a warning, if it computes something else."""
        reason = _obstacle(self.metric.backbone)
        network = None
        try:
            with _sources_forgotten():
                for network, dtype in self._stages() if reason is None else ():
                    off = self._deviation(network, dtype)
                    if off > self._tolerance(dtype):
                        reason = f"rearranged, its maps would be off by {off:.1%}"
                        break
        except Exception as error:  # tracing code of any kind, whose control flow may depend on the images
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        if reason is None:
            return network
        name = self.metric.config.backbone
        if not name.startswith(TIMM):  # whose models nobody here can change
            warnings.warn(f"the backbone {name} runs as it is, not rearranged to be faster: {reason}", stacklevel=2)
        return None

    def _stages(self) -> Iterator[tuple[fx.GraphModule, torch.dtype]]:
        """The copy, with the dtype it computes in: as it was traced, where its own would hide an error, and as it runs.

        A trace knows nothing of tensors that are changed in place: to it, `y += x` is `y = y + x`.
        """
        network = fx.symbolic_trace(copy.deepcopy(self.metric.backbone).float())
        fold_normalisation(network)
        if self.dtype is not torch.float32:
            yield network, torch.float32
        network.to(dtype=self.dtype).to(memory_format=torch.channels_last).requires_grad_(False)
        if self.metric.device.type == "cpu":
            example = torch.zeros(_PROBES, 3, self.side, self.side, dtype=self.dtype, device="cpu")
            fuse_convolutions(network, example.contiguous(memory_format=torch.channels_last), _BATCH)
        network.graph.owning_module = None  # a cycle, which would keep the weights until Python's collector comes by
        yield network, self.dtype

    def _deviation(self, network: fx.GraphModule, dtype: torch.dtype) -> float:
        """How far a network's maps of random images are from the backbone's, as a share of their norm."""
        levels = np.random.default_rng(0).integers(0, 256, (_PROBES, 3, self.side, self.side), dtype=np.uint8)
        images = self._normalized(torch.from_numpy(levels))
        with self.metric.autocast(None if dtype is torch.float32 else dtype):
            expected = self.metric.backbone(images.to(self._weights_dtype)).float()
        off = (network(images.to(dtype)).float() - expected).norm()
        return float((off / expected.norm().clamp(min=torch.finfo(expected.dtype).tiny)).nan_to_num(torch.inf))

    def _tolerance(self, dtype: torch.dtype) -> float:
        if dtype is not torch.float32:
            return _TOLERANCE_HALF
        return _TOLERANCE if self.metric.device.type == "cpu" else _TOLERANCE_TF32


def encoders(metrics: Sequence[Metric]) -> list[Encoder]:
    """An encoder for each metric; metrics with equal backbones, such as NR and FR of one trunk, share theirs."""
    found: list[Encoder] = []
    for metric in metrics:
        shared = (each for each in found if _are_equal(each.metric, metric))
        found.append(next(shared, None) or Encoder(metric))
    return found


@dataclass(frozen=True)
class Encoded:
    """An image as a network encodes it: features (D,), and feature maps (C, h, w) where they are asked for."""

    features: Tensor
    maps: Tensor | None


class BatchEncoder:
    """Puts images of equal shape into batches of a size at most, halved for a shape that does not fit in memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.fitting: dict[tuple[Encoder, torch.Size], int] = {}  # smaller batches, of images that need much memory

    def encode(self, encoder: Encoder, images: Sequence[Tensor], maps: Maps | None = None) -> list[Encoded | None]:
        """Encode images, uint8 (3, h, w) each; None for one that does not fit in memory even alone."""
        shapes: dict[torch.Size, list[int]] = {}
        for index, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(index)
        encoded: dict[int, Encoded] = {}
        for shape, indices in shapes.items():
            rest = iter(indices)
            while part := list(islice(rest, self.fitting.get((encoder, shape), self.size))):
                batch = _encode_batch(encoder, [images[index] for index in part], maps)
                if batch is not None:
                    encoded |= zip(part, batch, strict=True)
                    continue
                torch.cuda.empty_cache()
                if len(part) > 1:
                    self.fitting[encoder, shape] = len(part) // 2
                    rest = iter([*part, *rest])
        return [encoded.get(index) for index in range(len(images))]


def _encode_batch(encoder: Encoder, images: list[Tensor], maps: Maps | None) -> list[Encoded] | None:
    """The images of a batch; None if they take more memory than there is."""
    try:  # the images may be on the GPU, too; they are channels last in memory
        pixels = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
        features, feature_maps = encoder.encode(pixels, maps)
    except RuntimeError as error:
        if not any(words in str(error) for words in _NO_MEMORY):
            raise
        return None
    each_map = [None] * len(images) if feature_maps is None else feature_maps
    return [Encoded(*each) for each in zip(features, each_map, strict=True)]


@contextlib.contextmanager
def _sources_forgotten() -> Iterator[None]:
    """torch.fx keeps the source of all that it traces, to show in tracebacks: 50 kB with each run of a ResNet."""
    kept = set(linecache.cache)
    sources = getattr(fx.graph_module, "_loader", None)
    try:
        yield
    finally:
        for key in set(linecache.cache) - kept:
            if key.startswith("<eval_with_key>"):
                linecache.cache.pop(key, None)
                getattr(sources, "eval_cache", {}).pop(key, None)


def _obstacle(backbone: nn.Module) -> str | None:
    """Why a trace of a backbone would not do all that calling it does, if that is to be seen."""
    for name, module in backbone.named_modules():
        if module.training:
            return f"{name or 'it'} is in training mode"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"{name or 'it'} has hooks"
    return None


def _are_equal(one: Metric, other: Metric) -> bool:
    """Whether two metrics have the same features of every image."""
    settings = [
        (m.config.backbone, m.config.options, m.config.preprocess, m.autocast_dtype, m.device) for m in (one, other)
    ]
    if settings[0] != settings[1] or any(_obstacle(each.backbone) for each in (one, other)):
        return False
    tensors = zip(one.backbone.state_dict().values(), other.backbone.state_dict().values(), strict=True)
    return all(mine.dtype == theirs.dtype and torch.equal(mine, theirs) for mine, theirs in tensors)
