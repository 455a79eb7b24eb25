"""Heads of the embedded metrics: from natural-scene statistics to a score in [0, 5].

No-reference: a linear score that people taught, beside what degraded photographs taught: a small ensemble of
perceptrons, soft decision trees, and the distance to a multivariate Gaussian of pristine photographs (NIQE's idea).
They are added before the last sigmoid.

Full-reference: two experts. The one for *aligned* images (the same image, changed) reads how the statistics moved,
with soft decision trees and a plain distance of the textured statistics. The one for *other* references (another
photograph of the subject, which is what image prompts mostly are) is the no-reference head, corrected by what the
reference says. A gate looks at how alike the two luma thumbnails are.

Everything is float32, whatever autocast says, and differentiable.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from aigciqa.backbones.lite import THUMBNAIL, squash
from aigciqa.backbones.scene_statistics import FLATNESS
from aigciqa.errors import InputError
from aigciqa.heads.base import Head

LARGEST = 5.0
MEMBERS = 8
HIDDEN = (64, 32)
MAP_HIDDEN = (64, 24)
GAUSSIAN_FEATURES = 48
TREES, DEPTH = 480, 3
#: Shallow trees add up what single statistics say; on images unlike the training ones they err less than deep ones.
ALIGNED_TREES, ALIGNED_DEPTH = 3200, 2
CORRECTION_HIDDEN = (24, 12)
#: Shares of flat positions from which a block counts in a map as wholly flat, and up to which as wholly textured.
FLAT, TEXTURED = 0.95, 0.7
#: Distance of textured statistics below which two images are as good as the same.
NEAR = 0.02


def build(kind: str, feature_dim: int, outputs: int) -> Head:
    """Build an untrained head for the backbone `lite`; it predicts quality alone."""
    if outputs != 1:
        raise InputError(f"a lite head predicts one dimension; got {outputs}")
    statistics = (feature_dim - THUMBNAIL**2) // 3
    return NoReferenceHead(statistics) if kind == "nr" else FullReferenceHead(statistics)


class Ensemble(nn.Module):
    """Perceptrons side by side, their outputs averaged: (B, inputs) -> (B,)."""

    def __init__(self, inputs: int, hidden: tuple[int, int], members: int) -> None:
        super().__init__()
        sizes = (inputs, *hidden, 1)
        self.weights = nn.ParameterList(
            nn.Parameter(_filled((members, a, b), lambda weight: weight.normal_() * (2 / weight.shape[1]) ** 0.5))
            for a, b in itertools.pairwise(sizes)
        )
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(members, 1, b)) for b in sizes[1:])

    def members(self, inputs: Tensor) -> Tensor:
        """(B, inputs) -> (members, B), each member's own output."""
        values = inputs.expand(self.weights[0].shape[0], -1, -1)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer:
                values = functional.silu(values)
            values = torch.baddbmm(bias.float(), values, weight.float())
        return values[:, :, 0]

    def forward(self, inputs: Tensor) -> Tensor:
        return self.members(inputs).mean(0)


class GaussianDistance(nn.Module):
    """Log Mahalanobis distance of some features to those of pristine photographs: (B, C) -> (B,)."""

    index: Tensor
    center: Tensor
    whitening: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("index", torch.arange(features))
        self.register_buffer("center", torch.zeros(features))
        self.register_buffer("whitening", torch.zeros(features, features).fill_diagonal_(1))

    def forward(self, inputs: Tensor) -> Tensor:
        away = (inputs[:, self.index] - self.center.float()) @ self.whitening.float()
        return 0.5 * (away.square().mean(dim=1) + 1e-2).log()


