"""Quality maps in colours: where an image falls short of its own score."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigciqa.registry import Preprocess

COLOURS = 256
#: The colours from just below the image's score to far below it, in OKLab (Ottosson 2020: lightness, green to red, blue
#: to yellow). Their lightness falls evenly, so that the order also shows to the colour-blind and in grey.
_PATH = np.array([(0.93, -0.03, 0.14), (0.76, 0.085, 0.095), (0.58, 0.17, 0.0), (0.42, 0.15, -0.07)])
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
#: How far below the score a place has the last colour, as a share of the scale; and that colour's opacity.
_FAR, _OPAQUE = 0.25, 0.85


def colour_map(quality_map: NDArray[Any], score: float, low: float, high: float) -> NDArray[np.uint8]:
    """Colours for what lies below an image's own score: from clear over yellow and orange to purple.

    What lies at the score or above it stays clear. A quarter of the scale below it, the colour is the last one.

    Args:
        quality_map: scores (h, w) of the places of an image.
        score: of the image.
        low: where the scale begins; lower scores look the same.
        high: where it ends.

    Returns:
        uint8 (h, w, 4), sRGB and opacity.

    Example:
        >>> import numpy as np
        >>> from aigciqa.images.colour_maps import colour_map
        >>> colour_map(np.array([[4.0, 3.0, 1.0]]), 4.0, 0, 5)[0, :, 3].tolist()
        [0, 173, 217]
    """
    colours: NDArray[np.uint8] = palette()[levels_below(quality_map, score, low, high)]
    return colours


def levels_below(quality_map: NDArray[Any], score: float, low: float, high: float) -> NDArray[np.uint8]:
    """Positions (h, w) in the `palette`: how far places lie below the image's score; arguments as of `colour_map`."""
    below = np.clip(score, low, high) - np.clip(np.asarray(quality_map), low, high)
    levels: NDArray[np.uint8] = np.rint((below / (high - low)).clip(0, 1) * (COLOURS - 1)).astype(np.uint8)
    return levels


def overlay(
    image: Image.Image, quality_map: NDArray[np.float32], preprocess: Preprocess, low: float, high: float
) -> Image.Image:
    """An RGB image under its quality map (h, w), which covers what the metric sees of it; `colour_map` colours it."""
    from aigciqa.images.preprocess import Preprocessor  # imports torch

    left, top, right, bottom = map(round, Preprocessor(preprocess).visible_box(image.height, image.width))
    places = Image.fromarray(quality_map).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    colours = Image.fromarray(colour_map(np.asarray(places), float(quality_map.mean()), low, high))
    shown = image.copy()
    shown.paste(colours.convert("RGB"), (left, top), mask=colours.getchannel("A"))
    return shown


@functools.cache
def palette() -> NDArray[np.uint8]:
    """The colours (COLOURS, 4), the first of them clear, the last a whole scale below the image's score."""
    share = (np.arange(COLOURS) / ((COLOURS - 1) * _FAR)).clip(max=1)
    opacity = np.rint(255 * _OPAQUE * share)[:, None]
    return np.concatenate([_encoded(share), opacity], axis=1).astype(np.uint8)


def _encoded(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """sRGB (n, 3) in 0..255 at shares of the way along a smooth curve through the colours of `_PATH`."""
    along = np.linspace(0, 1, 2049)
    through = np.polynomial.polynomial.polyfit(np.linspace(0, 1, len(_PATH)), _PATH, len(_PATH) - 1)
    curve = np.polynomial.polynomial.polyval(along, through).T
    length = np.concatenate([[0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    oklab = np.stack([np.interp(share * length[-1], length, channel) for channel in curve.T], axis=1)
    linear = ((oklab @ _CONES.T) ** 3 @ _LINEAR_RGB.T).clip(0, 1)
    encoded: NDArray[np.float64] = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded)  # IEC 61966-2-1
