"""Scores of a model's pictures while a Hugging Face `Trainer` trains it: a callback."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from aigciqa.integrations.checkpoint_scores import CheckpointScores, ScoredCheckpoint, TrainingScores
from aigciqa.metric import Metric
from aigciqa.utils.extras import needs_extra

with needs_extra("transformers", "QualityCallback needs transformers"):
    from transformers import TrainerCallback


class QualityCallback(TrainerCallback):
    """Scores pictures of the model when training begins and every so many steps or epochs.

    `trainer.log` gets the mean of the metric's main dimension and its 95% interval, the drift from the first checkpoint
    with its interval and whether it is significant: they are in the trainer's history and wherever it reports to.
    TensorBoard and W&B get the first pictures.

    The first process does it, while others wait for it, so that a model whose weights are spread over processes (FSDP,
    DeepSpeed's third stage) can't be scored. An error at the start is raised, before anything is trained; a later one
    is a warning, and training goes on.

    Args:
        trainer: the `Trainer`, whose `add_callback` then takes this callback.
        pipeline: makes a pipeline, or a function that is called like one, of the model.
        prompts, seeds, metric: as for `aigciqa.integrations.diffusers.validation_scores`.
        every_n_steps: how often, in steps of the optimizer; or
        every_n_epochs: in epochs. Each epoch if neither is given.
        **options: the others of `CheckpointScores`: `references`, `batch_size`, `to`, `log_pictures` and arguments of
            the pipeline. `to` gets a folder `step-<step>` for each checkpoint, which `aigciqa compare --by checkpoint`
            compares.

    Attributes:
        scores: the `CheckpointScores`; its `checkpoints` are the results so far.

    Example::

        trainer = Trainer(model=unet, args=arguments, train_dataset=data)
        quality = QualityCallback(
            trainer, lambda unet: StableDiffusionPipeline(unet=unet, **frozen),
            prompts, seeds=range(4), metric="nr-lite", every_n_steps=500, to="samples", num_inference_steps=20,
        )
        trainer.add_callback(quality)
        trainer.train()
    """

    def __init__(
        self,
        trainer: Any,
        pipeline: Callable[[Any], Callable[..., Any]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        metric: str | Metric,
        *,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        **options: Any,
    ) -> None:
        self.trainer = trainer
        self.scores = CheckpointScores(prompts, seeds, metric, **options)
        self._training = TrainingScores(pipeline, self.scores, every_n_steps, every_n_epochs)
        self._epochs = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Score the model as it is."""
        if state.is_world_process_zero:
            self._epochs = math.floor(state.epoch or 0)  # that were done, of a run that is resumed
            self._log(control, self._training.start(model, state.global_step))

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Score the model after so many steps."""
        if state.is_world_process_zero:
            self._log(control, self._training.after_step(model, state.global_step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Score the model after so many epochs."""
        if state.is_world_process_zero:
            self._epochs += 1  # the trainer's own number is a share of all where the data tell no length
            self._log(control, self._training.after_epoch(model, state.global_step, self._epochs))

    def _log(self, control: Any, found: ScoredCheckpoint | None) -> None:
        if found is None:
            return
        due = control.should_log
        self.trainer.log(found.numbers)
        control.should_log = due  # the trainer's own numbers, which logging ours would have put off
        for callback in self.trainer.callback_handler.callbacks:
            if getattr(callback, "tb_writer", None) is not None:
                found.pictures_to_tensorboard(callback.tb_writer)
        found.pictures_to_wandb()
