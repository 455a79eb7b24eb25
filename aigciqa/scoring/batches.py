"""Preprocessed images of any shapes through a network, in batches that fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from aigciqa.scoring.encoder import Encoder, Maps


@dataclass(frozen=True)
class Encoded:
    """An image as a network encodes it: features (D,), and feature maps (C, h, w) where they are asked for."""

    features: Tensor
    maps: Tensor | None


class BatchEncoder:
    """Puts images of equal shape into batches, and halves the batches of a shape that does not fit in memory.

    Args:
        size: images in a batch, at most.
    """

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
                batch = _encode(encoder, [images[index] for index in part], maps)
                if batch is not None:
                    encoded |= zip(part, batch, strict=True)
                    continue
                torch.cuda.empty_cache()
                if len(part) > 1:
                    self.fitting[encoder, shape] = len(part) // 2
                    rest = iter([*part, *rest])
        return [encoded.get(index) for index in range(len(images))]


def _encode(encoder: Encoder, images: list[Tensor], maps: Maps | None) -> list[Encoded] | None:
    """The images of a batch; None if they take more memory than there is."""
    pixels = torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)  # channels last, as they are
    try:
        features, feature_maps = encoder.encode(pixels, maps)
    except RuntimeError as error:  # of a GPU, of the CPU
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return None
    each_map = [None] * len(images) if feature_maps is None else feature_maps
    return [Encoded(*each) for each in zip(features, each_map, strict=True)]
