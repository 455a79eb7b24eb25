"""Quality maps as plots of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.images.colour_maps import COLOURS, colour_map, overlay
from aigciqa.images.decode import load_image
from aigciqa.utils.extras import needs_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from aigciqa.metric import Metric


def plot_quality_map(image: Any, metric: str | Metric, reference: Any = None, *, ax: Axes | None = None) -> Axes:
    """Plot an image under its quality map, the score in the title: what lies below that score is coloured.

    The map lies over the part of the image that the metric sees: the centre crop of the paper's metrics, the whole
    image for `nr-lite` and `fr-lite`. The colour bar spans the scale, with a mark at the score; a bar that ends in a
    point says that the map goes below the scale.

    Args:
        image: one image, in any form a `Metric` takes.
        metric: a `Metric`, or the name of one that has weights.
        reference: FR: its image prompt.
        ax: where to plot; a new figure of pyplot if absent.

    Returns:
        The axes, in the image's pixels.

    Raises:
        MissingExtraError: matplotlib is missing.
        TypeError, InputError: as calling the metric; several images.
    """
    require_matplotlib()
    from matplotlib import pyplot, rcParams
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    from aigciqa.create import create_metric

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
    score = float(quality_map.mean())
    ax.set_title(f"{metric.name}: {metric.dimension} {score:.2f}")
    colours = colour_map(np.linspace(low, high, COLOURS)[None], score, low, high)[0]
    bar = ax.figure.colorbar(
        ScalarMappable(Normalize(low, high), ListedColormap(colours / 255)),
        ax=ax,
        extend="min" if quality_map.min() < low else "neither",
        label=f"{metric.dimension}: opinion score from {low:g} (bad) to {high:g} (excellent)",
    )
    bar.ax.axhline(min(max(score, low), high), color=rcParams["text.color"], linewidth=2)
    return ax


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
