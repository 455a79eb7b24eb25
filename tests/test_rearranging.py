"""Backbones of one's own as scoring runs them: rearranged where that is safe, else as they are; the scores the same."""

from __future__ import annotations

import gc
import linecache
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from aigciqa.backbones import Backbone, backbone_names, register_backbone
from aigciqa.backbones.efficientnet import pad_same
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.cpu.fusion import FusedConvolution, PaddedConvolution
from aigciqa.metric import Metric
from aigciqa.registry import METRICS
from aigciqa.scoring.encoder import Encoder, encoders
from tests.conftest import plain_features


class Parts(Backbone):
    """What the backbones below are made of."""

    feature_dim = 8

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, 8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.other = nn.Conv2d(8, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.norm2 = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())


class SharedConvolution(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.norm(self.conv(x))) + torch.relu(self.norm2(self.conv(-x)))


class SharedNorm(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return torch.relu(self.norm(self.conv(x))) + torch.relu(self.norm(self.other(x)))


class Twice(Parts):
    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.block(self.block(self.stem(x)))
        return maps


class TwoNames(Parts):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.conv = self.other

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.norm2(self.other(self.norm(self.conv(self.stem(x)))))
        return maps


class TiedWeights(Parts):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.conv.weight = self.other.weight

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.norm2(self.other(self.norm(self.conv(self.stem(x)))))
        return maps


class WeightsReadAlone(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.norm(self.conv(x)) + functional.conv2d(x, self.conv.weight, padding=1)


class SumOfItself(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.stem(x))
        maps: Tensor = y + y
        return maps


class ReadBeforeNorm(Parts):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.stem(x))
        maps: Tensor = self.norm(y) + y
        return maps


class SlightlyInPlace(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x
        y += 0.05 * self.conv(x)
        return x


class InPlace(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = x
        y += self.conv(x)
        self.act(y)
        return x + y


class InputChangedBeforeActivation(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = self.conv(x)
        x.mul_(-3)
        return self.act(y) + x


class ResidualChangedBeforeActivation(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = self.conv(x) + x
        torch.relu_(x)
        maps: Tensor = self.act(y)
        return maps


class AddedToTheResidual(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        y = self.conv(x)
        x.add_(y)
        return self.act(y) - x


class Residual(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.conv(x))
        y += x
        return self.act(y) + x


class Functional(Parts):
    def forward(self, x: Tensor) -> Tensor:
        x = functional.leaky_relu(self.stem(x), 0.3)
        x = functional.relu(self.norm(self.conv(x)), inplace=True)
        return functional.hardtanh(self.other(x), -0.1, 0.2)


class OwnConvolution(nn.Conv2d):
    """A convolution that computes something else, as one with standardised weights does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x)


class Derived(Parts):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.conv = OwnConvolution(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.act(self.norm(self.conv(self.stem(x))))
        return maps


class Parametrised(Parts):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        parametrizations.weight_norm(self.conv)
        parametrizations.spectral_norm(self.other)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.act(self.norm2(self.other(self.norm(self.conv(self.stem(x))))))
        return maps


class WithoutStatistics(Parts):
    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.norm = nn.BatchNorm2d(8, affine=False, track_running_stats=False)
        self.norm2 = nn.BatchNorm2d(8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.norm2(self.other(self.norm(self.conv(self.stem(x)))))
        return maps


class Branching(Parts):
    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(self.stem(x))
        return maps if maps.mean() > 0 else -maps


class TakesTensorsOnly(Parts):
    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor):  # as a trace has it
            return 2 * self.stem(x)  # type: ignore[unreachable]
        maps: Tensor = self.stem(x)
        return maps


def metric_on(build: Callable[[str], Backbone], dtype: str = "float32") -> Metric:
    name = f"mine-{len(backbone_names())}"
    register_backbone(name, build)
    torch.manual_seed(0)
    config = MetricConfig.from_spec(replace(METRICS["nr-resnet18"], backbone=name))
    metric = Metric(config, dtype=dtype)
    for module in metric.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.normal_(module.bias)
    return metric


def pixels(count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def check(metric: Metric, encoder: Encoder, tolerance: float = 2e-6) -> None:
    expected = plain_features(metric, pixels())
    found, _ = encoder.encode(pixels())
    assert (found - expected).norm() <= tolerance * expected.norm()


SAFE = [
    SharedConvolution, SharedNorm, Twice, TwoNames, TiedWeights, WeightsReadAlone, SumOfItself, ReadBeforeNorm,
    InputChangedBeforeActivation, ResidualChangedBeforeActivation, AddedToTheResidual, Residual, Functional, Derived,
    Parametrised, WithoutStatistics,
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("build", SAFE)
def test_what_the_graph_proves_safe_is_rearranged(build: type[Parts], dtype: str) -> None:
    metric = metric_on(build, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder = Encoder(metric)
    assert encoder.network is not None
    check(metric, encoder, 2e-6 if dtype == "float32" else 0.02)


def test_a_residual_block_of_ones_own_is_fused() -> None:
    network = Encoder(metric_on(Residual)).network
    assert network is not None
    assert [type(module) for module in network.children()] == [FusedConvolution, FusedConvolution]


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (InPlace, "its maps would be off by"),
        (TakesTensorsOnly, "its maps would be off by 100.0%"),
        (Branching, "TraceError: symbolically traced variables cannot be used as inputs to control flow"),
    ],
)
def test_what_a_trace_gets_wrong_runs_as_it_is(build: type[Parts], reason: str) -> None:
    metric = metric_on(build)
    with pytest.warns(
        UserWarning, match=f"{metric.config.backbone} runs as it is, not rearranged to be faster: .*{reason}"
    ):
        encoder = Encoder(metric)
    assert encoder.network is None
    check(metric, encoder, 0)


def test_what_rounding_would_hide_is_found() -> None:
    metric = metric_on(SlightlyInPlace, "bfloat16")
    with pytest.warns(UserWarning, match=r"rearranged, its maps would be off by [1-5]\.\d%"):
        encoder = Encoder(metric)
    check(metric, encoder, 0)


def _double(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return 2 * output


@pytest.mark.parametrize("where", ["", "norm", "block"])
def test_hooks_are_called(where: str) -> None:
    metric, plain = (metric_on(build) for build in (Twice, Twice))
    metric.backbone.get_submodule(where).register_forward_hook(_double)
    with pytest.warns(UserWarning, match=f"{where or 'it'} has hooks"):
        encoder, other = encoders([metric, plain])
    assert encoder is not other
    check(metric, encoder, 0)
    check(plain, other)


def test_hooks_before_a_module_are_called() -> None:
    metric = metric_on(Twice)
    metric.backbone.block.register_forward_pre_hook(lambda module, inputs: (-inputs[0],))  # type: ignore[operator, union-attr]
    with pytest.warns(UserWarning, match="block has hooks"):
        encoder = Encoder(metric)
    check(metric, encoder, 0)


def test_a_module_in_training_mode_stays_in_it() -> None:
    metric = metric_on(SharedNorm)
    metric.backbone.norm.train()  # type: ignore[operator, union-attr]
    with pytest.warns(UserWarning, match="norm is in training mode"):
        encoder = Encoder(metric)
    check(metric, encoder)


def test_the_comparison_leaves_the_random_generator_alone() -> None:
    metric = metric_on(Twice)
    before = torch.get_rng_state()
    Encoder(metric)
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_left_of_a_network_that_is_gone() -> None:
    metric = metric_on(Twice)
    Encoder(metric)
    before = set(linecache.cache)
    gc.disable()  # what is held by a cycle would wait for it
    try:
        network = weakref.ref(Encoder(metric).network)  # type: ignore[arg-type]
        assert network() is None
    finally:
        gc.enable()
    assert set(linecache.cache) <= before


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("built_for", [16, 15])
def test_same_padding_needs_no_copy(kernel: int, built_for: int) -> None:
    """Sizes that are padded evenly, unevenly, and otherwise than the size it was laid out for."""
    torch.manual_seed(0)
    convolution = nn.Conv2d(8, 8, kernel, 2, groups=8)
    fused = PaddedConvolution(convolution, nn.ReLU6(), (kernel, 2), torch.Size((2, 8, built_for, built_for)))
    for size in ((16, 16), (15, 15), (16, 15), (40, 24)):
        maps = torch.randn(2, 8, *size)
        expected = functional.relu6(convolution(pad_same(maps, kernel, 2)))
        with torch.inference_mode():
            torch.testing.assert_close(fused(maps), expected)
