"""What a training learns: a ResNet18 from random weights, on a look-alike of PKU-I2IQA, through the real commands.

The metrics see pictures of 64 pixels here instead of 256, so that it takes minutes; all else is as it ships.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from aigciqa import registry
from aigciqa.cli.train import main as train_command
from tests.lookalikes import write_pku_i2iqa

pytestmark = pytest.mark.slow
KINDS = ("nr", "fr")


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, float]]:
    """kind -> dimension -> SRCC on the test part, of one joint training each."""
    folder = tmp_path_factory.mktemp("learning")
    write_pku_i2iqa(folder / "database", prompts=20, per_prompt=8)
    small = {
        name: replace(spec, preprocess=replace(spec.preprocess, resize=64, crop=64))
        for name, spec in registry.METRICS.items()
    }
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "METRICS", small)
        for kind in KINDS:
            arguments = ["pku-i2iqa", str(folder / "database"), "-m", f"{kind}-resnet18", "-o", str(folder / kind)]
            arguments += ["--start", "none", "--epochs", "20", "--lr", "1e-3", "--cache", str(folder / "cache")]
            done = CliRunner().invoke(train_command, [*arguments, "--device", "cpu", "--quiet"])
            assert done.exit_code == 0, done.output
            results = json.loads((folder / kind / "config.json").read_text())["results"]
            found[kind] = {dimension: figures["srcc"][0] for dimension, figures in results.items()}
    return found


def test_what_can_be_seen_is_learnt_from_scratch(learnt: dict[str, dict[str, float]]) -> None:
    assert learnt["nr"]["quality"] >= 0.9
    assert learnt["fr"]["quality"] >= 0.9


def test_a_reference_helps_where_the_score_depends_on_it(learnt: dict[str, dict[str, float]]) -> None:
    assert learnt["fr"]["correspondence"] > learnt["nr"]["correspondence"] + 0.1


def test_overall_learns_the_sum(learnt: dict[str, dict[str, float]]) -> None:
    assert learnt["fr"]["overall"] >= 0.9


def test_the_metrics_are_as_they_ship_again(learnt: dict[str, Path]) -> None:
    assert registry.METRICS["nr-resnet18"].input_size == 224
