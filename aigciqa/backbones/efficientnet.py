"""EfficientNet-Lite2 (Tan and Le 2019, Lite variant of 2020): small and fast; its ImageNet weights come by pip.

The Lite variants have ReLU6 in place of swish and no squeeze-and-excitation. The first and the last convolution keep
the widths of Lite0. Padding is TensorFlow's "same", since the weights were trained with it.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.crops import CropsBackbone

#: Stages of EfficientNet-B0: (blocks, kernel, stride, expansion, output channels), before they are scaled.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_WIDTH, _DEPTH = 1.1, 1.2
_STEM, _FINAL = 32, 1280
#: Blocks of the last stage but one, whose filtered maps say most about how people see AI-generated images.
_INNER = slice(16, 19)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding before and after: ceil(size / stride) positions; an odd one goes after."""
    missing = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return missing // 2, missing - missing // 2


@fx.wrap  # it looks at sizes: a trace keeps the call
def pad_same(maps: Tensor, kernel: int, stride: int) -> Tensor:
    """Maps (B, C, H, W) with that padding."""
    height, width = (same_padding(size, kernel, stride) for size in maps.shape[2:])
    return F.pad(maps, (*width, *height))


class _SamePadding(nn.Module):
    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        return pad_same(maps, self.kernel, self.stride)


def _layer(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Module:
    """Convolution, batch normalisation and, where `active`, ReLU6."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    if stride > 1:  # at stride 1 it is torch's own padding
        parts["pad"] = _SamePadding(kernel, stride)
    padding = kernel // 2 if stride == 1 else 0
    parts["conv"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    parts["norm"] = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
    if active:
        parts["act"] = nn.ReLU6(inplace=True)
    return nn.Sequential(parts)


class _Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; added to the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.wide = wide = inputs * expansion
        self.is_residual = stride == 1 and inputs == outputs
        self.expand = _layer(inputs, wide, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _layer(wide, wide, kernel, stride=stride, groups=wide)
        self.project = _layer(wide, outputs, 1, active=False)

    def forward(self, maps: Tensor) -> Tensor:
        return self.narrowed(self.filtered(maps), maps)

    def filtered(self, maps: Tensor) -> Tensor:
        """The block's widest maps."""
        found: Tensor = self.depthwise(self.expand(maps))
        return found

    def narrowed(self, filtered: Tensor, maps: Tensor) -> Tensor:
        """What the block makes of them, added to its own input where the shapes agree."""
        found: Tensor = self.project(filtered)
        return found + maps if self.is_residual else found


class EfficientNetLite2(Backbone):
    """(B, 3, H, W) -> (B, 1280, H/32, W/32)."""

    feature_dim = _FINAL

    def __init__(self) -> None:
        super().__init__()
        self.stem = _layer(3, _STEM, 3, stride=2)
        blocks: list[nn.Module] = []
        inputs = _STEM
        for index, (count, kernel, stride, expansion, width) in enumerate(_STAGES):
            outputs = _channels(width)
            is_scaled = 0 < index < len(_STAGES) - 1
            for repeat in range(math.ceil(count * _DEPTH) if is_scaled else count):
                blocks.append(_Block(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.final = _layer(inputs, _FINAL, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # drawing such would import half of torch
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for block in blocks:  # untrained residual branches begin at zero (Goyal et al. 2017), as in our ResNets
            if isinstance(block, _Block) and block.is_residual:
                nn.init.zeros_(block.project.get_parameter("norm.weight"))

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.final(self.blocks(self.stem(images)))
        return maps

    @property
    def inner_dim(self) -> int:
        return sum(block.wide for block in self._inner_blocks())

    def inner_maps(self, images: Tensor) -> Tensor:
        """What three of the last but one stage's blocks filter, before it is narrowed: (B, 3744, H/32, W/32)."""
        inner = self._inner_blocks()
        maps, found = self.stem(images), []
        for block in self.blocks[: _INNER.start]:
            maps = block(maps)
        for block in inner:
            found.append(block.filtered(maps))
            maps = block.narrowed(found[-1], maps)
        return torch.cat(found, dim=1)

    def _inner_blocks(self) -> list[_Block]:
        return [block for block in self.blocks if isinstance(block, _Block)][_INNER]


def _channels(width: int) -> int:
    """The scaled number of channels: the nearest multiple of 8, but no more than 10% below."""
    scaled = width * _WIDTH
    nearest = max(8, int(scaled + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * scaled else nearest + 8


def build(name: str, crops: bool = False) -> Backbone:
    """Build `efficientnet-lite2`; with `crops`, it reads nine crops of an image, beside the statistics of `lite`."""
    trunk = EfficientNetLite2()
    return CropsBackbone(trunk) if crops else trunk
