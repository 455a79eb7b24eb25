"""Feature maps of a frozen trunk beside the statistics of `lite`: what a head from few ratings reads.

The features are the mean and the deviation of each of the trunk's channels over the positions, and lite's statistics of
nine blocks. The deviation says how uneven an image's texture is, which is what people's ratings of AI-generated images
go by more than by the means.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.nn import functional

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.lite import LiteBackbone, pool_statistics, sampled_statistics, squash
from aigciqa.backbones.scene_statistics import STATISTICS, TEXTURE

#: Blocks along each side whose statistics are taken.
BLOCKS_A_SIDE = 3
#: Added to variances, so that their roots have a slope everywhere.
_FLOOR = 1e-8


class StatisticsBackbone(Backbone):
    """Statistics of a trunk's feature maps, and of the image's blocks; images are levels 0..255.

    Attributes:
        trunk: the network; None for a backbone without inner maps: the image's statistics are all.
        lite: the normalisation of the image's statistics.
        widths: how many features come from the trunk, and how many from the image.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, trunk: Backbone) -> None:
        super().__init__()
        self.trunk = trunk if trunk.inner_dim else None
        self.lite = LiteBackbone()
        self.widths = (2 * trunk.inner_dim, 3 * STATISTICS)
        self.feature_dim = sum(self.widths)
        self.input_side, self.is_convolutional = trunk.input_side, trunk.is_convolutional
        #: The trunk reads `(images - shift) * factor`.
        self.register_buffer("shift", torch.zeros(3, 1, 1))
        self.register_buffer("factor", torch.ones(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..255 -> (B, C + statistics, h, w), at the trunk's positions."""
        if self.trunk is None:
            return _statistics(images)
        return _joined(self.trunk.inner_maps((images - self.shift) * self.factor), images)

    def pool(self, maps: Tensor) -> Tensor:
        """Features (B, D): means and deviations of the trunk's channels, then lite's statistics."""
        seen, blocks = self._parts(maps)
        mean, deviation = _moments(seen)
        statistics = squash(pool_statistics(blocks), self.lite.center.float(), self.lite.scale.float())
        return torch.cat([mean, deviation, statistics], dim=1)

    def local_features(self, maps: Tensor) -> Tensor:
        seen, blocks = self._parts(maps)
        mean, deviation = (each[:, :, None, None] for each in _moments(seen))
        uneven = (seen - mean).square().add(_FLOOR) / deviation
        centre, spread, _ = (each[:, :, None, None] for each in pool_statistics(blocks).chunk(3, dim=1))
        texture = blocks[:, TEXTURE : TEXTURE + 1]
        weights = torch.softmax(2 * texture.flatten(1), dim=1).reshape(texture.shape)
        parts = [blocks, (blocks - centre).square() / spread, blocks * weights * weights[0].numel()]
        statistics = torch.cat(parts, dim=1).movedim(1, -1)
        statistics = squash(statistics, self.lite.center.float(), self.lite.scale.float()).movedim(-1, 1)
        return torch.cat([seen, uneven, statistics], dim=1)

    def _parts(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The trunk's maps, and the statistics of the image's blocks."""
        maps = maps.float()
        return maps[:, :-STATISTICS], maps[:, -STATISTICS:]


def _moments(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation (B, C) over the positions of maps (B, C, h, w)."""
    mean = maps.mean(dim=(2, 3))
    variance = (maps - mean[:, :, None, None]).square().mean(dim=(2, 3))
    return mean, (variance + _FLOOR).sqrt()


@fx.wrap  # it looks at sizes: a trace keeps the call
def _joined(maps: Tensor, images: Tensor) -> Tensor:
    statistics = functional.interpolate(_statistics(images), maps.shape[2:], mode="nearest")
    return torch.cat([maps, statistics.to(maps.dtype)], dim=1)


def _statistics(images: Tensor) -> Tensor:
    """Statistics (B, STATISTICS, rows, columns) of blocks, in float32 whatever the trunk computes in."""
    with torch.autocast(images.device.type, enabled=False):
        return sampled_statistics(images.float() / 255, BLOCKS_A_SIDE)