class SoftTrees(nn.Module):
    """A sum of oblivious decision trees with sigmoid splits: (B, inputs) -> (B,)."""

    index: Tensor

    def __init__(self, inputs: int, trees: int = TREES, depth: int = DEPTH) -> None:
        super().__init__()
        self.register_buffer("index", _filled((trees, depth), lambda index: index.random_(inputs), torch.int64))
        self.thresholds = nn.Parameter(_filled((trees, depth), Tensor.normal_))
        self.sharpness = nn.Parameter(torch.full((trees, depth), 2.0))
        self.leaves = nn.Parameter(_filled((trees, 2**depth), lambda leaves: leaves.normal_() / trees**0.5))

    def forward(self, inputs: Tensor) -> Tensor:
        right = torch.sigmoid(self.sharpness.float() * (inputs[:, self.index] - self.thresholds.float()))
        weights = torch.ones_like(right[:, :, :1])
        for level in range(right.shape[2]):
            share = right[:, :, level : level + 1]
            weights = torch.cat([weights * (1 - share), weights * share], dim=2)
        return (weights * self.leaves.float()).sum(dim=(1, 2))


class BlockScores(nn.Module):
    """Scores of single blocks, for quality maps: (B, C, h, w) of unnormalised statistics -> (B, h, w) in [0, 5]."""

    center: Tensor
    scale: Tensor

    def __init__(self, statistics: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(statistics))
        self.register_buffer("scale", torch.ones(statistics))
        self.regressor = Ensemble(statistics, MAP_HIDDEN, 1)

    def forward(self, maps: Tensor) -> Tensor:
        batch, statistics, height, width = maps.shape
        blocks = maps.permute(0, 2, 3, 1).reshape(-1, statistics)
        logits = self.regressor(squash(blocks, self.center.float(), self.scale.float()))
        return LARGEST * torch.sigmoid(logits).reshape(batch, height, width)


class LiteHead(Head):
    """What both heads share: a number of statistics per block, and maps from a head on single blocks.

    A block counts by how textured it is: a clear sky has the score of the whole image, since there is nothing in it to
    be good or bad.
    """

    def __init__(self, statistics: int) -> None:
        super().__init__()
        self.statistics = statistics
        self.pooled = 3 * statistics
        self.blocks = BlockScores(statistics)

    def logits(self, features: Tensor) -> Tensor:
        """Scores (B,) of features, before they are bounded to [0, 5]."""
        raise NotImplementedError

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            scores: Tensor = LARGEST * torch.sigmoid(self.logits(features.float()))
            return scores[:, None]

    def score_map(self, maps: Tensor, features: Tensor, index: int) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            statistics = maps[:, : self.statistics].float()
            cells: Tensor = self.blocks(statistics)
            weights = ((FLAT - statistics[:, FLATNESS]) / (FLAT - TEXTURED)).clamp(0, 1)
            typical = (weights * cells).sum(dim=(1, 2)) / weights.sum(dim=(1, 2)).clamp(min=1e-6)
            score: Tensor = self(features)[:, index]
            return score[:, None, None] + weights * (cells - typical[:, None, None])


class Quality(nn.Module):
    """The no-reference logit: perceptrons, trees and the Gaussian distance, mixed; (B, 3 C) -> (B,)."""

    mix: Tensor

    def __init__(self, statistics: int) -> None:
        super().__init__()
        self.statistics = statistics
        self.regressor = Ensemble(3 * statistics, HIDDEN, MEMBERS)
        self.trees = SoftTrees(3 * statistics)
        self.distance = GaussianDistance(min(GAUSSIAN_FEATURES, statistics))
        #: Weights of the three, and the offset.
        self.register_buffer("mix", torch.tensor([0.5, 0.5, -1.0, 0.0]))

    def forward(self, pooled: Tensor) -> Tensor:
        parts = (self.regressor(pooled), self.trees(pooled), self.distance(pooled[:, : self.statistics]))
        mix = self.mix.float()
        logits: Tensor = mix[0] * parts[0] + mix[1] * parts[1] + mix[2] * parts[2] + mix[3]
        return logits


