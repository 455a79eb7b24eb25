"""Quality maps in colours, by themselves and over the image."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigciqa.registry import Preprocess

COLOURS = 256
#: The colours of the worst score, of three between, and of the best, in OKLab (Ottosson 2020: lightness, green to red,
#: blue to yellow). Their lightness falls evenly, so that the order also shows to the colour-blind and in grey.
_PATH = np.array(
    [(0.93, -0.03, 0.14), (0.76, 0.085, 0.095), (0.58, 0.14, -0.03), (0.42, 0.07, -0.13), (0.24, 0.02, -0.12)]
)
_CONES = np.array(
    [(1, 0.3963377774, 0.2158037573), (1, -0.1055613458, -0.0638541728), (1, -0.0894841775, -1.2914855480)]
)
_LINEAR_RGB = np.array(
    [
        (4.0767416621, -3.3077115913, 0.2309699292),
        (-1.2684380046, 2.6097574011, -0.3413193965),
        (-0.0041960863, -0.7034186147, 1.7076147010),
    ]
)
#: Share of the colours in an overlay; the rest is the image in grey.
_STRENGTH = 0.7


def colour_map(quality_map: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """A map of scores in colours: from bright yellow, the worst, to dark blue, the best, in even steps to the eye.

    Args:
        quality_map: scores (h, w).
        low: the score shown as the worst; lower ones look the same.
        high: the score shown as the best; higher ones look the same.

    Returns:
        uint8 (h, w, 3), sRGB.

    Example:
        >>> import numpy as np
        >>> from aigciqa.images.colour_maps import colour_map
        >>> colour_map(np.array([[0.0, 5.0]]), 0, 5).tolist()
        [[[251, 235, 114], [25, 13, 86]]]
    """
    share = (np.asarray(quality_map, dtype=np.float64) - low) / (high - low)
    colours: NDArray[np.uint8] = palette()[np.rint(share.clip(0, 1) * (COLOURS - 1)).astype(np.intp)]
    return colours


def overlay(
    image: Image.Image, quality_map: NDArray[np.float32], preprocess: Preprocess, low: float, high: float
) -> Image.Image:
    """An RGB image under its quality map (h, w), which covers what the metric sees of it; `colour_map` colours it."""
    from aigciqa.images.preprocess import Preprocessor  # imports torch

    left, top, right, bottom = map(round, Preprocessor(preprocess).visible_box(image.height, image.width))
    scores = Image.fromarray(quality_map).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    colours = Image.fromarray(colour_map(np.asarray(scores), low, high))
    below = image.crop((left, top, right, bottom)).convert("L").convert("RGB")
    shown = image.copy()
    shown.paste(Image.blend(below, colours, _STRENGTH), (left, top))
    return shown


@functools.cache
def palette() -> NDArray[np.uint8]:
    """The colours (COLOURS, 3): a smooth curve through the given ones, equally long from each to the next."""
    along = np.linspace(0, 1, 2049)
    through = np.polynomial.polynomial.polyfit(np.linspace(0, 1, len(_PATH)), _PATH, len(_PATH) - 1)
    curve = np.polynomial.polynomial.polyval(along, through).T
    length = np.concatenate([[0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    wanted = np.linspace(0, length[-1], COLOURS)
    oklab = np.stack([np.interp(wanted, length, channel) for channel in curve.T], axis=1)
    linear = ((oklab @ _CONES.T) ** 3 @ _LINEAR_RGB.T).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    colours: NDArray[np.uint8] = np.rint(255 * encoded).astype(np.uint8)
    return colours
