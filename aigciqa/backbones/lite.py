"""The backbone of the embedded metrics: natural-scene statistics of sampled blocks, in plain torch.

An image is looked at in about 4 x 4 evenly spaced blocks of 96 x 96 pixels. The features are the mean of the blocks'
statistics (`scene_statistics`), their spread and a mean that favours textured blocks.

Everything is float32, whatever autocast says, and differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.scene_statistics import BLOCK, STATISTICS, TEXTURE, block_statistics, luma_of
from aigciqa.errors import InputError

#: Blocks along the side of a square image, and the most of them along the side of any.
GRID, MOST_BLOCKS_A_SIDE = 4, 16
#: Blocks start at multiples of 8 pixels, so that the grid of JPEG keeps its place in every block.
ALIGNMENT = 8
#: Cells of a quality map: their side in pixels, and the most of them along a side.
CELL, MOST_CELLS = 64, 32
#: Side of the luma thumbnail by which a full-reference head sees whether two images are aligned.
THUMBNAIL = 16


def build(name: str, presentation: str = "common") -> Backbone:
    """Build the backbone, its normalisation the identity until trained.

    `presentation` is `"common"` (images come at one short side) or `"native"` (as they are). The statistics are the
    same; what differs is the preprocessing and hence the trained values.
    """
    if presentation not in ("common", "native"):
        raise InputError(f"presentation is {presentation!r}; expected 'common' or 'native'")
    return LiteBackbone()


class LiteBackbone(Backbone):
    """Block statistics (`statistics` of them) -> (mean, spread, textured mean), normalised, and a luma thumbnail."""

    center: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.statistics = STATISTICS
        self.feature_dim = 3 * self.statistics + THUMBNAIL**2
        self.register_buffer("center", torch.zeros(3 * self.statistics))
        self.register_buffer("scale", torch.ones(3 * self.statistics))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, statistics + THUMBNAIL**2, rows, columns); the thumbnail is the same everywhere."""
        with torch.autocast(images.device.type, enabled=False):
            maps = sampled_statistics(images.float())
            small = thumbnail(images.float())[:, :, None, None].expand(-1, -1, *maps.shape[2:])
            return torch.cat([maps, small], dim=1)

    def pool(self, maps: Tensor) -> Tensor:
        """Features (B, feature_dim): three poolings of the statistics, each in about [-4, 4], and the thumbnail."""
        with torch.autocast(maps.device.type, enabled=False):
            maps = maps.float()
            pooled = pool_statistics(maps[:, : self.statistics])
            normalised = squash(pooled, self.center.float(), self.scale.float())
            return torch.cat([normalised, maps[:, self.statistics :].mean(dim=(2, 3))], dim=1)

    @property
    def inner_dim(self) -> int:
        """0: whoever reads inner maps reads these statistics beside them."""
        return 0

    def dense(self, images: Tensor) -> Tensor:
        """Statistics (B, statistics, h, w) of a block around each cell of 64 pixels, larger in large images."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.float()
            rows, columns = (cell_origins(length) for length in images.shape[-2:])
            return torch.cat([_statistics_at(images, [row], columns) for row in rows], dim=2)


def sampled_statistics(images: Tensor, grid: int = GRID) -> Tensor:
    """Statistics (B, statistics, rows, columns) of about `grid**2` evenly spaced blocks of images (B, 3, H, W)."""
    height, width = images.shape[-2:]
    return _statistics_at(images, *grid_origins(height, width, grid))


def grid_origins(height: int, width: int, grid: int = GRID) -> tuple[list[int], list[int]]:
    """Where the sampled blocks begin: (rows, columns), about `grid**2` blocks in all."""
    return _spread(height, _side_count(height, width, grid)), _spread(width, _side_count(width, height, grid))


def cell_origins(length: int) -> list[int]:
    """Where the blocks around the cells of a quality map begin, along one side."""
    cells = max(1, min(MOST_CELLS, (length + CELL // 2) // CELL))
    last = max(0, length - BLOCK)
    starts = [(2 * cell + 1) * length // (2 * cells) - BLOCK // 2 for cell in range(cells)]
    return [min(max(0, start), last) // ALIGNMENT * ALIGNMENT for start in starts]


def pool_statistics(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 3 C): the mean over the blocks, their spread, and the mean that favours textured blocks."""
    blocks = maps.flatten(2)
    mean = blocks.mean(dim=2)
    spread = ((blocks - mean[:, :, None]).square().mean(dim=2) + 1e-4).sqrt()
    weights = torch.softmax(2 * blocks[:, TEXTURE], dim=1)
    textured = torch.einsum("bcn,bn->bc", blocks, weights)
    return torch.cat([mean, spread, textured], dim=1)


def squash(values: Tensor, center: Tensor, scale: Tensor) -> Tensor:
    """Normalised values, softly limited to [-4, 4]: an outlier counts, but not without bound."""
    return 4 * torch.tanh((values - center) / (4 * scale))


def thumbnail(images: Tensor) -> Tensor:
    """Luma (B, THUMBNAIL**2) in [0, 1] of images (B, 3, H, W), whatever their shape."""
    height, width = images.shape[-2:]
    if height % THUMBNAIL or width % THUMBNAIL:
        small = _averaging(height, images.device) @ images @ _averaging(width, images.device).T
    else:  # the same means, twice as fast
        strips = images.reshape(-1, 3, THUMBNAIL, height // THUMBNAIL, width).mean(dim=3)
        small = strips.reshape(-1, 3, THUMBNAIL, THUMBNAIL, width // THUMBNAIL).mean(dim=4)
    return luma_of(small).flatten(1)


def _averaging(length: int, device: torch.device) -> Tensor:
    """(THUMBNAIL, length): the windows of `adaptive_avg_pool2d`, for which ONNX has no operator, as weights."""
    cells, pixels = torch.arange(THUMBNAIL, device=device)[:, None], torch.arange(length, device=device)
    first, end = cells * length // THUMBNAIL, ((cells + 1) * length - 1) // THUMBNAIL + 1
    return ((first <= pixels) & (pixels < end)).float() / (end - first)  # not the default dtype


def _statistics_at(images: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """Statistics (B, C, rows, columns) of the blocks that begin there; beyond the border the last pixel repeats."""
    height, width = images.shape[-2:]
    missing = (0, max(0, BLOCK - width), 0, max(0, BLOCK - height))
    if any(missing):
        images = functional.pad(images, missing, mode="replicate")
    blocks = torch.stack([images[..., y : y + BLOCK, x : x + BLOCK] for y in rows for x in columns], dim=1)
    statistics = block_statistics(blocks.flatten(0, 1))
    return statistics.reshape(images.shape[0], len(rows), len(columns), -1).permute(0, 3, 1, 2)


def _side_count(length: int, other: int, grid: int) -> int:
    """grid * sqrt(length / other), rounded, by comparisons of integers alone."""
    counts = range(1, MOST_BLOCKS_A_SIDE + 1)
    return max(1, sum((2 * count - 1) ** 2 * other <= (2 * grid) ** 2 * length for count in counts))


def _spread(length: int, count: int) -> list[int]:
    room = max(0, length - BLOCK)
    if count == 1:
        return [room // 2 // ALIGNMENT * ALIGNMENT]
    return [room * index // (count - 1) // ALIGNMENT * ALIGNMENT for index in range(count)]
