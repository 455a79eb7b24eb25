"""The package as a whole: what importing it costs, what it shows, what the table says."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys

import pytest
import torch

import aigciqa
from aigciqa.backbones import build_backbone
from aigciqa.errors import MissingExtraError
from aigciqa.registry import METRICS
from tests.conftest import untrained

HEAVY = ("torch", "torchvision", "pretrainedmodels", "pandas", "huggingface_hub", "pyarrow", "timm", "scipy")


HELP = "from aigciqa.cli.main import main; main(['{command}', '--help'], 'aigciqa', standalone_mode=False)"


def modules_after(code: str) -> set[str]:
    probe = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import aigciqa; aigciqa.list_metrics()", HEAVY),
        ("import aigciqa.databases", ("numpy", "openpyxl")),
        ("import aigciqa.stats.groups", ("scipy", "torch")),
        ("import aigciqa.cli.compare, aigciqa.cli.select", ("torch",)),
        (HELP.format(command="score"), HEAVY),
        (HELP.format(command="evaluate"), (*HEAVY, "numpy", "matplotlib")),
        (HELP.format(command="rate"), (*HEAVY, "numpy", "starlette", "sqlite3")),
        ("import aigciqa.cli.rate, aigciqa.evaluation.study.server", HEAVY),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str, absent: tuple[str, ...]) -> None:
    assert not modules_after(code) & set(absent)


def test_an_embedded_metric_needs_no_torchvision_nor_hub() -> None:
    loaded = modules_after("import aigciqa; aigciqa.create_metric('nr-lite')")
    assert "torch" in loaded
    assert not loaded & (set(HEAVY) - {"torch"} | {"torch._dynamo"})


@pytest.mark.parametrize(
    ("module", "missing", "extra"),
    [
        ("onnx", "onnxruntime", "onnx"),
        ("onnx", "onnxscript", "onnx"),
        ("torchmetrics", "torchmetrics", "torchmetrics"),
    ],
)
def test_without_an_extra_the_error_says_what_to_install(
    module: str, missing: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"aigciqa.integrations.{module}"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'aigciqa\[{extra}\]'"):
        importlib.import_module(name)


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
