"""Scores of a model's pictures while it is trained: by Lightning, by a Hugging Face Trainer, in a loop of one's own."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aigciqa.errors import InputError
from aigciqa.integrations.checkpoint_scores import CheckpointScores, TrainingScores
from aigciqa.stats.groups import Scores, differences
from aigciqa.tables.scores import read_table
from tests.test_compare import run
from tests.test_diffusers import drawn

PROMPTS = [f"a {thing}" for thing in ("cat", "dog", "boat", "house", "tree", "road", "hill", "lake")]


class Painter(nn.Module):
    """A model whose pictures are the better, the nearer its only weight is to 0."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = nn.Parameter(torch.tensor(60.0))
        self.dropout = nn.Dropout()

    def forward(self, x: torch.Tensor | None = None, labels: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"loss": self.noise.square() / 2}


def pipeline_of(model: Any) -> Any:
    assert not model.dropout.training

    def pipeline(**arguments: Any) -> list[Image.Image]:
        return drawn(**arguments, noise=float(model.noise))

    return pipeline


def images_of(folder: Path) -> dict[str, list[int]]:
    """Tag -> steps of the pictures in TensorBoard's event files."""
    accumulator = events(folder)
    return {tag: [each.step for each in accumulator.Images(tag)] for tag in accumulator.Tags()["images"]}


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def scalars_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(each.step, each.value) for each in events(folder).Scalars(tag)]


class TestCheckpoints:
    def test_drift_is_within_prompt_and_seed(self) -> None:
        quality = CheckpointScores(PROMPTS, [3, 5], "nr-lite")
        first = quality.score(lambda **given: drawn(**given, noise=20), 0)
        second = quality.score(lambda **given: drawn(**given, noise=60), 500)
        assert first.drift is None
        values = [np.array([each.scores["quality"] for each in found.scores.records]) for found in (second, first)]
        (expected,) = differences(
            {
                name: Scores(each, tuple(PROMPTS * 2), ("3",) * 8 + ("5",) * 8)
                for name, each in zip(("now", "first"), values, strict=True)
            }
        )
        assert second.drift == expected
        assert second.drift.n == 8
        assert second.drift.difference == pytest.approx((values[0] - values[1]).mean())
        assert second.drift.is_significant
        assert [each.step for each in quality.checkpoints] == [0, 500]

    def test_a_picture_that_one_lacks_counts_in_neither(self) -> None:
        def checked(prompt: list[str], **arguments: Any) -> Any:
            black = [text == "a dog" for text in prompt]
            return SimpleNamespace(images=drawn(prompt, **arguments, noise=60), nsfw_content_detected=black)

        quality = CheckpointScores(PROMPTS, [3], "nr-lite")
        first = quality.score(lambda **given: drawn(**given, noise=20), 0)
        second = quality.score(checked, 500)
        inside = [
            now.scores["quality"] - then.scores["quality"]
            for now, then in zip(second.scores.records, first.scores.records, strict=True)
            if now.extra["prompt"] != "a dog"
        ]
        assert second.drift is not None
        assert (second.drift.n, second.drift.difference) == (7, pytest.approx(np.mean(inside)))
        assert second.numbers["aigciqa/left_out"] == 1

    def test_numbers_are_finite_and_named_after_the_dimension(self) -> None:
        quality = CheckpointScores(PROMPTS[:1], [3], "nr-lite")
        assert set(quality.score(drawn, 0).numbers) == {"aigciqa/quality"}  # one prompt has no interval
        several = CheckpointScores(PROMPTS, [3], "nr-lite")
        several.score(drawn, 0)
        numbers = several.score(drawn, 1).numbers
        assert list(numbers) == [
            f"aigciqa/quality{end}" for end in ("", "_low", "_high", "_drift", "_drift_low", "_drift_high",
                                                "_drift_is_significant")
        ]  # fmt: skip
        assert numbers["aigciqa/quality_drift"] == 0
        assert all(map(math.isfinite, numbers.values()))

    def test_bad_arguments_are_errors_before_training(self) -> None:
        with pytest.raises(InputError, match="nr-lite"):
            CheckpointScores(PROMPTS, [3], "nr-lit")
        scores = CheckpointScores(PROMPTS, [3], "nr-lite")
        with pytest.raises(InputError, match="give one of them"):
            TrainingScores(pipeline_of, scores, 1, 1)
        with pytest.raises(InputError, match="`every_n_steps` is at least 1"):
            TrainingScores(pipeline_of, scores, 0, None)

    def test_steps_that_come_several_at_once_are_not_missed(self) -> None:
        training = TrainingScores(pipeline_of, CheckpointScores(PROMPTS[:1], [3], "nr-lite"), 5, None)
        model = Painter()
        training.start(model, 0)
        for step in range(2, 26, 2):  # as two optimizers count
            training.after_step(model, step)
        assert [each.step for each in training.scores.checkpoints] == [0, 6, 10, 16, 20]

    def test_an_error_is_raised_at_the_start_and_a_warning_later(self) -> None:
        def torn(_: Any) -> Any:
            raise ZeroDivisionError("no pictures")

        model = Painter()
        training = TrainingScores(torn, CheckpointScores(PROMPTS, [3], "nr-lite"), 1, None)
        with pytest.raises(ZeroDivisionError):
            training.start(model, 0)
        with pytest.warns(RuntimeWarning, match="step 5 could not be scored.*ZeroDivisionError: no pictures"):
            assert training.after_step(model, 5) is None
        assert model.dropout.training


