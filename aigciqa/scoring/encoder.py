"""The network as scoring runs it: never trained, so it can be rearranged to be fast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, fx, nn

from aigciqa.backbones.base import Backbone
from aigciqa.metric import Metric
from aigciqa.scoring.fusion import fuse_convolutions

#: Feature maps as the features are pooled from them, or as `Metric.quality_map` draws from.
Maps = Literal["coarse", "dense"]
#: Pictures a network is laid out for; it reads more or fewer as well.
_EXAMPLE_BATCH = 8


class Encoder:
    """Features of presented pictures, for all metrics that share a backbone.

    Of a convolutional backbone it keeps a copy whose batch normalisation is folded into the convolutions, channels last
    in memory, its weights in the dtype the metric computes in; on a CPU, convolutions also add and rectify. `lite`, and
    what can't be traced, runs as it is.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.spec = metric.config.preprocess
        self.network = _rearranged(metric)
        self.has_dense_maps = type(metric.backbone).dense is not Backbone.dense
        mean, std = (torch.tensor(each, device=metric.device).view(3, 1, 1) for each in (self.spec.mean, self.spec.std))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    @torch.inference_mode()
    def encode(self, pixels: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor | None]:
        """Read pictures presented by `present_image`.

        Args:
            pixels: uint8 (B, 3, h, w), on the CPU or the metric's device.
            maps: which feature maps to return, if any.

        Returns:
            Features, float32 (B, D); feature maps, float32 (B, C, h, w), whose places `Metric.place` scores.
        """
        read = self._maps(pixels)
        features = self.metric.backbone.pool(read)
        if maps is None:
            return features, None
        if maps == "dense" and self.has_dense_maps:
            read = self.metric.presented_maps(pixels, dense=True)
        return features, read

    def _maps(self, pixels: Tensor) -> Tensor:
        if self.network is None:
            return self.metric.presented_maps(pixels)
        device = self.metric.device
        if device.type == "cuda" and pixels.device.type == "cpu":
            pixels = pixels.pin_memory().to(device, non_blocking=True)
        levels = pixels.to(device).float()
        images = torch.addcmul(self.shift, levels, self.scale)
        maps: Tensor = self.network(images.to(self.metric.autocast_dtype or torch.float32))
        return maps.float()


def encoders(metrics: Sequence[Metric]) -> list[Encoder]:
    """An encoder for each metric; metrics with equal backbones, such as NR and FR of one trunk, share theirs."""
    found: list[Encoder] = []
    for metric in metrics:
        shared = (each for each in found if _are_equal(each.metric, metric))
        found.append(next(shared, None) or Encoder(metric))
    return found


def _rearranged(metric: Metric) -> fx.GraphModule | None:
    """A copy of a convolutional backbone for inference alone, in the dtype it computes in; None where there is none."""
    from torch.fx.experimental.optimization import fuse

    if not any(isinstance(module, nn.Conv2d) for module in metric.backbone.modules()):
        return None
    try:
        folded = cast("fx.GraphModule", fuse(metric.backbone))
    except Exception:  # tracing code of any kind, whose control flow may depend on the pictures
        return None
    dtype = metric.autocast_dtype or torch.float32
    folded.to(dtype=dtype).to(memory_format=torch.channels_last).requires_grad_(False)
    if metric.device.type == "cpu":
        side = metric.config.preprocess.crop or 224
        example = torch.zeros(_EXAMPLE_BATCH, 3, side, side, dtype=dtype)
        fuse_convolutions(folded, example.contiguous(memory_format=torch.channels_last))
    return folded


def _are_equal(one: Metric, other: Metric) -> bool:
    """Whether two metrics have the same features of every picture."""
    facts = [
        (m.config.backbone, m.config.options, m.config.preprocess, m.autocast_dtype, m.device) for m in (one, other)
    ]
    if facts[0] != facts[1]:
        return False
    tensors = zip(one.backbone.state_dict().values(), other.backbone.state_dict().values(), strict=True)
    return all(torch.equal(mine, theirs) for mine, theirs in tensors)
