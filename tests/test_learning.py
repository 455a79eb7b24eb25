"""What a training learns: a ResNet18 from random weights, on a look-alike of PKU-I2IQA, through the real command.

The metrics see images of 64 pixels here instead of 256, so that it takes minutes; all else is as it ships.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

import aigciqa
from aigciqa import registry
from aigciqa.cli.train import main as train_command
from tests.lookalikes import write_pku_i2iqa

pytestmark = pytest.mark.slow
Train = Callable[[str, str, int], Path]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pku_i2iqa(tmp_path_factory.mktemp("learning") / "database", prompts=20, per_prompt=8)


@pytest.fixture
def learn(database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Trains a metric on dimensions for some epochs; returns the head's folder."""
    small = {
        name: replace(spec, preprocess=replace(spec.preprocess, resize=64, crop=64))
        for name, spec in registry.METRICS.items()
    }
    monkeypatch.setattr(registry, "METRICS", small)

    def run(metric: str, dimensions: str, epochs: int) -> Path:
        head = tmp_path / f"{metric}-{dimensions}"
        arguments = ["pku-i2iqa", str(database), "-m", metric, "-d", dimensions, "--epochs", str(epochs)]
        arguments += ["--start", "none", "--lr", "1e-3", "--cache", str(tmp_path / "cache"), "-o", str(head)]
        done = CliRunner().invoke(train_command, [*arguments, "--device", "cpu", "--quiet"])
        assert done.exit_code == 0, done.output
        return head

    return run


def srcc(head: Path, dimension: str) -> float:
    """SRCC on the test part, as the head's config has it."""
    return float(json.loads((head / "config.json").read_text())["results"][dimension]["srcc"][0])


def test_what_can_be_seen_is_learnt_from_scratch(learn: Train) -> None:
    assert srcc(learn("nr-resnet18", "quality", 10), "quality") >= 0.9


def test_references_help_and_overall_learns_the_sum(learn: Train, database: Path) -> None:
    """Correspondence is a tint relative to the image's own prompt: without the prompt it can't be seen."""
    parts = ("quality", "authenticity", "correspondence")
    head = learn("fr-resnet18", ",".join((*parts, "overall")), 15)
    blind = learn("nr-resnet18", "correspondence", 5)
    assert srcc(head, "quality") >= 0.85
    assert srcc(head, "correspondence") > srcc(blind, "correspondence") + 0.2
    assert srcc(head, "overall") >= 0.8
    metric = aigciqa.create_metric("fr-resnet18", weights=head)
    test = aigciqa.load_database("pku-i2iqa", database).split().test
    scores = metric.predict([s.image for s in test], [s.reference for s in test])
    total = np.sum([scores[name].numpy() for name in parts], axis=0)
    assert spearmanr(scores["overall"].numpy(), total)[0] >= 0.9