@pytest.mark.slow
class TestLightning:
    def module(self) -> Any:
        from lightning.pytorch import LightningModule

        class Module(LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.painter = Painter()

            def training_step(self, batch: Any, index: int) -> Any:
                return self.painter()["loss"]

            def configure_optimizers(self) -> Any:
                return torch.optim.SGD(self.parameters(), lr=0.3)

        return Module()

    def fit(self, callback: Any, folder: Path, loggers: list[Any], epochs: int = 2) -> Any:
        from lightning.pytorch import Trainer

        trainer = Trainer(
            max_epochs=epochs, accelerator="cpu", logger=loggers, callbacks=[callback], enable_progress_bar=False,
            enable_checkpointing=False, enable_model_summary=False, default_root_dir=folder,
        )  # fmt: skip
        data = torch.utils.data.DataLoader(torch.zeros(2, 1))
        module = self.module()
        trainer.fit(module, data)
        return module

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_scores_go_to_tensorboard_and_pictures_to_wandb_too(self, tmp_path: Path) -> None:
        from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

        from aigciqa.integrations.lightning import QualityCallback

        class Wandb(CSVLogger):
            """Takes pictures as Lightning's WandbLogger does."""

            pictures: list[Any] = []  # noqa: RUF012

            def log_image(self, key: str, images: list[Any], step: int, caption: list[str]) -> None:
                self.pictures.append((key, [image.size for image in images], step, caption))

        callback = QualityCallback(
            lambda module: pipeline_of(module.painter),
            PROMPTS,
            [3],
            "nr-lite",
            every_n_steps=2,
            batch_size=8,
            to=tmp_path / "samples",
            log_pictures=2,
        )
        module = self.fit(callback, tmp_path, [TensorBoardLogger(tmp_path, "board", ""), Wandb(tmp_path)])
        assert module.painter.dropout.training
        checkpoints = callback.scores.checkpoints
        assert [each.step for each in checkpoints] == [0, 2, 4]
        means = scalars_of(tmp_path / "board", "aigciqa/quality")
        assert means == [(each.step, pytest.approx(each.scores.mean.value)) for each in checkpoints]
        drifts = scalars_of(tmp_path / "board", "aigciqa/quality_drift")
        assert [step for step, _ in drifts] == [2, 4]
        assert drifts[1][1] > drifts[0][1] > 0
        assert [value for _, value in scalars_of(tmp_path / "board", "aigciqa/quality_drift_is_significant")][1] == 1
        assert images_of(tmp_path / "board") == {
            "aigciqa/0000-seed-3.png": [0, 2, 4],
            "aigciqa/0001-seed-3.png": [0, 2, 4],
        }
        assert [(key, sizes, step) for key, sizes, step, _ in Wandb.pictures] == [
            ("aigciqa/pictures", [(64, 64)] * 2, step) for step in (0, 2, 4)
        ]
        assert Wandb.pictures[0][3][1].endswith("· seed 3 · a dog")
        done = run(*map(str, (tmp_path / "samples").glob("*/scores.csv")), "--by", "checkpoint")
        assert "step-4 is best of 3 checkpoints" in done.output
        assert "Its lead over step-0 (first)" in done.output

    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_epochs_and_processes_that_are_not_the_first(self, tmp_path: Path) -> None:
        from aigciqa.integrations.lightning import QualityCallback

        callback = QualityCallback(
            lambda module: pipeline_of(module.painter), PROMPTS[:2], [3], "nr-lite", every_n_epochs=2
        )
        self.fit(callback, tmp_path, [], epochs=4)
        assert [each.step for each in callback.scores.checkpoints] == [0, 4, 8]
        other = SimpleNamespace(is_global_zero=False)
        callback.on_train_start(other, None)
        callback.on_train_batch_end(other, None, None, None, 0)
        callback.on_train_epoch_end(other, None)
        assert len(callback.scores.checkpoints) == 3


@pytest.mark.slow
class TestTransformers:
    @pytest.fixture
    def wandb(self, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        """What a stand-in for the module `wandb` is given to log."""
        import aigciqa.integrations.transformers  # noqa: F401  # imports accelerate, which looks for the real one

        logged: list[dict[str, Any]] = []
        module = SimpleNamespace(
            run=object(), log=logged.append, Image=lambda picture, caption: (picture.size, caption)
        )
        monkeypatch.setitem(sys.modules, "wandb", module)
        return logged

    def trainer(self, folder: Path, **arguments: Any) -> Any:
        from transformers import Trainer, TrainingArguments

        given = TrainingArguments(
            output_dir=str(folder), use_cpu=True, per_device_train_batch_size=1, learning_rate=20.0, save_strategy="no",
            logging_steps=2, disable_tqdm=True, **arguments,
        )  # fmt: skip
        data = [{"x": torch.zeros(1), "labels": torch.zeros(1)}] * 4
        return Trainer(model=Painter(), args=given, train_dataset=data)

    def test_scores_are_in_the_history_and_in_tensorboard(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wandb: list[dict[str, Any]]
    ) -> None:
        from aigciqa.integrations.transformers import QualityCallback

        monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
        arguments: dict[str, Any] = {"max_steps": 4, "report_to": ["tensorboard"]}
        trainer = self.trainer(tmp_path, **arguments)
        callback = QualityCallback(
            trainer, pipeline_of, PROMPTS, [3], "nr-lite", every_n_steps=2, to=tmp_path / "samples", log_pictures=1
        )
        trainer.add_callback(callback)
        trainer.train()
        checkpoints = callback.scores.checkpoints
        assert [each.step for each in checkpoints] == [0, 2, 4]
        history = [each for each in trainer.state.log_history if "aigciqa/quality" in each]
        assert [(each["step"], each["aigciqa/quality"]) for each in history] == [
            (each.step, each.scores.mean.value) for each in checkpoints
        ]
        assert history[2]["aigciqa/quality_drift"] > 0
        assert [each["step"] for each in trainer.state.log_history if "loss" in each] == [2, 4]  # the trainer's own
        means = scalars_of(tmp_path / "board", "train/aigciqa/quality")
        assert [step for step, _ in means] == [0, 2, 4]
        assert images_of(tmp_path / "board") == {"aigciqa/0000-seed-3.png": [0, 2, 4]}
        assert [each["train/global_step"] for each in wandb] == [0, 2, 4]
        ((size, caption),) = wandb[0]["aigciqa/pictures"]
        assert size == (64, 64)
        assert caption.endswith("· seed 3 · a cat")
        assert len(list(read_table(tmp_path / "samples" / "step-4" / "scores.csv").rows)) == 8

    def test_epochs_and_processes_that_are_not_the_first(self, tmp_path: Path) -> None:
        from aigciqa.integrations.transformers import QualityCallback

        for every, steps in ((None, [0, 4, 8, 10]), (2, [0, 8])):  # the last epoch is cut short
            trainer = self.trainer(tmp_path, max_steps=10, report_to=[])
            callback = QualityCallback(trainer, pipeline_of, PROMPTS[:2], [3], "nr-lite", every_n_epochs=every)
            trainer.add_callback(callback)
            trainer.train()
            assert [each.step for each in callback.scores.checkpoints] == steps
        other = SimpleNamespace(is_world_process_zero=False)
        callback.on_train_begin(None, other, None)
        callback.on_step_end(None, other, None)
        callback.on_epoch_end(None, other, None)
        assert len(callback.scores.checkpoints) == 2
