"""Quality maps as pictures: colours, the place of the overlay, what lights up."""

from __future__ import annotations

import numpy as np
import pytest

from aigciqa.plots import COLOURS, colour_map


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    """Linear RGB (COLOURS, 3) of all colours, from the worst score to the best."""
    rgb = colour_map(np.arange(COLOURS)[None], 0, COLOURS - 1)[0] / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def cielab(linear: np.ndarray) -> np.ndarray:
    """CIELAB (N, 3) of linear sRGB (N, 3), for the white of daylight (D65)."""
    to_xyz = np.array([(0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505)])
    share = linear @ to_xyz.T / to_xyz.sum(axis=1)
    x, y, z = np.where(share > 216 / 24389, np.cbrt(share), (24389 / 27 * share + 16) / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def test_colours_run_from_bright_for_the_worst_to_dark_for_the_best_in_even_steps(colours: np.ndarray) -> None:
    lightness = cielab(colours[::15])[:, 0]
    steps = -np.diff(lightness)
    assert lightness[0] > 85
    assert lightness[-1] < 20
    assert steps.min() > 0.6 * steps.max()


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
    lab = cielab((colours[::15] @ np.array(seen).T).clip(0, 1))
    assert np.linalg.norm(np.diff(lab, axis=0), axis=1).min() > 2.3  # the least difference that is noticed
    assert np.diff(lab[:, 0]).max() < 0


def test_scores_outside_the_range_look_like_its_ends() -> None:
    inside = colour_map(np.array([[1.0, 4.0]]), 1.0, 4.0)
    outside = colour_map(np.array([[-7.0, 99.0]], dtype=np.float32), 1.0, 4.0)
    assert inside.dtype == np.uint8
    assert inside.shape == (1, 2, 3)
    assert (inside == outside).all()
