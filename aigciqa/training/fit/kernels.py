"""Blocks of features -> standardised features -> one kernel of images: a weighted sum of the blocks' linear kernels.

A block is what one source of features gives, (n, d): the deviations of a network's layer, say, or lite's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError

Array = NDArray[np.float64]
Indices = NDArray[np.intp]
Mask = NDArray[np.bool_]

#: A feature that varies by less than this share of its size is constant but for rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Standardisation:
    """What makes features (n, D), all blocks side by side, comparable: `(features - centre) * scale`.

    A feature is divided by `sqrt((its variance + the median variance of its block) / 2)`: a rare feature, which hardly
    varies among twenty images, would be blown up by its own deviation alone. Each block is then divided by the root
    mean square of its rows, so that an image of the fit has a squared length of about 1 in each block.

    Attributes:
        centre: (D,) means.
        scale: (D,) factors; 0 for a feature that is constant.
        widths: the number of features of each block.
    """

    centre: Array
    scale: Array
    widths: tuple[int, ...]

    def __call__(self, features: Array) -> Array:
        """Standardised features (n, D)."""
        value: Array = (features - self.centre) * self.scale
        return value

    def kernels(self, features: Array) -> Array:
        """The linear kernel of each block: (blocks, n, n)."""
        parts = np.split(self(features), np.cumsum(self.widths)[:-1], axis=1)
        return np.stack([part @ part.T for part in parts])

    def shared(self, shares: Array) -> Standardisation:
        """The same with each block's share in the kernel, (blocks,), in the scale."""
        return Standardisation(self.centre, self.scale * np.repeat(np.sqrt(shares), self.widths), self.widths)


def joined(blocks: Sequence[Array]) -> Array:
    """All blocks side by side, (n, D) float64.

    Raises:
        InputError: no block, another number of rows, or a value that is not finite.
    """
    if not blocks:
        raise InputError("no block of features was given: pass one array (n, d) at least")
    shapes = [np.shape(block) for block in blocks]
    if any(len(shape) != 2 or shape[0] != shapes[0][0] or not shape[1] for shape in shapes):
        raise InputError(f"blocks of features are arrays (n, d) of the same n; got the shapes {shapes}")
    features = np.concatenate([np.asarray(block, dtype=np.float64) for block in blocks], axis=1)
    if bad := np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        raise InputError(f"{len(bad)} of {len(features)} images have features that are not finite, the first: {bad[0]}")
    return features


def standardised(features: Array, widths: Sequence[int]) -> Standardisation:
    """The standardisation of features (n, D), n >= 2, in blocks of these widths."""
    centre = features.mean(axis=0)
    deviation = features.std(axis=0)
    varies = deviation > _ROUNDING * np.abs(features).max(axis=0)
    scale = np.zeros_like(deviation)
    for start, width in zip(np.cumsum([0, *widths]), widths, strict=False):
        block = np.arange(start, start + width)[varies[start : start + width]]
        if len(block):
            variance = deviation[block] ** 2
            scale[block] = 1 / np.sqrt((variance + np.median(variance)) / 2)
            scale[block] /= np.sqrt(np.sum((deviation[block] * scale[block]) ** 2))
    return Standardisation(centre, scale, tuple(widths))


def by_size(groups: Indices) -> list[Indices]:
    """The members of all groups, one array (groups, size) for each size."""
    order = np.argsort(groups, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    sizes = sorted({len(each) for each in members})
    return [np.stack([each for each in members if len(each) == size]) for size in sizes]
