"""The package as a whole: what importing it costs, what it shows, what the table says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

import aigciqa
from aigciqa.backbones import build_backbone
from aigciqa.registry import METRICS
from tests.conftest import untrained

HEAVY = ("torch", "torchvision", "pretrainedmodels", "pandas", "huggingface_hub", "pyarrow", "timm", "scipy")


def modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not modules_after("import aigciqa; aigciqa.list_metrics()") & set(HEAVY)


def test_an_embedded_metric_needs_no_torchvision_nor_hub() -> None:
    loaded = modules_after("import aigciqa; aigciqa.create_metric('nr-lite')")
    assert "torch" in loaded
    assert not loaded & (set(HEAVY) - {"torch"} | {"torch._dynamo"})


def test_help_answers_without_torch() -> None:
    code = "from aigciqa.cli.main import main; main(['score', '--help'], 'aigciqa', standalone_mode=False)"
    assert not modules_after(f"import sys; sys.stdout, out = sys.stderr, sys.stdout; {code}; sys.stdout = out") & set(
        HEAVY
    )


def test_every_public_name_resolves_and_is_documented() -> None:
    assert aigciqa.__all__ == sorted(aigciqa.__all__)
    for name in aigciqa.__all__:
        value = getattr(aigciqa, name)
        assert name == "__version__" or value.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = aigciqa.nothing


def test_the_table_holds_the_metrics() -> None:
    backbones = ("lite", "resnet18", "resnet50", "vgg16", "vgg19", "inceptionv4", "efficientnet-lite2")
    assert set(aigciqa.list_metrics()) == {f"{kind}-{backbone}" for kind in ("nr", "fr") for backbone in backbones}
    assert aigciqa.list_metrics("fr-*") == [name for name in aigciqa.list_metrics() if name.startswith("fr-")]
    assert aigciqa.list_metrics("none-*") == []


@pytest.mark.parametrize("name", METRICS)
def test_the_table_says_what_the_metric_is(name: str) -> None:
    info = aigciqa.metric_info(name)
    metric = untrained(name)
    assert (info.name, info.kind, info.dimensions) == (metric.name, metric.kind, metric.dimensions)
    assert metric.feature_dim == build_backbone(info.backbone).feature_dim
    assert (info.score_range, info.lower_better) == (metric.score_range, metric.lower_better)
    assert info.score_ranges == metric.config.score_ranges
    assert info.requires_reference == metric.requires_reference == name.startswith("fr-")
    assert metric.device == torch.device("cpu")
    with pytest.raises(dataclasses.FrozenInstanceError):
        info.name = "other"  # type: ignore[misc]


def test_an_unknown_metric_is_refused_with_a_near_name() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'fr-resnet5'.*did you mean.*fr-resnet50"):
        aigciqa.create_metric("fr-resnet5")
    with pytest.raises(ValueError, match=r"unknown metric 'NR-Lite'.*nr-lite"):
        aigciqa.metric_info("NR-Lite")


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown backbone 'alexnet'; expected one of: efficientnet-lite2"):
        build_backbone("alexnet")
