"""Metrics and backbones that are not the library's own."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import aigciqa
from aigciqa import backbones, registry
from aigciqa.backbones import Backbone, build_backbone, register_backbone
from aigciqa.registry import register_metric
from aigciqa.training.trainer import Settings, train
from tests.conftest import untrained
from tests.lookalikes import write_agiqa_3k

ROOT = Path(__file__).parents[1]
CELL = re.compile(r"^```\{code-cell\}\n(?::tags:[^\n]*\n)?(.*?)^```$", re.MULTILINE | re.DOTALL)
CHECKS = """
assert metric(image).shape == (1,) and record.scores.keys() == set(metric.dimensions)
assert aigciqa.list_metrics()[-1] == "nr-efficientnet"
assert "efficientnet" in aigciqa.backbones.backbone_names()
try:
    aigciqa.create_metric("nr-efficientnet", weights="imagenet")
except ValueError as error:
    assert "no ImageNet weights are known for the backbone efficientnet: pass a file" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_the_new_backbone_of_the_docs_does_all_that_the_page_says() -> None:
    """In a process of its own: what it registers stays there."""
    cells = CELL.findall((ROOT / "docs/extending.md").read_text())
    code = "\n".join([*cells, CHECKS])
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "docs", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


class Small(Backbone):
    """As small as a backbone can be."""

    feature_dim = 3

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(3, 3, 8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layer(images)
        return maps


@pytest.fixture
def small() -> Iterator[str]:
    """The name of a metric on a backbone of our own."""
    register_backbone("small", Small)
    register_metric(dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-small", backbone="small"))
    yield "nr-small"
    del backbones._REGISTERED["small"], registry._METRICS["nr-small"]


def test_a_metric_of_ones_own_is_trained_from_a_head_of_it(small: str, tmp_path: Path) -> None:
    database = aigciqa.load_database("agiqa-3k", write_agiqa_3k(tmp_path / "data"))
    start = aigciqa.create_metric(small, weights=None)
    start.save_pretrained(tmp_path / "start")
    settings = Settings(small, database.dimensions, start=str(tmp_path / "start"), epochs=1)
    metric = train(database, database.split(), settings, tmp_path / "head", cache=tmp_path / "cache")
    again = aigciqa.create_metric(small, weights=tmp_path / "head")
    image = database.samples[0].image
    assert again(image) == metric(image) != start(image)


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a metric 'nr-lite' already: give yours another name"):
        register_metric(aigciqa.metric_info("nr-lite"))
    with pytest.raises(ValueError, match="there is a backbone 'vgg16' already: give yours another name"):
        register_backbone("vgg16", build_backbone)


def test_a_metric_on_a_backbone_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._METRICS, "nr-mine", None)  # so that it is taken out in the end
    del registry._METRICS["nr-mine"]
    one = dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-mine", score_ranges={"authenticity": (0, 5)})
    register_metric(one)
    assert aigciqa.list_metrics("*-mine") == ["nr-mine"]
    metric = aigciqa.create_metric("nr-mine", weights=None)
    assert (metric.name, metric.dimensions) == ("nr-mine", ("authenticity",))
    assert metric.feature_dim == untrained("nr-resnet18").feature_dim