class NoReferenceHead(LiteHead):
    """Features (B, 3 C + thumbnail) -> score (B, 1); the thumbnail is not looked at."""

    def __init__(self, statistics: int) -> None:
        super().__init__(statistics)
        self.quality = Quality(statistics)
        #: Weights of the linear part, which people taught; zero where they did not.
        self.taught = nn.Parameter(torch.zeros(self.pooled))

    def logits(self, features: Tensor) -> Tensor:
        pooled = features[:, : self.pooled]
        logits: Tensor = self.quality(pooled) + pooled @ self.taught.float()
        return logits


class FullReferenceHead(LiteHead):
    """[generated, reference] features (B, 2 (3 C + thumbnail)) -> score (B, 1)."""

    gate: Tensor
    mix: Tensor

    def __init__(self, statistics: int) -> None:
        super().__init__(statistics)
        self.quality = Quality(statistics)
        self.correction = Ensemble(2 * self.pooled, CORRECTION_HIDDEN, 1)
        self.trees = SoftTrees(4 * statistics, ALIGNED_TREES, ALIGNED_DEPTH)
        #: Likeness at which the experts weigh the same, and how fast the gate opens.
        self.register_buffer("gate", torch.tensor([0.7, 25.0]))
        #: The aligned expert's weights of trees and distance, and its offset; the weight of the correction.
        self.register_buffer("mix", torch.tensor([0.5, -0.5, 0.0, 0.1]))

    def split(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Statistics of the generated image and of the reference (B, 3 C each), and how alike (B,) the two look."""
        generated, reference = features.chunk(2, dim=1)
        likeness = thumbnail_likeness(generated[:, self.pooled :], reference[:, self.pooled :])
        return generated[:, : self.pooled], reference[:, : self.pooled], likeness

    def moved(self, generated: Tensor, reference: Tensor) -> Tensor:
        """How far the mean and the textured mean of the statistics moved: (B, 3 C) twice -> (B, 2 C)."""
        moved = generated - reference
        return torch.cat([moved[:, : self.statistics], moved[:, 2 * self.statistics :]], dim=1)

    def aligned(self, generated: Tensor, reference: Tensor) -> Tensor:
        """Logit (B,) of an image against the image it was made from."""
        moved = self.moved(generated, reference)
        size = moved.abs()
        learned = self.trees(torch.cat([moved, size], dim=1))
        distance = (size[:, self.statistics :].mean(dim=1) + NEAR).log()
        mix = self.mix.float()
        logits: Tensor = mix[0] * learned + mix[1] * distance + mix[2]
        return logits

    def other(self, generated: Tensor, reference: Tensor) -> Tensor:
        """Logit (B,) of an image against another image of its subject."""
        correction = self.correction(torch.cat([generated, generated - reference], dim=1))
        logits: Tensor = self.quality(generated) + self.mix[3].float() * correction
        return logits

    def logits(self, features: Tensor) -> Tensor:
        generated, reference, likeness = self.split(features)
        gate = self.gate.float()
        share = torch.sigmoid(gate[1] * (likeness - gate[0]))
        return share * self.aligned(generated, reference) + (1 - share) * self.other(generated, reference)


def thumbnail_likeness(first: Tensor, second: Tensor) -> Tensor:
    """Normalised correlation (B,) of luma thumbnails (B, n) in [0, 1]; two flat ones are alike."""
    first = first - first.mean(dim=1, keepdim=True)
    second = second - second.mean(dim=1, keepdim=True)
    noise = 1e-5  # well below one level of 255, squared
    energy = (first.square().mean(dim=1) + noise) * (second.square().mean(dim=1) + noise)
    return ((first * second).mean(dim=1) + noise) / energy.sqrt()


def _filled(shape: tuple[int, ...], fill: Callable[[Tensor], Tensor], dtype: torch.dtype | None = None) -> Tensor:
    """A tensor with its first values; on the meta device it has none, and filling it would import half of torch."""
    values = torch.empty(shape, dtype=dtype)
    return values if values.is_meta else fill(values)
