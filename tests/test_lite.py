"""The embedded metrics: their backbone, their heads, and the weights that ship."""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor, nn

import aigciqa
from aigciqa.backbones import lite, scene_statistics
from aigciqa.heads.lite import FullReferenceHead, SoftTrees, build, thumbnail_likeness
from aigciqa.training.lite import fitting

ROOT = Path(__file__).parent.parent
ASSETS = ROOT / "aigciqa" / "checkpoints" / "embedded"
VARIANTS = ("nr-lite", "nr-lite-native", "fr-lite")
PHOTOS = sorted((ROOT / "examples" / "images" / "prompts").glob("*.*"))


@functools.cache
def shipped(variant: str, as_loss: bool = False) -> aigciqa.Metric:
    name = variant.removesuffix("-native")
    weights = "native" if variant.endswith("-native") else "default"
    return aigciqa.create_metric(name, weights=weights, as_loss=as_loss)


@functools.cache
def photo(index: int = 0, side: int = 320) -> Image.Image:
    """The middle of an example photograph."""
    image = Image.open(PHOTOS[index]).convert("RGB")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def score(variant: str, *images: Image.Image | Tensor) -> float:
    """Score of an image; with its original where the metric wants one."""
    return float(shipped(variant)(*images[: 2 if variant == "fr-lite" else 1]))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def upsampled(image: Image.Image, side: int) -> Image.Image:
    return image.resize((side, side), Image.Resampling.BICUBIC).resize(image.size, Image.Resampling.BICUBIC)


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius))


# What ships


@pytest.mark.parametrize("variant", VARIANTS)
def test_shipped_weights_are_those_of_the_config_and_small(variant: str) -> None:
    data = (ASSETS / variant / "model.safetensors").read_bytes()
    config = json.loads((ASSETS / variant / "config.json").read_text())
    assert config["sha256"] == hashlib.sha256(data).hexdigest()
    assert config["size"] == len(data) <= 1_500_000
    assert config["license"] == "Apache-2.0"
    assert config["backbone"]["options"]["presentation"] == ("native" if variant.endswith("native") else "common")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_config_has_the_results_of_the_card(variant: str) -> None:
    assert json.loads((ASSETS / variant / "config.json").read_text())["results"]["monotone"]["all"][0] > 0.8


@pytest.mark.parametrize("index", range(len(PHOTOS)))
@pytest.mark.parametrize("variant", VARIANTS)
def test_worse_images_score_lower(variant: str, index: int) -> None:
    original = photo(index)
    for worse, values in ((blurred, (1.0, 1.8, 2.8, 4, 6)), (upsampled, (190, 130, 90, 64, 40))):
        scores = [score(variant, original, original)]
        scores += [score(variant, worse(original, value), original) for value in values]
        falls = [after < before or after < 0.1 for before, after in itertools.pairwise(scores)]
        assert all(falls), (worse.__name__, scores)
    assert score(variant, original, original) > score(variant, jpeg(original, 10), original)


def test_scores_span_the_range() -> None:
    for variant in VARIANTS:
        whole = [Image.open(path).convert("RGB") for path in PHOTOS]
        best = [score(variant, image, image) for image in whole]
        worst = [score(variant, blurred(image, 8), image) for image in whole]
        assert np.mean(best) > (2.8 if variant == "nr-lite" else 3.3)  # they are smaller than what it shows them at
        assert np.mean(worst) < 1.2


# Invariances


@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_do_not_depend_on_the_batch_or_on_threads(variant: str) -> None:
    images = torch.cat([tensor(photo(i)) for i in range(len(PHOTOS))] + [tensor(blurred(photo(0), 2))])
    metric = shipped(variant)
    arguments = (images, images.flip(0)) if metric.requires_reference else (images,)
    together = metric(*arguments)
    alone = torch.cat([metric(*(part[i : i + 1] for part in arguments)) for i in range(len(images))])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        torch.testing.assert_close(metric(*arguments), together, rtol=0, atol=1e-4)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("variant", VARIANTS)
