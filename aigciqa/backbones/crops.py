"""Nine crops of an image through a trunk, beside the statistics of `lite`: what `nr-efficientnet-lite2` reads.

The trunk was trained on crops of about this size. For a head that is taught once, on images of another kind, the last
maps of nine of them say more than one pass over the whole image. `statistics` reads inner maps for a head that is
fitted to the kind of images it scores.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.lite import LiteBackbone, pool_statistics, sampled_statistics, squash
from aigciqa.backbones.scene_statistics import STATISTICS

#: Side of a crop in pixels, and crops along each side of the image.
CROP, CROPS = 224, 3


class CropsBackbone(Backbone):
    """Lite's statistics (three poolings) beside the trunk's features: their mean over the crops and their deviation."""

    def __init__(self, trunk: Backbone) -> None:
        super().__init__()
        self.trunk = trunk
        self.lite = LiteBackbone()
        self.feature_dim = 3 * STATISTICS + 2 * trunk.feature_dim

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, D, 1, 1), the statistics not normalised yet."""
        crops = self.trunk(_crops(images)).mean(dim=(2, 3))
        return _beside_statistics(images, crops)

    def pool(self, maps: Tensor) -> Tensor:
        features = maps[:, :, 0, 0].float()
        statistics = features[:, : 3 * STATISTICS]
        return torch.cat([squash(statistics, self.lite.center, self.lite.scale), features[:, 3 * STATISTICS :]], dim=1)

    def dense(self, images: Tensor) -> Tensor:
        """(B, D, h, w), zero where a feature has no place in the image: a spread, a deviation."""
        cells = self.lite.dense(images).movedim(1, -1)
        local = squash(cells, self.lite.center[:STATISTICS], self.lite.scale[:STATISTICS]).movedim(-1, 1)
        seen = functional.interpolate(self.trunk(_as_trained(images)).float(), local.shape[2:], mode="bilinear")
        pooled = local.new_zeros(len(local), 2 * STATISTICS, *local.shape[2:])
        return torch.cat([local, pooled, seen, torch.zeros_like(seen)], dim=1)


@fx.wrap  # it looks at sizes: a trace keeps the call
def _crops(images: Tensor) -> Tensor:
    """Evenly spread crops (B * CROPS**2, 3, CROP, CROP), as the trunk takes them; beyond a border, pixels repeat."""
    missing = [max(0, CROP - length) for length in images.shape[2:]]
    if any(missing):
        images = functional.pad(images, (0, missing[1], 0, missing[0]), mode="replicate")
    rows, columns = ([(length - CROP) * i // (CROPS - 1) for i in range(CROPS)] for length in images.shape[2:])
    crops = [images[:, :, row : row + CROP, column : column + CROP] for row in rows for column in columns]
    return _as_trained(torch.stack(crops, dim=1).flatten(0, 1))


def _as_trained(images: Tensor) -> Tensor:
    """Pixels in [0, 1] -> as the trunk's weights were trained."""
    return (255 * images - 127) / 128


@fx.wrap
def _beside_statistics(images: Tensor, crops: Tensor) -> Tensor:
    """Images and the pooled features (B * CROPS**2, C) of their crops -> (B, D, 1, 1)."""
    with torch.autocast(images.device.type, enabled=False):
        statistics = pool_statistics(sampled_statistics(images.float()))
        crops = crops.float().reshape(len(images), CROPS**2, -1)
        mean = crops.mean(dim=1)
        deviation = ((crops - mean[:, None]).square().mean(dim=1) + 1e-6).sqrt()
        return torch.cat([statistics, mean, deviation], dim=1)[:, :, None, None]
