"""The network as scoring runs it, against the metric's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import aigciqa
from aigciqa.backbones import Backbone, register_backbone
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.cpu.fusion import FusedConvolution
from aigciqa.images.preprocess import Preprocessor
from aigciqa.metric import Metric
from aigciqa.registry import METRICS, Preprocess
from aigciqa.scoring.encoder import Encoder, encoders
from aigciqa.utils.hardware import fast_dtype
from tests.conftest import plain_features


def trained(name: str, dtype: str = "float32", seed: int = 0) -> Metric:
    """A metric with the statistics of batch normalisation that training leaves: neither zero nor one."""
    torch.manual_seed(seed)
    metric = aigciqa.create_metric(name, weights=None, dtype=dtype)
    for module in metric.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.3, 0.8)
    return metric


def pixels(metric: Metric, count: int = 2) -> torch.Tensor:
    side = metric.config.preprocess.crop or 128
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)


TRACED = ["nr-resnet18", "nr-resnet50", "nr-vgg16", "nr-inceptionv4", "nr-efficientnet-lite2"]


@pytest.mark.parametrize("name", [*TRACED, "nr-lite"])
def test_features_are_the_metric_s_own(name: str) -> None:
    metric = trained(name) if name != "nr-lite" else aigciqa.create_metric(name)
    before = {key: value.clone() for key, value in metric.state_dict().items()}
    images = pixels(metric)
    expected = plain_features(metric, images)
    found, _ = Encoder(metric).encode(images)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()
    assert all(torch.equal(value, before[key]) for key, value in metric.state_dict().items())


def test_batch_normalisation_is_folded() -> None:
    network = Encoder(trained("nr-resnet18")).network
    assert network is not None
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize("name", TRACED)
def test_convolutions_add_and_rectify(name: str) -> None:
    network = Encoder(trained(name)).network
    assert network is not None
    kinds = {type(module) for module in network.modules()}
    assert FusedConvolution in kinds
    assert not kinds & {nn.Conv2d, nn.ReLU}


def test_leaky_activations_are_fused_too() -> None:
    torch.manual_seed(0)
    config = replace(MetricConfig.from_spec(METRICS["nr-resnet18"]), options={"negative_slope": 0.3})
    metric = Metric(config)
    with torch.no_grad():
        for module in metric.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(0.5)
    images = pixels(metric)
    encoder = Encoder(metric)
    expected = plain_features(metric, images)
    found, _ = encoder.encode(images)
    fused = [module.activation for module in encoder.network.modules() if isinstance(module, FusedConvolution)]  # type: ignore[union-attr]
    assert ("leaky_relu", [0.3]) in fused
    assert (found - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_without_onednn_the_network_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    metric = trained("nr-resnet18")
    encoder = Encoder(metric)
    assert any(isinstance(module, nn.Conv2d) for module in encoder.network.modules())  # type: ignore[union-attr]
    images = pixels(metric)
    expected = plain_features(metric, images)
    assert (encoder.encode(images)[0] - expected).abs().max() <= 2e-6 * expected.abs().max()


class Odd(Backbone):
    """What the library's own backbones do not do."""

    feature_dim = 8

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        padding: Any = "same" if name == "odd-same" else 1
        self.first = nn.Conv2d(3, 8, 3, padding=padding, padding_mode="reflect" if name == "odd-reflect" else "zeros")
        self.second = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.name == "odd-branch" and images.shape[-1] < 64:
            raise ValueError("too small")
        maps = torch.relu(self.first(images))
        if self.name == "odd-alpha":
            return torch.add(self.second(maps), maps, alpha=2)
        if self.name == "odd-broadcast":
            return self.second(maps.mean((2, 3), keepdim=True)) + maps
        if self.name == "odd-number":
            return self.second(maps) + maps.shape[2]
        return torch.relu(self.second(maps) + maps)


@pytest.mark.parametrize("name", ["same", "reflect", "branch", "alpha", "broadcast", "number"])
def test_other_backbones_have_their_own_features_too(name: str) -> None:
    register_backbone(f"odd-{name}", Odd)
    config = MetricConfig.from_spec(replace(METRICS["nr-resnet18"], backbone=f"odd-{name}"))
    torch.manual_seed(0)
    metric = Metric(config)
    images = pixels(metric)
    expected = plain_features(metric, images)
    assert (Encoder(metric).encode(images)[0] - expected).abs().max() <= 2e-6 * expected.abs().max()


@pytest.mark.parametrize("name", ["nr-resnet18", "nr-vgg16"])
def test_bfloat16_differs_little(name: str) -> None:
    metric = trained(name, dtype="bfloat16")
    images = pixels(metric)
    expected = plain_features(trained(name), images)
    found, _ = Encoder(metric).encode(images)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).norm() <= 0.02 * expected.norm()


def test_equal_backbones_share_an_encoder() -> None:
    nr, fr, other = trained("nr-resnet18"), trained("fr-resnet18"), trained("nr-resnet18", seed=1)
    fr.backbone.load_state_dict(nr.backbone.state_dict())
    halves = trained("nr-resnet18", dtype="bfloat16")
    found = encoders([nr, fr, other, halves])
    assert found[0] is found[1]
    assert len(set(found)) == 3


@pytest.mark.parametrize("name", ["nr-resnet50", "nr-inceptionv4"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(512, 512), (768, 768), (1024, 512), (333, 333), (300, 200), (777, 1999), (256, 256), (100, 100), (30, 447)],
)
def test_resizing_the_crop_alone_changes_no_pixel(name: str, width: int, height: int) -> None:
    spec: Preprocess = METRICS[name].preprocess
    assert spec.crop is not None
    assert spec.resize is not None
    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(levels)
    whole = transforms.CenterCrop(spec.crop)(transforms.Resize(spec.resize)(image))
    assert np.array_equal(Preprocessor(spec).image(image).permute(1, 2, 0).numpy(), np.asarray(whole))


@pytest.mark.parametrize("is_good", [True, False])
def test_auto_picks_bfloat16_where_the_hardware_is_built_for_it(
    is_good: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: is_good, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    metric = aigciqa.create_metric("nr-resnet18", weights=None, dtype="auto")
    assert metric.autocast_dtype == (torch.bfloat16 if is_good else None)
    metric.save_pretrained(tmp_path)
    assert aigciqa.Metric.from_pretrained(tmp_path, dtype="auto").autocast_dtype == metric.autocast_dtype
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: is_good)
    assert fast_dtype("cuda:1") == (torch.bfloat16 if is_good else torch.float32)
    assert fast_dtype("mps") == torch.float32