def test_files_and_tensors_agree(variant: str, tmp_path: Path) -> None:
    for side in (320, 200):
        original, worse = photo(0, side), jpeg(photo(0, side), 40)
        paths = []
        for name, image in (("worse", worse), ("original", original)):
            image.save(tmp_path / f"{name}.png")
            paths.append(str(tmp_path / f"{name}.png"))
        count = 2 if variant == "fr-lite" else 1
        from_files = float(shipped(variant)(*paths[:count]))
        assert score(variant, tensor(worse), tensor(original)) == pytest.approx(from_files, abs=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_autocast_changes_nothing(variant: str) -> None:
    plain = score(variant, tensor(photo(0)), tensor(photo(1)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(variant, tensor(photo(0)), tensor(photo(1))) == pytest.approx(plain, abs=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (16, 16), (1, 600), (600, 1), (97, 50), (95, 300)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_size_gives_a_score(variant: str, size: tuple[int, int]) -> None:
    image = torch.rand(1, 3, *size)
    for pixels in (image, torch.zeros_like(image), torch.full_like(image, 0.4)):
        assert 0 <= score(variant, pixels, image) <= 5


def test_an_image_of_a_hundred_megapixels() -> None:
    image = Image.new("RGB", (10_000, 10_000), (90, 120, 60))
    assert 0 <= score("nr-lite", image) <= 5
    assert 0 <= score("fr-lite", image, photo(0)) <= 5
    pixels = torch.zeros(1, 3, 1, 1).expand(1, 3, 10_000, 10_000)
    backbone = shipped("nr-lite-native").backbone
    with torch.no_grad():
        assert bool(backbone.pool(backbone(pixels)).isfinite().all())
    assert len(lite.cell_origins(10_000)) == lite.MOST_CELLS


# Differentiable, compilable


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("flat", [False, True])
def test_gradients_reach_the_pixels(variant: str, flat: bool) -> None:
    pixels = torch.full((1, 3, 120, 140), 0.5) if flat else tensor(blurred(photo(0), 2))[..., :200, :200].clone()
    pixels.requires_grad_()
    references = (tensor(photo(0)),) if variant == "fr-lite" else ()
    shipped(variant, as_loss=True)(pixels, *references).backward()
    assert pixels.grad is not None
    assert bool(pixels.grad.isfinite().all())
    assert flat or float(pixels.grad.abs().max()) > 0


@pytest.mark.parametrize("variant", ["nr-lite", "fr-lite"])
def test_a_step_along_the_gradient_raises_the_score(variant: str) -> None:
    pixels = tensor(blurred(photo(0), 2)).requires_grad_()
    metric = shipped(variant, as_loss=True)
    references = (tensor(photo(0)),) if variant == "fr-lite" else ()
    loss = metric(pixels, *references)
    loss.backward()
    assert pixels.grad is not None
    stepped = (pixels - 0.01 * pixels.grad.sign()).clamp(0, 1).detach()
    assert metric(stepped, *references) < loss


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_metrics_compile_and_export(variant: str) -> None:
    metric = shipped(variant)
    images = tuple(tensor(photo(i, 300)) for i in range(2 if metric.requires_reference else 1))
    expected = metric(*images)
    compiled = torch.compile(metric, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*images), expected, rtol=0, atol=1e-4)
    exported = torch.export.export(metric, images).module()
    torch.testing.assert_close(exported(*images), expected, rtol=0, atol=1e-4)


def test_untrained_metrics_score_and_learn() -> None:
    for name in ("nr-lite", "fr-lite"):
        torch.manual_seed(0)
        metric = aigciqa.create_metric(name, weights=None, as_loss=True)
        pixels = torch.rand(2, 3, 100, 100, requires_grad=True)
        references = (torch.rand(2, 3, 100, 100),) if name == "fr-lite" else ()
        metric(pixels, *references).backward()
        assert pixels.grad is not None
        assert float(pixels.grad.abs().sum()) > 0


# The full-reference metric


@pytest.mark.parametrize("index", range(len(PHOTOS)))
def test_the_reference_itself_scores_highest(index: int) -> None:
    original = photo(index)
    best = score("fr-lite", original, original)
    worse = [blurred(original, 0.7), jpeg(original, 60), upsampled(original, 200), original.filter(ImageFilter.SHARPEN)]
    assert all(score("fr-lite", image, original) < best for image in worse)


def test_the_gate_tells_the_same_image_from_another() -> None:
    features = [shipped("fr-lite").encode(tensor(image)) for image in (photo(0), blurred(photo(0), 4), photo(1))]
    head = shipped("fr-lite").head
    assert isinstance(head, FullReferenceHead)
    same = head.split(torch.cat([features[1], features[0]], dim=1))[2]
    other = head.split(torch.cat([features[2], features[0]], dim=1))[2]
    assert float(same) > 0.9 > 0.6 > float(other)


def test_another_image_as_reference_leaves_the_order_to_the_image() -> None:
    other = photo(1)
    assert score("fr-lite", photo(0), other) > score("fr-lite", blurred(photo(0), 3), other)


@pytest.mark.parametrize(("height", "width"), [(512, 512), (512, 683), (5, 48), (17, 1)])
def test_a_thumbnail_has_the_means_of_adaptive_pooling(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width)
    expected = lite.luma_of(nn.functional.adaptive_avg_pool2d(images, 16)).flatten(1)
    torch.testing.assert_close(lite.thumbnail(images), expected, atol=1e-6, rtol=0)


def test_flat_thumbnails_are_alike() -> None:
    flat = torch.full((1, 256), 0.3)
    assert float(thumbnail_likeness(flat, flat + 0.2)) == pytest.approx(1)
    assert abs(float(thumbnail_likeness(flat, torch.rand(1, 256)))) < 0.1


# Quality maps


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_average_to_the_score_and_mark_what_is_degraded(variant: str) -> None:
    original = photo(0, 384)
    patched = original.copy()
    patched.paste(blurred(original, 4).crop((192, 0, 384, 384)), (192, 0))
    references = (tensor(original),) if variant == "fr-lite" else ()
    quality = shipped(variant).quality_map(tensor(patched), *references)
    assert float(quality.mean()) == pytest.approx(score(variant, tensor(patched), tensor(original)), abs=1e-4)
    half = quality.shape[2] // 2
    assert float(quality[..., : half - 1].mean()) > float(quality[..., half + 1 :].mean()) + 0.5


def test_what_is_flat_has_the_score_of_the_whole() -> None:
    sky = Image.new("RGB", (512, 512), (120, 170, 230))
    sky.paste(photo(0, 512).crop((0, 256, 512, 512)), (0, 256))
    quality = shipped("nr-lite").quality_map(tensor(sky))[0]
    expected = score("nr-lite", tensor(sky), tensor(sky))
    assert float((quality[:3] - expected).abs().max()) < 1e-4  # blocks there see nothing but sky
    assert float((quality[4:] - expected).abs().max()) > 0.1
    assert float(quality.mean()) == pytest.approx(expected, abs=1e-4)
    empty = tensor(Image.new("RGB", (256, 256), "grey"))
    assert float(shipped("nr-lite").quality_map(empty).std()) < 1e-5


# The backbone's parts


def test_blocks_are_spread_and_keep_jpegs_phase() -> None:
    assert lite.grid_origins(512, 512) == ([0, 136, 272, 416], [0, 136, 272, 416])
    for height, width in ((512, 512), (512, 2000), (300, 97), (16, 16), (1, 4000)):
        rows, columns = lite.grid_origins(height, width)
        assert all(origin % 8 == 0 for origin in rows + columns)
        assert max(rows) + scene_statistics.BLOCK <= max(height, scene_statistics.BLOCK)
        assert max(columns) + scene_statistics.BLOCK <= max(width, scene_statistics.BLOCK)
    assert len(lite.grid_origins(512, 2048)[1]) == 8
    assert len(lite.grid_origins(512, 2048)[0]) == 2


def test_statistics_see_what_they_are_named_for() -> None:
    block = tensor(photo(0, 96))
    plain = scene_statistics.block_statistics(block)
    assert plain.shape == (1, shipped("nr-lite").backbone.statistics)
    soft = scene_statistics.block_statistics(tensor(blurred(photo(0, 96), 3)))
    assert float(soft[0, scene_statistics.TEXTURE]) < float(plain[0, scene_statistics.TEXTURE])
    steps, period_2 = -20, -23  # positions: steps at JPEG's phase, and the peak of period 2, both from left to right
    grid = block.clone()
    grid[..., ::8] += 20 / 255
    assert float(scene_statistics.block_statistics(grid)[0, steps]) > float(plain[0, steps]) + 0.2
    board = block + 8 / 255 * (-1.0) ** torch.arange(96)
    assert float(scene_statistics.block_statistics(board)[0, period_2]) > float(plain[0, period_2]) + 0.5


def test_a_level_of_rounding_hardly_moves_a_score() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = tensor(photo(2))
    for variant in ("nr-lite", "nr-lite-native"):
        rounded = pixels + (torch.rand(pixels.shape, generator=generator) < 0.02) / 255
        assert score(variant, rounded.clamp(0, 1)) == pytest.approx(score(variant, pixels), abs=0.05)


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="presentation is 'small'; expected 'common' or 'native'"):
        lite.build("lite", presentation="small")
    with pytest.raises(ValueError, match="one dimension; got 4"):
        build("nr", 688, 4)


# Fitting


def test_grown_trees_fit_and_their_soft_form_agrees() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(1500, 12, generator=generator)
    targets = 2.0 * (inputs[:, 3] > 0.2) + inputs[:, 7] * (inputs[:, 3] > 0.2)
    trees = SoftTrees(12, trees=80)
    fitting.grow_trees(trees, inputs, targets, seed=0, feature_share=0.7, sharpness=50.0, penalty=1.0)
    with torch.no_grad():
        error = float((trees(inputs) - targets).square().mean() / targets.var())
    assert error < 0.15
    again = SoftTrees(12, trees=80)
    fitting.grow_trees(again, inputs, targets, seed=0, feature_share=0.7, sharpness=50.0, penalty=1.0)
    assert torch.equal(trees.leaves, again.leaves)


def test_calibration_puts_medians_where_they_belong() -> None:
    slope, offset = fitting.affine_calibration(torch.tensor([3.0, 4.0, 5.0]), torch.tensor([-2.0, 0.0, 1.0]))
    assert 5 * torch.sigmoid(torch.tensor(slope * 4.0 + offset)).item() == pytest.approx(4.5, abs=1e-4)
    assert 5 * torch.sigmoid(torch.tensor(offset)).item() == pytest.approx(0.5, abs=1e-4)


def test_a_bag_of_trees_says_what_the_forest_that_did_not_look_says() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, noise = torch.randn(600, 40, generator=generator), torch.randn(600, generator=generator)
    step = 2.0 * (inputs[:, 3] > 0)
    trees = SoftTrees(40, trees=240, depth=2)
    said = fitting.grow_bag(trees, inputs, step + noise, torch.arange(600) % 3, seed=0, rate=0.5)
    with torch.no_grad():
        seen = trees(inputs)
    learned, by_heart, heard = (
        float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in ((said, step), (seen, noise), (said, noise))
    )
    assert learned > 0.6
    assert by_heart > heard + 0.05  # the noise of a row is known to those forests alone that saw the row


def test_folds_keep_subjects_together() -> None:
    subjects = ["a", "b", "a", "c", "d", "c", "e"]
    folds = fitting.subject_folds(subjects, 2, seed=1)
    assert folds[0] == folds[2]
    assert folds[3] == folds[5]
    assert set(folds.tolist()) == {0, 1}
    assert torch.equal(folds, fitting.subject_folds(subjects, 2, seed=1))


def test_orders_follow_ladders_before_labels() -> None:
    labels = torch.tensor([[1.0, 0.5, 0.6, 0.2]])
    ladders, strengths = torch.tensor([[-1, 0, 0, -1]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    order = fitting.make_labels(labels, ladders, strengths).order[0]
    assert bool(order[1, 2])
    assert not bool(order[2, 1])
    assert bool(order[0, 3])
    assert not bool(order.diagonal().any())


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_half_a_photograph_blurred_scores_lower_beside_the_original(name: str) -> None:
    photograph = Image.open(ROOT / "examples" / "images" / "prompts" / f"{name}.jpg")
    blurred, half = photograph.copy(), (photograph.width // 2, 0, photograph.width, photograph.height)
    blurred.paste(blurred.crop(half).filter(ImageFilter.GaussianBlur(4)), half)
    metric = aigciqa.create_metric("fr-lite")
    assert metric(blurred, photograph) < metric(photograph, photograph) - 1
