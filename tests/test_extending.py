"""Metrics and backbones that are not the library's own."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import aigciqa
from aigciqa.backbones import Backbone, build_backbone, register_backbone
from aigciqa.cli import compare, score, select
from aigciqa.databases import Database
from aigciqa.errors import InputError
from aigciqa.heads import Head, build_head, register_head
from aigciqa.registry import MetricSpec, Preprocess, register_metric
from aigciqa.training.trainer import Settings, train
from docs import refresh
from tests.conftest import draw_tensor, untrained
from tests.lookalikes import write_agiqa_3k
from tests.test_pages import assert_same

ROOT = Path(__file__).parents[1]
CHECKS = """
assert metric(image).shape == (1,) and record.scores.keys() == set(metric.dimensions)
assert aigciqa.list_metrics()[-1] == "nr-aesthetics"
assert "efficientnet" in aigciqa.backbones.backbone_names() and "one-layer" in aigciqa.heads.head_names()
try:
    aigciqa.create_metric("nr-aesthetics", weights="imagenet")
except ValueError as error:
    assert "no ImageNet weights are known for the backbone 'efficientnet'" in str(error)
else:
    raise AssertionError
"""


@pytest.mark.slow
def test_the_new_metric_of_the_docs_does_all_that_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {}
    page = ROOT / "docs/extending.md"
    assert_same(refresh.refreshed(page, names), page.read_text(encoding="utf-8"))
    exec(CHECKS, names)


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
def small() -> str:
    """The name of a metric on a backbone of our own."""
    register_backbone("small", Small)
    register_metric(dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-small", backbone="small"))
    return "nr-small"


def test_a_metric_of_ones_own_is_trained_from_a_head_of_it(small: str, tmp_path: Path) -> None:
    database = aigciqa.load_database("agiqa-3k", write_agiqa_3k(tmp_path / "data"))
    start = aigciqa.create_metric(small, weights=None)
    start.save_pretrained(tmp_path / "start")
    settings = Settings(small, database.dimensions, start=str(tmp_path / "start"), epochs=1)
    metric = train(database, database.split(), settings, tmp_path / "head", cache=tmp_path / "cache")
    again = aigciqa.create_metric(small, weights=tmp_path / "head")
    image = database.samples[0].image
    assert again(image) == metric(image) != start(image)


class Linear(Head):
    """One linear layer, without a bias of its own."""

    output_layer = "scores"

    def __init__(self, kind: str, feature_dim: int, outputs: int) -> None:
        super().__init__()
        self.scores = torch.nn.Linear(feature_dim * (2 if kind == "fr" else 1), outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.scores(torch.tanh(features))
        return scores


@pytest.fixture
def aesthetics() -> None:
    """A metric with a backbone, a head and a dimension of its own."""
    register_backbone("small", Small)
    register_head("one-layer", Linear)
    preprocess = Preprocess(resize=40, crop=32)
    ranges = {"aesthetics": (1.0, 10.0)}
    register_metric(
        MetricSpec("nr-aesthetics", "nr", "small", preprocess, "here", score_ranges=ranges, head="one-layer")
    )


def rated(root: Path) -> Database:
    """Images rated for `aesthetics`, from 1 to 10."""
    database = aigciqa.load_database("agiqa-3k", write_agiqa_3k(root))
    samples = tuple(
        dataclasses.replace(sample, scores={"aesthetics": 1 + 1.8 * sample.scores["quality"]})
        for sample in database.samples
    )
    return dataclasses.replace(database, samples=samples, score_range={"aesthetics": (1.0, 10.0)})


@pytest.mark.usefixtures("aesthetics")
def test_a_head_and_a_dimension_of_ones_own_are_trained_saved_loaded_and_scored(tmp_path: Path) -> None:
    database = rated(tmp_path / "data")
    settings = Settings("nr-aesthetics", ("aesthetics",), epochs=2, start="none", learning_rate=1e-2)
    trained = train(database, database.split(), settings, tmp_path / "checkpoint", cache=tmp_path / "cache")
    metric = aigciqa.create_metric("nr-aesthetics", weights=tmp_path / "checkpoint")
    assert (metric.dimensions, metric.score_range) == (("aesthetics",), (1.0, 10.0))
    assert (type(metric.head), metric.config.head) == (Linear, "one-layer")
    images = [sample.image for sample in database.samples[:4]]
    assert torch.equal(metric(images), trained(images))
    torch.testing.assert_close(metric.quality_map(images).mean((1, 2)), metric(images))
    records = list(aigciqa.score_files(images, metric=metric))
    assert [record.scores["aesthetics"] for record in records] == pytest.approx(metric(images).tolist(), abs=1e-5)


@pytest.mark.usefixtures("aesthetics")
def test_a_dimension_of_ones_own_is_a_column_of_every_table(tmp_path: Path) -> None:
    aigciqa.create_metric("nr-aesthetics", weights=None).save_pretrained(tmp_path / "checkpoint")
    for group in "ab":
        (tmp_path / group).mkdir()
        for number in range(3):
            pixels = draw_tensor(1, 40, 40, seed=number + ord(group))[0].mul(255).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / group / f"{number}.png")

    def run(command: click.Command, *arguments: object) -> str:
        done = CliRunner().invoke(command, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    table = tmp_path / "scores.csv"
    folders, weights = (tmp_path / "a", tmp_path / "b"), ("--weights", tmp_path / "checkpoint")
    options = ("--group-by", "parent", "--maps", tmp_path / "maps", "--report", tmp_path / "report.html")
    summary = run(score.main, *folders, "-m", "nr-aesthetics", *weights, *options, "-o", table)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    assert list(rows[0]) == ["image", "reference", "group", "metric", "aesthetics", "error"]
    assert all(float(row["aesthetics"]) for row in rows)
    assert "aesthetics" in summary
    assert "aesthetics" in (tmp_path / "report.html").read_text()
    assert len(list((tmp_path / "maps").rglob("*.nr-aesthetics.npy"))) == len(rows)
    assert "aesthetics" in run(compare.main, table, "--baseline", "a")
    best = max(rows, key=lambda row: float(row["aesthetics"]))
    assert run(select.main, table, "--top", 1).strip().endswith(best["image"])


@pytest.mark.usefixtures("aesthetics")
def test_what_a_spec_can_not_be_is_refused() -> None:
    spec = aigciqa.metric_info("nr-aesthetics")
    for ranges, problem in (
        ({}, "score_ranges is empty"),
        ({"error": (0, 1)}, "a dimension can't be called 'error'"),
        ({"two words": (0, 1)}, "a dimension can't be called 'two words'"),
        ({"charm": (5, 1)}, r"the score range of 'charm' is \(5, 1\)"),
        ({"charm": (0, 5, 6)}, r"the score range of 'charm' is \(0, 5, 6\); expected \(lowest, highest\)"),
        ({"charm": "05"}, "the score range of 'charm' is 05; expected"),
        ({"charm": (0, 1), "charm_std": (0, 1)}, "a dimension beside 'charm' can't be called 'charm_std'"),
    ):
        with pytest.raises(InputError, match=problem):
            register_metric(dataclasses.replace(spec, name="nr-other", score_ranges=ranges))
    with pytest.raises(InputError, match="nr-other: kind is one of nr, fr; got 'xr'"):
        register_metric(dataclasses.replace(spec, name="nr-other", kind="xr"))
    nearest = dataclasses.replace(spec.preprocess, interpolation="nearest")
    with pytest.raises(InputError, match="nr-other: interpolation is one of bilinear, bicubic; got 'nearest'"):
        register_metric(dataclasses.replace(spec, name="nr-other", preprocess=nearest))
    with pytest.raises(InputError, match="there is a head 'one-layer' already: give yours another name"):
        register_head("one-layer", Linear)
    with pytest.raises(
        InputError, match="unknown head 'cubic'; expected one of: lite, linear, regression, taught, one-layer"
    ):
        build_head("cubic", "nr", 3, 1)


def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(ValueError, match="there is a metric 'nr-lite' already: give yours another name"):
        register_metric(aigciqa.metric_info("nr-lite"))
    with pytest.raises(ValueError, match="there is a backbone 'vgg16' already: give yours another name"):
        register_backbone("vgg16", build_backbone)


def test_a_metric_on_a_backbone_of_the_library() -> None:
    one = dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-mine", score_ranges={"authenticity": (0, 5)})
    register_metric(one)
    assert aigciqa.list_metrics("*-mine") == ["nr-mine"]
    metric = aigciqa.create_metric("nr-mine", weights=None)
    assert (metric.name, metric.dimensions) == ("nr-mine", ("authenticity",))
    assert metric.feature_dim == untrained("nr-resnet18").feature_dim
