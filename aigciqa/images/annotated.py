"""A picture under its quality map with what a reader needs beside it: the score, the colour bar, what is coloured."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from aigciqa.images.colour_maps import colour_map

#: Sizes in pixels.
_MARGIN, _LARGE, _SMALL, _BAR, _LEAST_WIDTH = 12, 20, 14, 16, 400
_INK, _SOFT, _PAPER = (26, 26, 26), (85, 85, 85), (255, 255, 255)


def annotated(
    shown: Image.Image, quality_map: NDArray[np.float32], low: float, high: float, *, dimension: str, metric: str
) -> Image.Image:
    """An overlay above its legend, on white, at least 400 pixels wide.

    Args:
        shown: the overlay.
        quality_map: what it shows; its mean is the score.
        low: where the scale begins, which the colour bar spans.
        high: where it ends.
        dimension: what the score is of.
        metric: name of the metric.
    """
    score = float(quality_map.mean())
    note = "Coloured: below its score, the mark."
    if quality_map.min() < low:
        note += f" Some lie below {low:g}."
    width = max(shown.width, _LEAST_WIDTH)
    rows = [_MARGIN, _LARGE + 12, _BAR + 6, _SMALL + 8, _SMALL + _MARGIN]
    title, bar, ends, last, bottom = (shown.height + offset for offset in np.cumsum(rows).tolist())
    picture = Image.new("RGB", (width, bottom), _PAPER)
    picture.paste(shown, ((width - shown.width) // 2, 0))
    draw = ImageDraw.Draw(picture)
    draw.text((_MARGIN, title), f"{dimension} {score:.2f} by {metric}", _INK, _font(_LARGE))
    left, right = _MARGIN, width - _MARGIN
    values = np.linspace(low, high, right - left)[None].repeat(_BAR, axis=0)
    colours = Image.fromarray(colour_map(values, score, low, high))
    picture.paste(colours.convert("RGB"), (left, bar), mask=colours.getchannel("A"))
    draw.rectangle((left, bar, right - 1, bar + _BAR - 1), outline=_SOFT)
    mark = left + (right - left - 1) * (min(max(score, low), high) - low) / (high - low)
    draw.line((mark, bar - 4, mark, bar + _BAR + 3), _INK, 3)
    draw.text((left, ends), f"{low:g} (bad)", _SOFT, _font(_SMALL))
    draw.text((right, ends), f"{high:g} (excellent)", _SOFT, _font(_SMALL), anchor="ra")
    draw.text((left, last), note, _SOFT, _font(_SMALL))
    return picture


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
