"""The degradations that the embedded metrics are trained on, and the data made with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

import aigciqa
from aigciqa.training.lite import degradations as dg
from aigciqa.training.lite import photos as photos_module
from aigciqa.training.lite import recipe, training_data
from aigciqa.training.lite.image_filters import shock
from aigciqa.training.lite.training_data import photo_features
from tests.conftest import draw

SEEDLESS = {"gaussian_blur", "lens_blur", "pixelate", "alias", "bilateral", "mean_shift", "median", "guided_smooth"}
SEEDLESS |= {"webp", "ringing", "quantise", "posterise", "painterly"}


def leaves(height: int, width: int, seed: int = 0) -> Tensor:
    """Overlapping discs with fine texture, (3, H, W): edges and detail at all sizes, as photographs have them."""
    rng = np.random.default_rng(seed)
    image = np.full((3, height, width), 0.5)
    for _ in range(300):
        radius = min(height, width) * 0.5 * rng.uniform(0.05, 1) ** 3 + 2
        row, column = rng.uniform(0, height), rng.uniform(0, width)
        top, left = (max(0, int(at - radius)) for at in (row, column))
        bottom, right = (int(at + radius) + 2 for at in (row, column))
        y, x = np.ogrid[top : min(bottom, height), left : min(right, width)]
        inside = (y - row) ** 2 + (x - column) ** 2 < radius**2
        colour = rng.uniform(0.1, 0.9, 3)[:, None]
        around = image[:, top:bottom, left:right]
        around[:, inside] = colour + rng.uniform(0, 0.12) * rng.standard_normal(inside.sum())
    return torch.from_numpy(image).clamp(0, 1).mul(255).round().div(255).float()


@pytest.fixture(scope="module")
def photo() -> Tensor:
    return leaves(144, 160)


@pytest.mark.parametrize("name", dg.names())
def test_every_degradation_is_seeded_and_grows_with_strength(photo: Tensor, name: str) -> None:
    results = {strength: dg.degrade(photo, name, strength, seed=5) for strength in (1, 3, 5)}
    for result in results.values():
        assert result.shape == photo.shape
        assert result.dtype == torch.float32
        levels = result * 255
        assert torch.equal(levels.round().div(255), result)
        assert result.min() >= 0
        assert result.max() <= 1
    errors = [float((result - photo).square().mean()) for result in results.values()]
    assert 0 < 0.9 * errors[0] < errors[1] < errors[2]  # sharpening may outdo a little lost detail
    assert torch.equal(dg.degrade(photo, name, 3, seed=5), results[3])
    others = [dg.degrade(photo, name, 3, seed=seed) for seed in range(4)]
    assert all(torch.equal(other, results[3]) for other in others) == (name in SEEDLESS)


@given(st.sampled_from(dg.names()), st.floats(1, 5), st.integers(17, 40), st.integers(17, 40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_size_and_strength(name: str, strength: float, height: int, width: int, seed: int) -> None:
    result = dg.degrade(torch.rand(3, height, width), name, strength, seed=seed)
    assert result.shape == (3, height, width)
    assert bool(result.isfinite().all())


@pytest.mark.parametrize("name", dg.names())
def test_a_flat_image_survives(name: str) -> None:
    result = dg.degrade(torch.full((3, 32, 32), 0.5), name, 5, seed=0)
    assert bool(result.isfinite().all())


def test_the_input_is_left_alone(photo: Tensor) -> None:
    before = photo.clone()
    for name in dg.names():
        dg.degrade(photo, name, 4, seed=0)
    assert torch.equal(photo, before)


def test_a_chain_is_its_steps_in_order(photo: Tensor) -> None:
    steps = [dg.Step("jpeg", 2, 1), dg.Step("gaussian_noise", 3, 2)]
    by_hand = dg.degrade(dg.degrade(photo, "jpeg", 2, seed=1), "gaussian_noise", 3, seed=2)
    assert torch.equal(dg.degrade_chain(photo, steps), by_hand)
    assert not torch.equal(dg.degrade_chain(photo, steps[::-1]), by_hand)


def test_errors_say_what_was_expected(photo: Tensor) -> None:
    with pytest.raises(ValueError, match=r"unknown degradation 'blurr'; expected one of: gaussian_blur"):
        dg.degrade(photo, "blurr", 1, seed=0)
    with pytest.raises(ValueError, match=r"strength is 6; expected a number from 1 to 5"):
        dg.degrade(photo, "jpeg", 6, seed=0)
    with pytest.raises(ValueError, match=r"shape \(1, 3, 144, 160\); expected \(3, H, W\)"):
        dg.degrade(photo[None], "jpeg", 1, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs of six subjects, and nine images of as many."""
    root = tmp_path_factory.mktemp("photos")
    for subject in range(6):
        (root / "things" / f"thing{subject}").mkdir(parents=True)
        for number in range(2):
            _save(leaves(520, 540, subject * 7 + number), root / "things" / f"thing{subject}" / f"{number}.png")
    (root / "many").mkdir()
    for number in range(9):
        _save(torch.rand(3, 8, 8), root / "many" / f"{number}.png")
    (root / "many" / "._0.png").write_bytes(b"Mac OS X")
    return root


def _save(image: Tensor, path: Path) -> None:
    Image.fromarray((image * 255).byte().permute(1, 2, 0).numpy()).save(path)


