"""Trainings that go wrong: what is refused before, what is kept after, and how a run goes on."""

from __future__ import annotations

import csv
import dataclasses
import errno
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from lightning_fabric import Fabric
from lightning_fabric.plugins.precision import MixedPrecision
from PIL import Image
from scipy.stats import spearmanr

import aigciqa
from aigciqa.checkpoints.format import write_checkpoint
from aigciqa.cli.train import main as command
from aigciqa.errors import InputError
from aigciqa.heads import Head, register_head
from aigciqa.registry import register_metric
from aigciqa.training import loop, trainer
from aigciqa.training.fit.features import frozen_metric
from aigciqa.training.learner import Learner
from aigciqa.training.run_folder import RunFolder
from aigciqa.training.trainer import Settings, train
from aigciqa.utils.files import locked
from tests.conftest import Watch
from tests.test_surroundings import SURROUNDINGS

COUNT = 20
Rate = Callable[[int], float]


@pytest.fixture(autouse=True)
def tiny_choice(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command may train it."""
    metric = next(each for each in command.params if each.name == "metric")
    monkeypatch.setattr(metric, "type", type(metric.type)([*metric.type.choices, "nr-tiny"]))


def write_database(root: Path, **ratings: Rate) -> Path:
    """Images, one a prompt, and their ratings by number."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        noise = rng.normal(0, 5 + 4 * number, (16, 16, 3))
        Image.fromarray((128 + noise).clip(0, 255).astype(np.uint8)).save(root / f"{number:02}.png")
    rate(root, **ratings)
    return root


def rate(root: Path, **ratings: Rate) -> None:
    """Write the manifest."""
    with (root / "manifest.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["image", *ratings])
        rows.writerows([f"{n:02}.png", *(repr(each(n)) for each in ratings.values())] for n in range(COUNT))


def falling(number: int) -> float:
    return 4.5 - number / 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_database(tmp_path / "database", quality=falling)


def run(root: Path, output: Path, resume: bool = False, **settings: Any) -> aigciqa.Metric:
    database = aigciqa.load_database("folder", root)
    defaults: dict[str, Any] = {"epochs": 2, "start": "none", "learning_rate": 1e-2, "batch_size": 4}
    chosen = Settings(**{"metric": "nr-tiny", "dimensions": database.dimensions, **defaults, **settings})
    cache = root.parent / "cache"
    return train(database, database.split(), chosen, output, resume=resume, device="cpu", cache=cache, workers=1,
                 progress=False)  # fmt: skip


def call(root: Path, output: str | Path, *more: str) -> Result:
    line = ["folder", str(root), "-m", "nr-tiny", "--start", "none", "--epochs", "2", "--lr", "1e-2", "--quiet"]
    line += ["--device", "cpu", "--cache", str(root.parent / "cache"), "-o", str(output), *more]
    handler = signal.getsignal(signal.SIGTERM)
    try:
        return CliRunner().invoke(command, line)
    finally:
        signal.signal(signal.SIGTERM, handler)


def log(output: Path) -> list[dict[str, str]]:
    with (output / "training" / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def config(output: Path) -> Any:
    """`config.json`, read as strictly as other languages do."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads((output / "config.json").read_text(), parse_constant=refuse)


def predictions(metric: aigciqa.Metric, root: Path) -> np.ndarray:
    return np.array([metric(str(path)).item() for path in sorted(root.glob("*.png"))])


# The unit of the ratings


@pytest.mark.parametrize("frozen", [True, False])
def test_what_is_learnt_does_not_depend_on_the_unit_of_the_ratings(frozen: bool, tmp_path: Path) -> None:
    found = {}
    for low, high in ((1.0, 5.0), (0.0, 100.0), (1165.0, 1623.0)):
        root = write_database(tmp_path / f"{low}", quality=lambda n: low + (high - low) * ((n * 7) % COUNT) / COUNT)  # noqa: B023
        metric = run(root, tmp_path / f"head{low}", epochs=4, frozen=frozen)
        found[low] = (predictions(metric, root) - low) / (high - low), log(tmp_path / f"head{low}")
        assert list(dict(metric.head.named_children())) == ["fc1", "fc2"]
    expected, rows = found[1.0]
    assert np.ptp(expected) > 0.01
    for scores, others in found.values():
        np.testing.assert_allclose(scores, expected, atol=1e-5)
        assert spearmanr(scores, expected)[0] == pytest.approx(1, abs=1e-9)
        for row, other in zip(rows, others, strict=True):
            assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-4)
            assert other["srcc"] == row["srcc"]


def test_dimensions_weigh_the_same_whatever_their_units(tmp_path: Path) -> None:
    """Two dimensions that rank alike, one in thousands: the second is learnt as the first would be."""
    root = write_database(tmp_path / "database", quality=falling, overall=lambda n: 3000 * falling(n) - 7)
    run(root, tmp_path / "head", epochs=3)
    weights = aigciqa.Metric.from_pretrained(tmp_path / "head").head.get_parameter("fc2.bias")
    assert weights[1].item() == pytest.approx(3000 * weights[0].item() - 7, rel=0.2)


def test_a_start_from_a_head_of_another_range_begins_with_its_order(root: Path, tmp_path: Path) -> None:
    given = run(root, tmp_path / "given", epochs=4)
    rate(root, quality=lambda n: 100 * falling(n) + 1000)
    further = run(root, tmp_path / "further", start=str(tmp_path / "given"), epochs=1, learning_rate=1e-12, frozen=True)
    np.testing.assert_allclose(predictions(further, root), 100 * predictions(given, root) + 1000, rtol=1e-3)


def test_a_start_in_the_home_folder_of_nobody_is_no_checkpoint(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nobody-of-that-name"):
        run(root, tmp_path / "head", start="~nobody-of-that-name/start")


def test_a_run_is_written_to_no_url(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(root, "s3://bucket/head")
    assert done.exit_code == 2
    assert "but a URL" in " ".join(done.output.split())
    assert not os.path.exists("s3:")


class OwnHead(Head):
    """One linear layer."""

    output_layer = "last"

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.last = torch.nn.Linear(inputs, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.last(features)
        return scores


def test_a_head_and_a_dimension_of_ones_own_are_trained(root: Path, tmp_path: Path) -> None:
    register_head("own", lambda kind, dim, outputs: OwnHead(dim, outputs))
    register_metric(dataclasses.replace(aigciqa.metric_info("nr-tiny"), name="nr-own", head="own"))
    rated = aigciqa.load_database("folder", root)
    samples = tuple(
        dataclasses.replace(sample, scores={"aesthetics": 1000 + 100 * sample.scores["quality"]})
        for sample in rated.samples
    )
    database = dataclasses.replace(rated, samples=samples, score_range={"aesthetics": (1000.0, 1500.0)})
    settings = Settings("nr-own", ("aesthetics",), epochs=2, start="none", learning_rate=1e-2, batch_size=4)
    train(database, database.split(), settings, tmp_path / "own", device="cpu", cache=tmp_path / "cache", workers=1,
          progress=False)  # fmt: skip
    metric = aigciqa.create_metric("nr-own", weights=tmp_path / "own")
    assert (metric.dimensions, metric.score_range) == (("aesthetics",), (1000.0, 1500.0))
    assert ((predictions(metric, root) > 1000) & (predictions(metric, root) < 1500)).all()
    assert "srcc" in metric.config.results["aesthetics"]


# What is refused


def test_a_metric_whose_head_is_not_for_this_trainer_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nr-lite can't be trained here: .* examples/train_lite\.py"):
        run(root, tmp_path / "head", metric="nr-lite")


@pytest.mark.parametrize("part", ["train", "validation"])
def test_ratings_that_are_all_equal_are_refused_by_name(part: str, root: Path, tmp_path: Path) -> None:
    split = aigciqa.load_database("folder", root).split()
    equal = {sample.name for sample in getattr(split, part)}
    rate(root, quality=lambda n: 3.0 if f"{n:02}.png" in equal else falling(n), authenticity=falling)
    done = call(root, tmp_path / "head")
    assert done.exit_code == 2
    named = {"train": "training", "validation": "validation"}[part]
    assert f"all {len(equal)} images of the {named} part have the same quality, 3: leave quality out" in done.output
    assert not (tmp_path / "head").exists()
    assert call(root, tmp_path / "head", "-d", "authenticity").exit_code == 0


def test_too_few_images_to_choose_an_epoch_on_are_refused(root: Path, tmp_path: Path) -> None:
    lines = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join(lines[:11]) + "\n")
    done = call(root, tmp_path / "head")
    assert done.exit_code == 2
    assert "the validation part has 2 images, and at least 3 are needed" in done.output
    assert not (tmp_path / "head").exists()


@pytest.mark.parametrize(
    "change", [{"learning_rate": math.inf}, {"learning_rate": math.nan}, {"weight_decay": math.inf}]
)
def test_settings_that_are_no_numbers_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{min(change).replace('_', ' ')} is a number"):
        Settings("nr-tiny", ("quality",), **change)  # type: ignore[arg-type]


def test_devices_that_are_not_there_are_refused(root: Path, tmp_path: Path) -> None:
    done = call(root, tmp_path / "head", "--device", "mps")
    assert (done.exit_code, "device mps: " in done.output) == (2, True)


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_files_of_the_users_are_not_replaced(name: str, root: Path, tmp_path: Path) -> None:
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / name).write_text("mine")
    for more in ((), ("--resume",)):
        done = call(root, tmp_path / "head", *more)
        assert (done.exit_code, name in done.output or more != ()) == (2, True)
    assert [path.name for path in (tmp_path / "head").iterdir()] == [name]
    assert (tmp_path / "head" / name).read_text() == "mine"


def test_a_card_that_was_changed_is_kept(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    card = tmp_path / "head" / "README.md"
    before = card.read_text()
    card.write_text(f"{before}My words.\n")
    run(root, tmp_path / "head", resume=True, epochs=12)
    assert card.read_text() == f"{before}My words.\n"
    run(root, tmp_path / "other")
    run(root, tmp_path / "other", resume=True, epochs=12)
    assert config(tmp_path / "other")["training"]["epochs"] == 12
    assert "| epochs | 12 |" in (tmp_path / "other" / "README.md").read_text()


# Which epoch is kept


def validated(monkeypatch: pytest.MonkeyPatch, *found: float) -> None:
    """Have the epochs' SRCC be these."""
    values = iter(found)
    monkeypatch.setattr(loop, "rank_correlations", lambda *_: {"quality": next(values)})


def test_a_mistake_of_ours_in_an_epoch_keeps_its_traceback(watch: Watch, root: Path, tmp_path: Path) -> None:
    watch(loop, "rank_correlations", ValueError("operands could not be broadcast"))
    done = call(root, tmp_path / "head")
    assert (done.exit_code, type(done.exception), done.stderr) == (1, ValueError, "")


def test_a_device_that_is_none_is_a_usage_error(root: Path, tmp_path: Path) -> None:
    done = call(root, tmp_path / "head", "--device", "abacus")
    assert (done.exit_code, "device abacus: " in done.stderr) == (2, True)


def test_nan_is_never_the_best(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    validated(monkeypatch, math.nan, 0.5, math.nan, 0.8, 0.7)
    run(root, tmp_path / "head", epochs=3)
    assert config(tmp_path / "head")["training"]["best_epoch"] == 2
    metric = run(root, tmp_path / "head", resume=True, epochs=5)
    assert (metric.config.training["best_epoch"], metric.config.training["validation_srcc"]) == (4, 0.8)


def test_patience_counts_from_the_best_epoch(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    validated(monkeypatch, math.nan, -0.5, -0.6, -0.7, 0.9)
    run(root, tmp_path / "head", epochs=5, patience=2)
    assert (len(log(tmp_path / "head")), config(tmp_path / "head")["training"]["best_epoch"]) == (4, 2)


def test_where_no_epoch_can_be_chosen_it_says_so(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    validated(monkeypatch, math.nan, math.nan, 0.3)
    done = call(root, tmp_path / "head")
    assert (done.exit_code, "WARNING: no epoch could be chosen" in done.stderr) == (1, True)
    training = config(tmp_path / "head")["training"]
    assert (training["best_epoch"], training["validation_srcc"]) == (1, None)
    assert call(root, tmp_path / "head", "--resume", "--epochs", "3").exit_code == 0
    assert config(tmp_path / "head")["training"]["best_epoch"] == 3


def test_its_figures_on_the_test_part_are_printed(root: Path, tmp_path: Path) -> None:
    few = call(root, tmp_path / "few", "--score-range", "0,10")
    assert few.exit_code == 0, few.output
    assert config(tmp_path / "few")["score_range"]["quality"] == [0, 10]
    tested = len(aigciqa.load_database("folder", root).split().test)
    assert few.stdout == f"The test part has {tested} images: correlations of fewer than 10 say nothing.\n"
    with (root / "manifest.csv").open("w", newline="") as file:  # fifty more of the same files, as prompts of their own
        rows = csv.writer(file)
        rows.writerow(["image", "prompt", "quality"])
        for number in range(60):
            name = f"{number:02}.png" if number < COUNT else f"more{number}.png"
            if number >= COUNT:
                Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)).save(root / name)
            rows.writerow([name, f"prompt {number}", 1 + number % 7 / 2])
    done = call(root, tmp_path / "head")
    assert done.exit_code == 0, done.output
    title, header, row = done.stdout.rstrip().rsplit("\n", 2)
    assert " ".join(title.split()) == (
        "Agreement with people on the 12 images of the test part, which were not trained on. In brackets: 95% interval."
    )
    assert header.split() == ["dimension", "SRCC", "PLCC", "KRCC", "RMSE"]
    srcc = config(tmp_path / "head")["results"]["quality"]["srcc"]
    assert row.split()[:2] == ["quality", f"{srcc[0]:.3f}".replace("-", "−")]
    other = call(root, tmp_path / "other", "--score-range", "2,3")
    assert (other.exit_code, "range of 'quality' is 2 to 3, but scores are in 1 to 4" in other.stderr) == (2, True)


def test_images_of_the_test_part_that_can_not_be_read_are_told(root: Path, tmp_path: Path) -> None:
    tested = [Path(each.image) for each in aigciqa.load_database("folder", root).split().test]
    tested[0].write_bytes(tested[0].read_bytes()[:99])
    with pytest.warns(UserWarning, match=rf"^1 of the 4 images of the test part can't be read, .*{tested[0].name}"):
        assert run(root, tmp_path / "head").config.results
    for path in tested[1:]:
        path.write_bytes(path.read_bytes()[:99])
    done = call(root, tmp_path / "none")
    assert (done.exit_code, "WARNING: there are no figures on the test part: " in done.stderr) == (0, True)
    assert config(tmp_path / "none")["results"] == {}


def test_a_run_that_goes_on_may_have_another_license(root: Path, tmp_path: Path) -> None:
    for given, license in ((), None), (("--license", "mit"), "mit"), ((), "mit"):
        more = ["--resume"] if license else []
        assert call(root, tmp_path / "head", *more, *given).exit_code == 0
        assert config(tmp_path / "head").get("license") == license


def test_a_checkpoint_with_a_head_of_another_kind_gives_its_backbone_or_is_refused(root: Path, tmp_path: Path) -> None:
    own = aigciqa.Metric(
        dataclasses.replace(aigciqa.create_metric("nr-tiny", weights=None).config, training={"by": "us"})
    )
    fitted = frozen_metric(own, {"quality": (0.5, 4.5)})  # as `fit_head` begins
    fitted.save_pretrained(tmp_path / "fitted")
    done = call(root, tmp_path / "head", "--start", str(tmp_path / "fitted"))
    assert (done.exit_code, "fitted was made by `aigciqa fit`" in done.stderr) == (2, True)
    register_head("own", lambda kind, feature_dim, outputs: OwnHead(feature_dim, outputs))
    register_metric(dataclasses.replace(aigciqa.metric_info("nr-tiny"), name="nr-own", head="own"))
    other = aigciqa.Metric(
        dataclasses.replace(own.config, metric="nr-own", head="own", score_ranges=fitted.config.score_ranges)
    )
    other.save_pretrained(tmp_path / "other")
    done = call(root, tmp_path / "head", "--start", str(tmp_path / "other"))
    assert done.exit_code == 0, done.stderr


def test_a_random_head_is_not_started_from(root: Path, tmp_path: Path, tiny: Path) -> None:
    """Its scores have no scale: mapped to the ratings', they would be far off."""
    untrained, anew = (call(root, tmp_path / name, "--start", start, "--epochs", "1", "--lr", "1e-9")
                       for name, start in (("untrained", str(tiny)), ("anew", "none")))  # fmt: skip
    assert untrained.exit_code == anew.exit_code == 0
    loss, other = (float(log(tmp_path / name)[0]["loss"]) for name in ("untrained", "anew"))
    assert abs(loss - other) < 0.1 * other


def test_a_run_that_diverges_at_once_leaves_no_head(root: Path, tmp_path: Path) -> None:
    for more in ((), ("--resume",)):
        done = call(root, tmp_path / "head", "--lr", "1e30", *more)
        assert done.exit_code == 1
        assert "training diverged in epoch 1: " in done.output
        assert "no weights are kept. Train with a smaller learning rate than 1e+30" in done.output
    assert [path.name for path in (tmp_path / "head").iterdir()] == ["training"]
    assert call(root, tmp_path / "head").exit_code == 0


@pytest.mark.parametrize("what", ["loss", "weights"])
def test_a_run_that_diverges_keeps_the_best_epoch(
    what: str, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    run(root, tmp_path / "whole", epochs=2)
    steps = Learner.steps

    def diverging(self: Learner, epoch: int) -> Iterator[tuple[float, int]]:
        for loss, images in steps(self, epoch):
            if epoch == 3 and what == "weights":
                torch.nn.init.constant_(self.trainee.head.get_parameter("fc1.bias"), math.inf)
            yield (math.nan if epoch == 3 and what == "loss" else loss), images

    monkeypatch.setattr(Learner, "steps", diverging)
    for more in ((), ("--resume",)):
        done = call(root, tmp_path / "head", "--epochs", "5", "--batch-size", "4", *more)
        assert done.exit_code == 1
        assert "training diverged in epoch 3: " in done.output
        assert "is kept in" in done.output
    assert len(log(tmp_path / "head")) == 2
    whole, kept = (aigciqa.Metric.from_pretrained(tmp_path / name).state_dict() for name in ("whole", "head"))
    assert all(torch.equal(kept[name], value) for name, value in whole.items())
    monkeypatch.undo()


# How a run goes on


def test_a_second_run_in_the_folder_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    before = (tmp_path / "head" / "config.json").read_bytes()
    with locked(tmp_path / "head" / "training" / "state.pt"):
        done = call(root, tmp_path / "head", "--resume", "--batch-size", "4", "--epochs", "9")
    assert (done.exit_code, "is being written by another run" in done.output) == (2, True)
    assert (tmp_path / "head" / "config.json").read_bytes() == before
    assert call(root, tmp_path / "head", "--resume", "--batch-size", "4").exit_code == 0


class KilledError(BaseException):
    """Stands in for SIGKILL at a certain place."""


@pytest.mark.parametrize("place", ["save_state", "write_checkpoint", "write_log"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_goes_on_wherever_it_was_killed(
    place: str, epoch: int, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    scores = (0.1, 0.2, 0.3, 0.1)
    validated(monkeypatch, *scores)
    run(root, tmp_path / "whole", epochs=4)

    owner: Any = loop if place == "save_state" else RunFolder
    done, calls = getattr(owner, place), itertools.count(1)

    def killed(*arguments: Any) -> None:
        if next(calls) == epoch:
            raise KilledError
        done(*arguments)

    validated(monkeypatch, *scores)
    with monkeypatch.context() as patch:
        patch.setattr(owner, place, killed)
        with pytest.raises(KilledError):
            run(root, tmp_path / "head", epochs=4)
    whole_epochs = epoch - 1 if place == "save_state" else epoch
    validated(monkeypatch, *scores[whole_epochs:])
    run(root, tmp_path / "head", resume=True, epochs=4)
    for name in ("model.safetensors", "config.json", "README.md"):
        assert (tmp_path / "head" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    keep = ("epoch", "loss", "srcc")
    assert [[row[k] for k in keep] for row in log(tmp_path / "head")] == [
        [row[k] for k in keep] for row in log(tmp_path / "whole")
    ]


def test_a_run_in_float16_goes_on_with_its_scale(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    """Gradients are scaled so that float16 holds them, by less where they overflow. The CPU stands in for a GPU."""

    def launched(*_: Any) -> Fabric:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
        return Fabric(accelerator="cpu", devices=1, plugins=MixedPrecision("16-mixed", "cpu", scaler))

    monkeypatch.setattr(trainer, "_launched", launched)
    run(root, tmp_path / "whole", epochs=3, dtype="float16", frozen=False)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_log", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            run(root, tmp_path / "head", epochs=3, dtype="float16", frozen=False)
    run(root, tmp_path / "head", resume=True, epochs=3, dtype="float16", frozen=False)
    states = [torch.load(tmp_path / name / "training" / "state.pt", weights_only=True) for name in ("whole", "head")]
    assert states[0]["precision"]["scale"] < 2.0**40
    assert states[0]["precision"] == states[1]["precision"]
    assert all(torch.equal(value, states[1]["model"][name]) for name, value in states[0]["model"].items())


def test_a_file_given_for_the_folder_is_a_usage_error(root: Path, tmp_path: Path) -> None:
    (tmp_path / "best.csv").touch()
    done = call(root, tmp_path / "best.csv")
    assert (done.exit_code, "best.csv is not a folder" in done.stderr) == (2, True)


def test_a_head_whose_state_was_deleted_is_not_trained_anew(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    (tmp_path / "head" / "training" / "state.pt").unlink()
    before = (tmp_path / "head" / "model.safetensors").read_bytes()
    done = call(root, tmp_path / "head", "--resume", "--batch-size", "4")
    assert (done.exit_code, "nothing to resume" in done.output) == (2, True)
    done = call(root, tmp_path / "head", "--batch-size", "4")
    assert (done.exit_code, "head holds a checkpoint, and no run to go on with: name" in done.stderr) == (2, True)
    assert (tmp_path / "head" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("content", [b"junk", b""])
def test_a_damaged_state_is_named(content: bytes, root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    (tmp_path / "head" / "training" / "state.pt").write_bytes(content)
    done = call(root, tmp_path / "head", "--resume", "--batch-size", "4")
    assert (done.exit_code, "state.pt is damaged" in done.output) == (2, True)


def test_a_state_of_an_older_version_is_refused(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    path = tmp_path / "head" / "training" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["format"]
    torch.save(state, path)
    done = call(root, tmp_path / "head", "--resume", "--batch-size", "4")
    assert (done.exit_code, "was written by another version of aigciqa" in done.output) == (2, True)


def test_changed_images_and_ratings_are_named(root: Path, tmp_path: Path) -> None:
    run(root, tmp_path / "head")
    split = aigciqa.load_database("folder", root).split()
    image = Path(split.train[0].image)
    before = image.read_bytes()
    image.touch()  # a copy of the same content is the same
    run(root, tmp_path / "head", resume=True)
    Image.open(image).transpose(Image.Transpose.ROTATE_180).save(image)
    with pytest.raises(ValueError, match=f"differs in the images {image.name}: "):
        run(root, tmp_path / "head", resume=True)
    image.write_bytes(before)
    rate(root, quality=lambda n: falling(n) + (0.01 if n == 7 else 0))
    with pytest.raises(ValueError, match=r"differs in the ratings of 07\.png: "):
        run(root, tmp_path / "head", resume=True)
    lines = (root / "manifest.csv").read_text().splitlines()
    (root / "manifest.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="differs in the split of the database: "):
        run(root, tmp_path / "head", resume=True)


def test_a_run_goes_on_without_the_weights_it_started_from(root: Path, tmp_path: Path) -> None:
    aigciqa.create_metric("nr-tiny", weights=None).save_pretrained(tmp_path / "start")
    start = str(tmp_path / "start")
    run(root, tmp_path / "whole", start=start, epochs=3)
    run(root, tmp_path / "head", start=start, epochs=1)
    shutil.rmtree(start)
    run(root, tmp_path / "head", start=start, epochs=3, resume=True)
    ours, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("head", "whole"))
    assert ours == whole


@pytest.mark.parametrize("name", ["state.pt", "README.md", "model.safetensors"])
def test_a_full_disk_says_so_and_the_run_goes_on(
    name: str, monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path
) -> None:
    """The disk is full when this file is to take its place."""
    run(root, tmp_path / "whole", epochs=2)
    replaced = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replaced(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        done = call(root, tmp_path / "head", "--batch-size", "4")
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert "--resume goes on from there" in done.output
    assert not list((tmp_path / "head").rglob("*.part"))
    assert call(root, tmp_path / "head", "--batch-size", "4", "--resume").exit_code == 0
    ours, whole = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("head", "whole"))
    assert ours == whole


def test_a_state_that_does_not_fit_on_the_disk_is_an_error_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torch raises an error of its own after the system's."""
    from aigciqa.training.run_folder import save_state

    class Full:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def flush(self) -> None:
            self.file.flush()

        def write(self, data: Any) -> int:
            if self.file.tell() + len(data) > 10_000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return int(self.file.write(data))

    opened = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *arguments, **options: Full(opened(path, *arguments, **options)))
        with pytest.raises(OSError, match="No space left on device"):
            save_state(tmp_path / "state.pt", {"model": {"weight": torch.zeros(10_000)}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_leaves_nothing_unfinished(number: int, status: int, root: Path, tmp_path: Path) -> None:
    line = ["folder", str(root), "-m", "nr-resnet18", "--start", "none", "--epochs", "99", "--quiet", "--device", "cpu"]
    line += ["--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "head")]
    process = subprocess.Popen([sys.executable, "-m", "aigciqa.cli", "train", *line], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "head" / "training" / "log.csv").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    second = call(root, tmp_path / "head", "--resume")
    assert (second.exit_code, "is being written by another run" in second.output) == (2, True)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == status
    assert "--resume goes on from there" in said
    assert "Traceback" not in said
    left = [path.name for folder in ("head", "cache") for path in (tmp_path / folder).rglob("*")]
    assert not [name for name in left if name.endswith((".tmp", ".part")) or "lock" in name]


def test_an_interrupt_before_training_exits_130(watch: Watch, root: Path, tmp_path: Path) -> None:
    watch(aigciqa, "load_database", KeyboardInterrupt())
    done = call(root, tmp_path / "head")
    assert (done.exit_code, "Traceback" in done.output) == (130, False)


def test_a_config_without_json_is_not_written(tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-tiny", weights=None)
    wrong = dataclasses.replace(metric.config, training={"validation_srcc": math.nan})
    with pytest.raises(aigciqa.CheckpointError, match=r"'training\.validation_srcc' is nan"):
        write_checkpoint(tmp_path / "head", wrong, metric.state_dict())
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("surroundings", ["autocast", "inference_mode", "no_grad", "float64", "meta"])
@pytest.mark.parametrize("settings", [{"frozen": True}, {"dtype": "bfloat16"}], ids=["frozen", "bfloat16"])
def test_what_the_caller_has_set_is_not_trained_with(
    surroundings: str, settings: dict[str, Any], root: Path, tmp_path: Path
) -> None:
    expected = run(root, tmp_path / "plain", **settings).state_dict()
    with SURROUNDINGS[surroundings]():
        found = run(root, tmp_path / "within", **settings).state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert [row["loss"] for row in log(tmp_path / "within")] == [row["loss"] for row in log(tmp_path / "plain")]
