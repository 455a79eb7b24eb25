"""Scores of a model's pictures while Lightning trains it: a callback."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aigciqa.integrations.checkpoint_scores import PICTURES, CheckpointScores, ScoredCheckpoint, TrainingScores
from aigciqa.metric import Metric
from aigciqa.utils.extras import needs_extra

with needs_extra("lightning", "QualityCallback needs Lightning"):
    from lightning.pytorch import Callback


class QualityCallback(Callback):
    """Scores pictures of the model at the start of `fit` and every so many steps or epochs.

    To the trainer's loggers go the mean of the metric's main dimension and its 95% interval, the drift from the first
    checkpoint with its interval and whether it is significant, and to TensorBoard and W&B the first pictures.

    The first process does it, while others wait for it, so that a model whose weights are spread over processes (FSDP,
    DeepSpeed's third stage) can't be scored. An error at the start is raised, before anything is trained; a later one
    is a warning, and training goes on.

    Args:
        pipeline: makes a pipeline, or a function that is called like one, of the `LightningModule`.
        prompts, seeds, metric: as for `aigciqa.integrations.diffusers.validation_scores`.
        every_n_steps: how often, in steps of the optimizer; or
        every_n_epochs: in epochs. Each epoch if neither is given.
        **options: the others of `CheckpointScores`: `references`, `batch_size`, `to`, `log_pictures` and arguments of
            the pipeline. `to` gets a folder `step-<step>` for each checkpoint, which `aigciqa compare --by checkpoint`
            compares.

    Attributes:
        scores: the `CheckpointScores`; its `checkpoints` are the results so far.

    Example::

        quality = QualityCallback(
            lambda module: StableDiffusionPipeline(unet=module.unet, **module.frozen),
            prompts, seeds=range(4), metric="nr-lite", every_n_steps=500, to="samples", num_inference_steps=20,
        )
        Trainer(callbacks=[quality]).fit(module)
    """

    def __init__(
        self,
        pipeline: Callable[[Any], Callable[..., Any]],
        prompts: Sequence[str],
        seeds: Sequence[int],
        metric: str | Metric,
        *,
        every_n_steps: int | None = None,
        every_n_epochs: int | None = None,
        **options: Any,
    ) -> None:
        self.scores = CheckpointScores(prompts, seeds, metric, **options)
        self._training = TrainingScores(pipeline, self.scores, every_n_steps, every_n_epochs)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Score the model as it is."""
        if trainer.is_global_zero:
            _log(trainer, self._training.start(pl_module, trainer.global_step))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Score the model after so many steps."""
        if trainer.is_global_zero:
            _log(trainer, self._training.after_step(pl_module, trainer.global_step))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Score the model after so many epochs."""
        if trainer.is_global_zero:
            _log(trainer, self._training.after_epoch(pl_module, trainer.global_step, trainer.current_epoch + 1))


def _log(trainer: Any, found: ScoredCheckpoint | None) -> None:
    if found is None:
        return
    for logger in trainer.loggers:
        logger.log_metrics(found.numbers, step=found.step)
        if not found.scores.pictures:
            continue
        if hasattr(logger, "log_image"):  # W&B's
            logger.log_image(PICTURES, list(found.scores.pictures), step=found.step, caption=found.captions)
        elif hasattr(logger.experiment, "add_image"):  # TensorBoard's
            found.pictures_to_tensorboard(logger.experiment)
