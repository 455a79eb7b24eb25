"""What would make a fitted head look better than it is, and what it is given that it can't use."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import aigciqa
from aigciqa.backbones import register_backbone
from aigciqa.errors import ImageError, InputError
from aigciqa.registry import metric_info, register_metric
from aigciqa.training.fit.features import FeatureReader, frozen_metric, succeeded
from tests.conftest import Tiny, draw
from tests.test_image_cache import DAMAGES

N = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, a copy of each, and ratings drawn at random: those of an image and its copy are the same."""
    folder = tmp_path_factory.mktemp("copies")
    scores = np.random.default_rng(1).uniform(1, 5, N // 2)
    rows = []
    for number, score in enumerate(scores):
        Image.fromarray(draw(64, 64, seed=number)).save(folder / f"{number}.png")
        shutil.copy(folder / f"{number}.png", folder / f"{number}-copy.png")
        rows += [f"{number}.png,{score:.3f}", f"{number}-copy.png,{score:.3f}"]
    (folder / "ratings.csv").write_text("\n".join(["image,quality", *rows, ""]))
    return folder


@pytest.fixture(scope="module")
def fitted(folder: Path) -> aigciqa.Metric:
    return aigciqa.fit_head(folder / "ratings.csv", output=folder / "out", metric="nr-lite", cache_dir=folder / "cache")


def test_a_copy_under_another_name_is_left_out_with_its_original(fitted: aigciqa.Metric) -> None:
    """Left out alone, each rating would be known from the copy: an SRCC of nearly 1 for ratings by chance."""
    figures = fitted.config.results["quality"]
    assert (figures["ratings"], figures["groups"]) == (N, N // 2)
    assert figures["srcc"][1] < 0
    assert "nothing shows that scores agree with people" in figures["warnings"][0]


def test_copies_join_the_groups_that_they_are_in(folder: Path, tmp_path: Path) -> None:
    """Images 0 and 1 are of one prompt, a copy of 0 and image 2 of another: all four are left out together."""
    names = ["0.png", "1.png", "0-copy.png", "2.png", *(f"{number}.png" for number in range(3, 12))]
    prompts = ["a", "a", "b", "b", *(f"p{number}" for number in range(3, 12))]
    rows = [f"{name},{prompt},{i % 5}" for i, (name, prompt) in enumerate(zip(names, prompts, strict=True))]
    (folder / "prompts.csv").write_text("\n".join(["image,prompt,quality", *rows, ""]))
    out, cache = tmp_path / "out", folder / "cache"
    found = aigciqa.fit_head(folder / "prompts.csv", output=out, metric="nr-lite", cache_dir=cache)
    assert found.config.results["quality"]["groups"] == 10


class Scaled(Tiny):
    def __init__(self, name: str, factor: float = 1.0) -> None:
        super().__init__(name)
        self.factor = factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor * super().forward(images)


def test_features_are_kept_for_one_network_alone(folder: Path, tmp_path: Path, tiny: Path) -> None:
    """The same weights may do otherwise: the ResNet18 of the paper's authors has other activations than a plain one."""
    register_backbone("scaled", Scaled)
    register_metric(replace(metric_info("nr-tiny"), name="nr-scaled", backbone="scaled"))
    plain = aigciqa.create_metric("nr-scaled", weights=None)
    other = aigciqa.Metric(replace(plain.config, options={"factor": 2.0}))
    other.load_state_dict(plain.state_dict())
    found = []
    for metric in (plain, other):
        reader = FeatureReader(frozen_metric(metric, {"quality": (0.0, 5.0)}), tmp_path, 1)
        (measured,) = succeeded(reader.read([str(folder / "0.png")]))
        found.append(measured.features[:8])  # the means of the network's channels
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-5)


def test_a_metric_of_ones_own_is_taken_in_inference_mode_too(tiny: Path) -> None:
    metric = aigciqa.Metric.from_pretrained(tiny)
    with torch.inference_mode():
        frozen = frozen_metric(metric, {"quality": (0.0, 5.0)})
    assert not any(tensor.is_inference() for tensor in frozen.state_dict().values())


@pytest.mark.parametrize("damage", ["zeroed", "a pixel flipped", "emptied"])
def test_kept_features_that_are_damaged_are_made_anew(damage: str, folder: Path, tmp_path: Path, tiny: Path) -> None:
    metric = frozen_metric(aigciqa.Metric.from_pretrained(tiny), {"quality": (0.0, 5.0)})
    found = []
    for _ in range(2):
        (measured,) = succeeded(FeatureReader(metric, tmp_path, 1).read([str(folder / "0.png")]))
        found.append((measured.pixels, measured.size, measured.lite, *measured.features))
        (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
        DAMAGES[damage](file)
    assert found[0] == found[1]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 0.05), (torch.bfloat16, 0.3)])
def test_a_head_of_half_precision_scores(fitted: aigciqa.Metric, folder: Path, dtype: torch.dtype, most: float) -> None:
    images = [str(folder / f"{number}.png") for number in range(N // 2)]
    exact = fitted.predict(images, uncertainty=True)
    found = aigciqa.Metric.from_pretrained(folder / "out").to(dtype).predict(images, uncertainty=True)
    for name, values in found.items():
        assert values.dtype == torch.float32
        assert (values - exact[name]).abs().max() < most


def test_an_output_that_is_a_file(folder: Path) -> None:
    path = folder / "ratings.csv"
    with pytest.raises(InputError, match=r"ratings\.csv is not a folder: name one for the checkpoint"):
        aigciqa.fit_head(path, output=path, metric="nr-lite")
    assert path.read_text().startswith("image,quality")


def test_images_that_break_off_are_told_in_one_error(folder: Path, tmp_path: Path) -> None:
    rows = [f"{folder / f'{number}.png'},{number}" for number in range(6)]
    for name in ("one.png", "other.png"):
        data = (folder / "0.png").read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        rows.append(f"{name},1")
    (tmp_path / "r.csv").write_text("\n".join(["image,quality", *rows, ""]))
    with pytest.raises(ImageError, match=r"2 images can't be read(.|\n)*one.png(.|\n)*other.png"):
        aigciqa.fit_head(tmp_path / "r.csv", output=tmp_path / "out", metric="nr-lite", cache_dir=folder / "cache")
    assert not os.path.exists(tmp_path / "out")