def test_photos_are_found_by_subject_and_split_by_subject(folder: Path) -> None:
    photos = photos_module.find_photos(folder)
    assert len(photos) == 21
    assert len({photo.subject for photo in photos}) == 6 + 9
    training, held_out = photos_module.split_photos(photos)
    assert len(training) + len(held_out) == 21
    assert {photo.subject for photo in held_out} == {"many/4.png", "things/thing0", "things/thing5"}
    assert not {photo.subject for photo in held_out} & {photo.subject for photo in training}


@pytest.mark.slow
def test_a_run_that_is_broken_off_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    photos = photos_module.find_photos(folder / "things")[:8]
    settings = training_data.Settings(views=1, ladders=1, chains=1, steps=4)
    digests = []
    for name in ("whole", "broken"):
        cache = tmp_path / name
        cache.mkdir()
        if name == "broken":
            training_data.training_data(photos[:3], settings, cache, 1, "before")
            (cache / "half.tmp").write_bytes(b"half a file")
            drawn = {file: file.stat().st_mtime_ns for file in cache.glob("*.pt")}
            assert len(drawn) == 3
        data = training_data.training_data(photos, settings, cache, 2, "photos")
        fitted = recipe.fit_all(data, settings)
        digests.append([recipe.write_variant(cache, variant, fitted) for variant in recipe.VARIANTS])
    assert digests[0] == digests[1]
    assert all(file.stat().st_mtime_ns == before for file, before in drawn.items())
    score = aigciqa.create_metric("fr-lite", weights=cache / "fr-lite")(photos[0].path, photos[1].path)
    assert 0 <= float(score) <= 5


def test_plans_depend_on_photo_and_seed_alone(folder: Path) -> None:
    photos = {p.name: p for p in photos_module.find_photos(folder)}
    photo, other = photos["things/thing1/0.png"], photos["things/thing2/0.png"]
    plan = photos_module.training_plan(photo, 0, views=2, ladders=2, chains=3)
    assert plan == photos_module.training_plan(photo, 0, views=2, ladders=2, chains=3)
    assert plan != photos_module.training_plan(photo, 1, views=2, ladders=2, chains=3)
    assert plan != photos_module.training_plan(other, 0, views=2, ladders=2, chains=3)
    assert len(plan) == 2 * (1 + 2 * 4 + 3)
    assert [sample.severity for sample in plan if not sample.steps] == [0.0, 0.0]
    assert all(0 < sample.severity < 1 for sample in plan if sample.steps)


def test_views_are_drawn_again_to_the_bit(folder: Path) -> None:
    photo = next(p for p in photos_module.find_photos(folder) if p.subject == "things/thing1")
    views = photos_module.PhotoViews(photo, 0)
    sample = photos_module.Sample(0, 0.5, (dg.Step("jpeg", 3, 1),))
    drawn = views.draw(sample)
    assert drawn.shape == (3, photos_module.SIDE, photos_module.SIDE)
    assert torch.equal(drawn, photos_module.PhotoViews(photo, 0).draw(sample))
    assert not torch.equal(views.render(0), views.render(1))
    softened = drawn.diff(dim=2).square().mean() / views.render(0).diff(dim=2).square().mean()
    assert softened < 0.5  # half the pixels, shown twice as large


def test_features_are_kept_of_a_photograph_not_of_its_name(tmp_path: Path) -> None:
    photo = photos_module.Photo(tmp_path / "1.png", "1.png", "1")
    found = []
    for seed in (0, 1, 0):
        Image.fromarray(draw(400, 400, seed=seed)).save(photo.path)
        found.append(photo_features(photo, [photos_module.Sample(0)], tmp_path, False).maps)
    assert torch.equal(found[0], found[2])
    assert not torch.allclose(found[0], found[1], atol=0.01)


def test_labels_rank_by_metrics_and_by_strength() -> None:
    scores = np.tile(np.array([[0.0], [0.9], [0.5], [0.1]], dtype=np.float32), (1, 4))
    labels = photos_module.mixed_labels(scores, np.array([0.0, 0.2, 0.5, 0.9], dtype=np.float32))
    assert labels[0] == 1
    assert labels[0] > labels[1] > labels[2] > labels[3] > 0
    same_strength = photos_module.mixed_labels(scores, np.array([0.0, 0.5, 0.5, 0.5], dtype=np.float32))
    assert same_strength[1] > same_strength[2] > same_strength[3]
    same_scores = photos_module.mixed_labels(scores[[0, 1, 1, 1]] * 0, np.array([0.0, 0.2, 0.5, 0.9], dtype=np.float32))
    assert same_scores[1] > same_scores[3]


def test_painterly_keeps_an_edge_and_loses_texture() -> None:
    image = torch.full((3, 40, 40), 0.2)
    image[:, :, 20:] = 0.8
    noisy = image + 0.05 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    painted = dg.degrade(noisy, "painterly", 3, seed=0)
    assert (painted - image).square().mean() < 0.3 * (noisy - image).square().mean()
    assert (painted[:, :, 21] - painted[:, :, 18]).mean() > 0.5


def test_an_upscaler_makes_blurred_edges_steep() -> None:
    ramp = torch.linspace(-12, 12, 60).sigmoid().expand(3, 60, 60)
    steep = shock(ramp, rounds=6, sigma=1.0)
    assert steep.diff(dim=2).max() > 2 * ramp.diff(dim=2).max()
    assert float(steep.max() - steep.min()) <= float(ramp.max() - ramp.min()) + 1e-6


def test_full_reference_scores_fall_with_strength(photo: Tensor) -> None:
    weak, strong = (
        photos_module.full_reference_scores(dg.degrade(photo, "gaussian_blur", strength, seed=0), photo)
        for strength in (1, 5)
    )
    assert (weak > strong).all()
