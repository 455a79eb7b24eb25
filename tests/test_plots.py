"""Quality maps as images: colours, the place of the overlay, what lights up."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from PIL import Image, ImageFilter

import aigciqa
from aigciqa.errors import MissingExtraError
from aigciqa.images.colour_maps import colour_map, overlay
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor
from aigciqa.registry import METRICS
from tests.conftest import draw, draw_tensor

PROMPTS = Path(__file__).parent.parent / "examples" / "images" / "prompts"
QUARTERS = ((1, 0), (0, 1))


FAR = 64  # of 255 steps down the scale, by which the colours end


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """Linear RGB (FAR, 3) of all colours without their opacity, from just below the image's score to far below it."""
    rgb = colour_map(np.arange(255, 255 - FAR, -1)[None], 255, 0, 255)[0, :, :3] / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (N, 3) of linear sRGB (N, 3), for the white of daylight (D65)."""
    to_xyz = np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)])
    share = linear @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_colours_run_from_bright_to_dark_in_even_steps(colours: np.ndarray) -> None:
    lightness = cielab(colours[::4])[:, 0]
    steps = -np.diff(lightness)
    assert lightness[0] > 85
    assert lightness[-1] < 45
    assert steps.min() > 0.5 * steps.max()


@pytest.mark.parametrize(
    "seen",  # Machado et al. 2009, table 1: what those without red, green or blue cones see
    [
        [(0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)],
        [(0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)],
        [(1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)],
    ],
    ids=["protanopia", "deuteranopia", "tritanopia"],
)
def test_colours_stay_apart_for_the_colour_blind(colours: np.ndarray, seen: list[tuple[float, ...]]) -> None:
    lab = cielab((colours[::4] @ np.array(seen).T).clip(0, 1))
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 2.3  # the least difference that is noticed
    assert np.diff(lab[:, 0]).max() < 0


def test_only_what_lies_below_the_score_is_coloured() -> None:
    quality_map = np.array([[4.5, 4.0, 3.99, 3.5, 2.75, 1.0]])
    opacity = colour_map(quality_map, 4.0, 0.0, 5.0)[0, :, 3].tolist()
    assert opacity[:2] == [0, 0]
    assert opacity == sorted(opacity)
    assert opacity[2] < 5
    assert opacity[-2:] == [217, 217]  # a quarter of the scale below, the last colour is reached


def test_scores_outside_the_scale_look_like_its_ends() -> None:
    inside = colour_map(np.array([[1.0, 1.5]]), 1.9, 1.0, 4.0)
    outside = colour_map(np.array([[-7.0, 1.5]], dtype=np.float32), 1.9, 1.0, 4.0)
    assert inside.dtype == np.uint8
    assert inside.shape == (1, 2, 4)
    assert (inside == outside).all()
    assert (colour_map(np.array([[3.0]]), 99.0, 1.0, 4.0) == colour_map(np.array([[3.0]]), 4.0, 1.0, 4.0)).all()


def jpeg(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=8)
    return load_image(Image.open(buffer))


def noisy(image: Image.Image) -> Image.Image:
    levels = np.asarray(image) + np.random.default_rng(0).normal(0, 40, (image.height, image.width, 3))
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(4))


@pytest.mark.parametrize("degrade", [jpeg, noisy, blurred])
@pytest.mark.parametrize("name", ["nr-lite", "fr-lite"])
def test_the_lowest_place_of_a_map_lies_in_the_quarter_that_was_degraded(
    name: str, degrade: Callable[[Image.Image], Image.Image]
) -> None:
    metric = aigciqa.create_metric(name)
    original = load_image(PROMPTS / "chelsea.jpg")
    middle = np.array((original.width // 2, original.height // 2))
    for quarter in QUARTERS:
        corner = middle * quarter
        box = (*corner.tolist(), *(corner + middle).tolist())
        image = original.copy()
        image.paste(degrade(image.crop(box)), box)
        quality = metric.quality_map(image, *([original] if metric.requires_reference else []))[0].numpy()
        row, column = np.unravel_index(quality.argmin(), quality.shape)
        centre = ((column + 0.5) / quality.shape[1], (row + 0.5) / quality.shape[0])
        assert all(side / 2 <= at <= (side + 1) / 2 for at, side in zip(centre, quarter, strict=True)), centre


def test_the_map_of_a_head_that_reads_one_sum_is_that_sum_at_every_place() -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None)
    metric.load_state_dict({**metric.state_dict(), **sum_of_features(metric)})
    pixels = draw_tensor(1, 224, 224)
    pixels[..., 112:, :112] = 0.5
    sums = metric.backbone(metric.preprocessor.normalize(metric.preprocessor.tensor(pixels))).sum(dim=1)
    torch.testing.assert_close(metric.quality_map(pixels), 7 - sums)


def sum_of_features(metric: aigciqa.Metric) -> dict[str, torch.Tensor]:
    """A head whose scores are 7 minus the sum of the features."""
    tensors = {name: torch.zeros_like(each) for name, each in metric.state_dict().items() if name.startswith("head.")}
    tensors["head.fc1.weight"][0] = 1
    tensors["head.fc2.weight"][:, 0] = -1
    tensors["head.fc2.bias"][:] = 7
    return tensors


@pytest.mark.parametrize("name", ["nr-lite", "nr-vgg16", "nr-inceptionv4"])
@pytest.mark.parametrize("size", [(300, 451), (640, 333), (224, 224), (90, 1000)], ids=str)
def test_the_overlay_lies_over_what_the_metric_sees(name: str, size: tuple[int, int]) -> None:
    preprocess = METRICS[name].preprocess
    image = Image.fromarray(draw(*size))
    good_in_the_middle = np.zeros((8, 8), np.float32)
    good_in_the_middle[3:5, 3:5] = 5
    shown = overlay(image, good_in_the_middle, preprocess, 0, 5)
    assert shown.size == image.size
    changed = (np.asarray(shown) != np.asarray(image)).any(axis=2)
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert changed[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].mean() > 0.85
    assert not changed[size[0] // 2, size[1] // 2]  # what is not below the score is as it was

    marked = np.zeros((*size, 3), np.uint8)
    marked[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = 255
    seen = Preprocessor(preprocess).image(Image.fromarray(marked))
    assert seen[:, 2:-2, 2:-2].min() > 250  # all of it is covered ...
    marked[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]] = 0
    seen = Preprocessor(preprocess).image(Image.fromarray(marked))
    assert all(edge.float().mean() > 40 for edge in (seen[:, 0], seen[:, -1], seen[..., 0], seen[..., -1]))  # ... just


@pytest.fixture
def clean() -> Iterator[None]:
    """No figure of pyplot stays open."""
    yield
    pyplot.close("all")


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("form", ["path", "PIL image", "array", "tensor", "batch of one", "list of one"])
def test_the_plot_shows_the_image_its_score_and_a_colour_bar(form: str) -> None:
    path = PROMPTS / "chelsea.jpg"
    loaded = load_image(path)
    tensor = torch.from_numpy(np.asarray(loaded).copy()).permute(2, 0, 1)
    image = {
        "path": path, "PIL image": loaded, "array": np.asarray(loaded), "tensor": tensor / 255,
        "batch of one": tensor[None], "list of one": [str(path)],
    }[form]  # fmt: skip
    ax = aigciqa.plot_quality_map(image, "nr-lite")
    score = aigciqa.create_metric("nr-lite")(path).item()
    assert ax.get_title() == f"nr-lite: quality {score:.2f}"
    assert ax.get_images()[0].get_array().shape == (300, 451, 3)
    _, bar = ax.figure.axes
    assert bar.get_ylabel() == "quality: opinion score from 0 (bad) to 5 (excellent)"
    assert bar.get_ylim() == (0, 5)
    assert [line.get_ydata()[0] for line in bar.get_lines()][-1:] == [pytest.approx(score, abs=1e-3)]
    colours = ax.figure.axes[1].collections[-1].cmap(np.linspace(0, 1, 256))
    assert (colours[np.linspace(0, 5, 256) > score, 3] == 0).all()  # as in the picture: clear above the score
    assert colours[0, 3] == pytest.approx(217 / 255)


@pytest.mark.usefixtures("clean")
def test_the_plot_goes_where_it_is_told_and_shows_the_metrics_own_dimension() -> None:
    metric = aigciqa.create_metric("fr-resnet18", weights=None, dimension="overall")
    figure, (left, right) = pyplot.subplots(1, 2)
    assert aigciqa.plot_quality_map(draw(300, 200), metric, draw(250, 250), ax=right) is right
    assert right.get_title().startswith("fr-resnet18: overall ")
    assert not left.get_images()
    assert figure.axes[2].get_ylim() == (0, 15)


def test_a_plot_shows_one_image() -> None:
    with pytest.raises(ValueError, match="a plot shows one image; got 2"):
        aigciqa.plot_quality_map([draw(100, 100), draw(100, 100)], "nr-lite")
    with pytest.raises(ValueError, match="takes no reference"):
        aigciqa.plot_quality_map(draw(100, 100), "nr-lite", draw(100, 100))


def test_without_matplotlib_the_plot_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'aigciqa\[plot\]'"):
        aigciqa.plot_quality_map(draw(100, 100), "nr-lite")
