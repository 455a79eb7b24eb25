"""Metrics and backbones that are not the library's own."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aigciqa
from aigciqa import registry
from aigciqa.backbones import build_backbone, register_backbone
from aigciqa.registry import register_metric
from tests.conftest import untrained

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"^```\{code-cell\}\n(?::tags:[^\n]*\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKS = """
assert metric(picture).shape == (1,) and record.scores.keys() == set(metric.dimensions)
assert aigciqa.list_metrics()[-1] == "nr-efficientnet"
assert "efficientnet" in aigciqa.backbones.backbone_names()
try:
    aigciqa.create_metric("nr-efficientnet", weights="imagenet")
except ValueError as error:
    assert "no ImageNet weights are known for the backbone efficientnet: pass a file" in str(error)
else:
    raise AssertionError
"""


def test_the_new_backbone_of_the_docs_does_all_that_the_page_says() -> None:
    """In a process of its own: what it registers stays there."""
    cells = CELL.findall((ROOT / "docs/extending.md").read_text())
    code = "\n".join([*cells, CHECKS])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a metric 'nr-lite' already: give yours another name"):
        register_metric(aigciqa.metric_info("nr-lite"))
    with pytest.raises(ValueError, match="there is a backbone 'vgg16' already: give yours another name"):
        register_backbone("vgg16", build_backbone)


def test_a_metric_on_a_backbone_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    table = dict(registry.METRICS)
    monkeypatch.setattr(registry, "_METRICS", table)
    monkeypatch.setattr(registry, "METRICS", table)
    one = dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-mine", dimensions=("authenticity",))
    register_metric(one)
    assert aigciqa.list_metrics("*-mine") == ["nr-mine"]
    metric = aigciqa.create_metric("nr-mine", weights=None)
    assert (metric.name, metric.dimensions) == ("nr-mine", ("authenticity",))
    assert metric.feature_dim == untrained("nr-resnet18").feature_dim
