"""`CheckpointScores`: how the pictures of a model fare while it is trained; what the callbacks share."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from aigciqa.errors import InputError
from aigciqa.integrations.diffusers import PictureScorer, ValidationScores, evaluating
from aigciqa.metric import Metric
from aigciqa.stats.groups import Difference, Scores, differences
from aigciqa.utils.object_stores import local_path

#: What trackers of experiments file the numbers and the pictures under.
_PREFIX = "aigciqa"
PICTURES = f"{_PREFIX}/pictures"


@dataclass(frozen=True)
class ScoredCheckpoint:
    """The scores of one checkpoint.

    Attributes:
        step: of training.
        scores: of its pictures.
        drift: how its mean differs from the first checkpoint's, within prompt and seed; None for the first. Its p value
            is that of this one comparison.

    Example:
        >>> from aigciqa.integrations.checkpoint_scores import ScoredCheckpoint
        >>> from aigciqa.integrations.diffusers import ValidationScores
        >>> ScoredCheckpoint(500, ValidationScores("quality", ()), None).step
        500
    """

    step: int
    scores: ValidationScores
    drift: Difference | None

    @property
    def numbers(self) -> dict[str, float]:
        """What trackers are to log: mean, drift, their intervals; what is NaN is left out."""
        mean, name = self.scores.mean, f"{_PREFIX}/{self.scores.dimension}"
        found = {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
        if (drift := self.drift) is not None:
            found |= {
                f"{name}_drift": drift.difference,
                f"{name}_drift_low": drift.low,
                f"{name}_drift_high": drift.high,
                f"{name}_drift_is_significant": float(drift.is_significant),
            }
        if self.scores.left_out:
            found[f"{_PREFIX}/left_out"] = float(self.scores.left_out)
        return {key: value for key, value in found.items() if math.isfinite(value)}

    @property
    def captions(self) -> list[str]:
        """Of each picture that was kept: score, seed, prompt."""
        dimension, records = self.scores.dimension, self.scores.records[: len(self.scores.pictures)]
        return [
            f"{each.scores.get(dimension, math.nan):.3f} · seed {each.extra['seed']} · {each.extra['prompt']}"
            for each in records
        ]

    def pictures_to_tensorboard(self, writer: Any) -> None:
        """Give the pictures to a `SummaryWriter`: each prompt and seed has a tag, along which the steps go."""
        for record, picture in zip(self.scores.records, self.scores.pictures, strict=False):
            pixels = np.asarray(picture.convert("RGB"))
            writer.add_image(f"{_PREFIX}/{record.image}", pixels, self.step, dataformats="HWC")

    def pictures_to_wandb(self) -> None:
        """Give the pictures to the W&B run that is under way, if there is one."""
        wandb = sys.modules.get("wandb")
        if wandb is not None and getattr(wandb, "run", None) is not None and self.scores.pictures:
            pairs = zip(self.scores.pictures, self.captions, strict=True)
            pictures = [wandb.Image(picture, caption=caption) for picture, caption in pairs]
            wandb.log({PICTURES: pictures, "train/global_step": self.step})


class CheckpointScores:
    """Scores the pictures of a model, again and again while it is trained, and knows how it drifts.

    Args:
        prompts, seeds, metric, references, batch_size: as for `validation_scores`. They are checked, and the metric is
            loaded, at once.
        to: a folder; the pictures and scores of each checkpoint are written into its folder `step-<step>`. What an
            earlier run left there is replaced.
        log_pictures: so many of the first pictures are kept of the last checkpoint, for trackers.
        **pipeline_arguments: as for `validation_scores`.

    Attributes:
        checkpoints: what was scored so far, in order.

    Example:
        >>> from PIL import Image
        >>> from aigciqa.integrations.checkpoint_scores import CheckpointScores
        >>> def grey(prompt, generator, output_type):
        ...     return [Image.new("RGB", (64, 64), (9 * len(each),) * 3) for each in prompt]
        >>> quality = CheckpointScores(["a cat", "a boat"], seeds=[1, 2], metric="nr-lite")
        >>> first, second = quality.score(grey, step=0), quality.score(grey, step=500)
        >>> second.drift.difference, second.drift.is_significant
        (0.0, False)
    """

    def __init__(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        metric: str | Metric,
        *,
        references: Sequence[Any] | None = None,
        batch_size: int = 1,
        to: str | os.PathLike[str] | None = None,
        log_pictures: int = 4,
        **pipeline_arguments: Any,
    ) -> None:
        self.scorer = PictureScorer(
            prompts, seeds, metric, references=references, batch_size=batch_size, **pipeline_arguments
        )
        self.to = None if to is None else local_path(to)
        self.log_pictures = log_pictures
        self.checkpoints: list[ScoredCheckpoint] = []

    def score(self, pipeline: Callable[..., Any], step: int) -> ScoredCheckpoint:
        """Make pictures and score them; raises as `validation_scores` does."""
        folder = None if self.to is None else self.to / f"step-{step}"
        scores = self.scorer.run(pipeline, to=folder, overwrite=True, keep_pictures=self.log_pictures)
        found = ScoredCheckpoint(step, scores, self._drift(scores) if self.checkpoints else None)
        self.checkpoints.append(replace(found, scores=replace(scores, pictures=())))
        return found

    def _drift(self, scores: ValidationScores) -> Difference:
        """The difference of scores from the first ones, over the prompts and seeds that both have scores of."""
        now, first = (
            Scores(
                np.array([each.scores.get(scores.dimension, math.nan) for each in found.records]),
                tuple(str(each.extra["prompt"]) for each in found.records),
                tuple(str(each.extra["seed"]) for each in found.records),
            )
            for found in (scores, self.checkpoints[0].scores)
        )
        (found,) = differences({"now": now, "first": first})
        return found


class TrainingScores:
    """What a callback does, whatever the trainer: scores at the start and every so many steps or epochs.

    Args:
        pipeline: makes a pipeline, as `validation_scores` takes it, of the model that is trained.
        scores: what to score.
        every_n_steps, every_n_epochs: how often; each epoch if neither is given.
    """

    def __init__(
        self,
        pipeline: Callable[[Any], Callable[..., Any]],
        scores: CheckpointScores,
        every_n_steps: int | None,
        every_n_epochs: int | None,
    ) -> None:
        if every_n_steps is not None and every_n_epochs is not None:
            raise InputError("`every_n_steps` or `every_n_epochs`: give one of them")
        for name, every in (("every_n_steps", every_n_steps), ("every_n_epochs", every_n_epochs)):
            if every is not None and every < 1:
                raise InputError(f"`{name}` is at least 1; got {every}")
        self.pipeline = pipeline
        self.scores = scores
        self.every_n_steps = every_n_steps
        self.every_n_epochs = 1 if every_n_steps is None and every_n_epochs is None else every_n_epochs
        self._last: int | None = None  # step that was scored

    def start(self, model: Any, step: int) -> ScoredCheckpoint:
        """Score the model before it is trained further. Errors are raised: nothing is lost yet."""
        self._last = step
        with evaluating([model] if isinstance(model, nn.Module) else []):
            return self.scores.score(self.pipeline(model), step)

    def after_step(self, model: Any, step: int) -> ScoredCheckpoint | None:
        """Score the model if it is time to, once in a step. Several optimizers may count several steps at once."""
        every = self.every_n_steps
        return self._score(model, step) if every and step // every > (self._last or 0) // every else None

    def after_epoch(self, model: Any, step: int, epochs: int) -> ScoredCheckpoint | None:
        """Score the model if it is time to, after so many epochs."""
        return self._score(model, step) if self.every_n_epochs and epochs % self.every_n_epochs == 0 else None

    def _score(self, model: Any, step: int) -> ScoredCheckpoint | None:
        """Score the model. An error is a warning: days of training are worth more than one validation."""
        if step == self._last:
            return None
        try:
            return self.start(model, step)
        except Exception as error:
            message = f"step {step} could not be scored, and training goes on: {type(error).__name__}: {error}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
            return None
