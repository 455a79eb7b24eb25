"""Quality maps as images: in colours, over the image, and as a plot.

torch and matplotlib are imported where they are needed: colours alone need neither.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.images.decode import load_image
from aigciqa.registry import Preprocess
from aigciqa.utils.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aigciqa.metric import Metric

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


def plot_quality_map(image: Any, metric: str | Metric, reference: Any = None, *, ax: Axes | None = None) -> Axes:
    """Plot an image under its quality map, with a colour bar, the score in the title.

    The map lies over the part of the image that the metric sees: the centre crop of the paper's metrics, the whole
    image for `lite`. Colours span the score's range, so that plots of different images can be compared.

    Args:
        image: one image, in any form a `Metric` takes.
        metric: a `Metric`, or the name of one that has weights.
        reference: FR: its image prompt.
        ax: where to plot; a new figure of pyplot if absent.

    Returns:
        The axes, in the image's pixels.

    Raises:
        MissingExtraError: matplotlib is missing.
        TypeError, ValueError: as calling the metric; several images.
    """
    require_matplotlib()
    from matplotlib import pyplot
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    from aigciqa.metric import create_metric

    metric = create_metric(metric) if isinstance(metric, str) else metric
    maps = metric.quality_map(image, reference)
    if len(maps) != 1:
        raise InputError(f"a plot shows one image; got {len(maps)}")
    quality_map = maps[0].cpu().numpy()
    low, high = metric.score_range
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    ax.imshow(overlay(_image(image), quality_map, metric.config.preprocess, low, high))
    ax.set_axis_off()
    ax.set_title(f"{metric.name}: {metric.dimension} {quality_map.mean():.2f}")
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}
    ax.figure.colorbar(
        ScalarMappable(Normalize(low, high), ListedColormap(_palette() / 255)),
        ax=ax,
        extend=extend[bool(quality_map.min() < low), bool(quality_map.max() > high)],
        label=f"{metric.dimension}: opinion score from {low:g} (bad) to {high:g} (excellent)",
    )
    return ax


def overlay(
    image: Image.Image, quality_map: NDArray[np.float32], presentation: Preprocess, low: float, high: float
) -> Image.Image:
    """An image under its quality map, which covers what the metric sees of it; the rest is left as it is.

    Args:
        image: RGB.
        quality_map: scores (h, w), float32.
        presentation: how the metric is shown images.
        low, high: as `colour_map` takes them.
    """
    from aigciqa.images.preprocess import visible_box

    left, top, right, bottom = map(round, visible_box(image.height, image.width, presentation))
    scores = Image.fromarray(quality_map).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    colours = Image.fromarray(colour_map(np.asarray(scores), low, high))
    below = image.crop((left, top, right, bottom)).convert("L").convert("RGB")
    shown = image.copy()
    shown.paste(Image.blend(below, colours, _STRENGTH), (left, top))
    return shown


def colour_map(quality_map: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    """A map of scores in colours: from bright yellow, the worst, to dark blue, the best, in even steps to the eye.

    Args:
        quality_map: scores (h, w).
        low: the score shown as the worst; lower ones look the same.
        high: the score shown as the best; higher ones look the same.

    Returns:
        uint8 (h, w, 3), sRGB.
    """
    share = (np.asarray(quality_map, dtype=np.float64) - low) / (high - low)
    colours: NDArray[np.uint8] = _palette()[np.rint(share.clip(0, 1) * (COLOURS - 1)).astype(np.intp)]
    return colours


def require_matplotlib() -> Any:
    """The module; raises MissingExtraError."""
    with needs_extra("plot", "plots need matplotlib"):
        import matplotlib
    return matplotlib


def _image(image: Any) -> Image.Image:
    """One image, in any form a `Metric` takes, at its own size."""
    import torch

    from aigciqa.images.preprocess import as_list, check_tensor

    (image,) = as_list(image)
    if not isinstance(image, torch.Tensor):
        return load_image(image)
    levels = check_tensor(image)[0]
    if levels.is_floating_point():
        levels = (255 * levels.detach().clamp(0, 1)).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())


@functools.cache
def _palette() -> NDArray[np.uint8]:
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
