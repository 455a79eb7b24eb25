"""The epochs of a run: train, validate, keep the best, and put everything on disk after each."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from aigciqa import __version__
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.errors import TrainingError
from aigciqa.stats.correlations import srcc
from aigciqa.training.learner import Learner
from aigciqa.training.run_folder import RunFolder, save_state, split_metadata

if TYPE_CHECKING:
    from aigciqa.databases import Sample, Split


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        epoch: epochs done.
        best_epoch: the one whose weights are kept, from 1; 0 before there is one.
        best: its mean SRCC on the validation part; minus infinity where that is NaN, so that any number is better.
        history: a row of the log for each epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best: float = -float("inf")
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class Run:
    """A run of training, from its first epoch or a later one to its last.

    Attributes:
        config: of the checkpoint, without what is learnt of its training.
        images: digests of the images, as `run_folder.digests` gives them.
        bars: whether to show progress.
    """

    learner: Learner
    split: Split
    folder: RunFolder
    config: MetricConfig
    images: dict[str, str]
    bars: bool
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.fabric, self.settings = self.learner.fabric, self.learner.settings
        self.bars = self.bars and self.fabric.is_global_zero

    def restore(self, state: dict[str, Any]) -> None:
        """Take up the state of the last whole epoch."""
        self.learner.trainee.load_state_dict(state["model"])
        self.learner.optimizer.load_state_dict(state["optimizer"])
        if scaling := state.get("precision"):
            self.fabric.strategy.precision.load_state_dict(scaling)
        self.progress = Progress(**state["progress"])
        if self.fabric.is_global_zero:
            self._write_outcome()  # it may be what the run was killed in

    def go(self, tensorboard: bool) -> None:
        """Train what is left of the epochs; raises TrainingError if it diverges."""
        writer = self.folder.tensorboard() if tensorboard and self.fabric.is_global_zero else None
        patience = self.settings.patience or math.inf
        while self.progress.epoch < self.settings.epochs and self.progress.epoch - self.progress.best_epoch < patience:
            started = time.monotonic()
            loss = self._train_epoch()
            if self.fabric.is_global_zero:
                row = self._close_epoch(loss, time.monotonic() - started)
                if writer is not None:
                    for name, value in row.items():
                        writer.add_scalar(name, value, self.progress.epoch)
            self.progress = self.fabric.broadcast(self.progress)
        if writer is not None:
            writer.close()
        if self.progress.best == -math.inf and self.fabric.is_global_zero:
            warnings.warn(
                f"no epoch could be chosen: in each, all images of the validation part got the same score. Epoch "
                f"{self.progress.best_epoch} is kept; train with another learning rate or seed, in another folder",
                stacklevel=3,
            )

    def _train_epoch(self) -> float:
        """One pass over the training part; returns the mean loss."""
        epoch = self.progress.epoch + 1
        total, count = 0.0, 0
        steps = tqdm(
            self.learner.steps(epoch),
            total=len(self.learner.batches(epoch)),
            desc=f"epoch {epoch}",
            unit="step",
            leave=False,
            disable=None if self.bars else True,
        )
        for loss, images in steps:
            if not math.isfinite(loss):
                steps.close()
                raise self._diverged(f"the loss is {loss}")
            total, count = total + loss * images, count + images
        return total / count

    def _close_epoch(self, loss: float, seconds: float) -> dict[str, float]:
        """Validate, keep the weights if they are the best, put everything on disk; returns the epoch's row."""
        if not all(torch.isfinite(value).all() for value in self.learner.weights().values()):
            raise self._diverged("weights are not finite")
        scores = self.learner.scores(self.split.validation)
        if not np.isfinite(scores).all():
            raise self._diverged("scores of the validation part are not finite")
        correlations = rank_correlations(scores, self.split.validation, self.settings.dimensions)
        progress = self.progress
        progress.epoch += 1
        mean = float(np.mean(list(correlations.values())))
        row = {"epoch": float(progress.epoch), "loss": loss, "srcc": mean, "seconds": round(seconds, 3)}
        row |= {f"srcc_{name}": value for name, value in correlations.items()}
        progress.history.append(row)
        if mean > progress.best or not progress.best_epoch:
            progress.best, progress.best_epoch = mean if math.isfinite(mean) else -math.inf, progress.epoch
        save_state(self.folder.state_file, self._state())  # first: whatever a run is killed in, it goes on from here
        self._write_outcome()
        if self.bars:
            best = "  (best)" if progress.best_epoch == progress.epoch else ""
            line = f"epoch {progress.epoch}: loss {loss:.4f}, validation SRCC {mean:.4f}, {seconds:.1f} s{best}"
            tqdm.write(line, file=sys.stderr)
        return row

    def _diverged(self, what: str) -> TrainingError:
        best = self.progress.best_epoch
        kept = f"epoch {best} is kept in {self.folder.path}" if best else "no weights are kept"
        return TrainingError(
            f"training diverged in epoch {self.progress.epoch + 1}: {what}; {kept}. Train with a smaller learning rate "
            f"than {self.settings.learning_rate:g} in another folder"
        )

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.learner.trainee.state_dict(),
            "optimizer": self.learner.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),  # by how much float16 scales the loss
            "progress": asdict(self.progress),
            "settings": self.settings.to_dict(),
            "options": dict(self.config.options),
            **split_metadata(self.split),
            "images": self.images,
        }

    def _write_outcome(self) -> None:
        """The checkpoint, if the last epoch is the best, and the log."""
        if self.progress.best_epoch == self.progress.epoch:
            self.folder.write_checkpoint(replace(self.config, training=self._metadata()), self.learner.weights())
        self.folder.write_log(self.progress.history)

    def _metadata(self) -> dict[str, Any]:
        """What the checkpoint's config says of its training."""
        settings = self.settings.to_dict()
        del settings["metric"], settings["dimensions"]  # the config has them
        return {
            "database": self.split.database,
            "protocol": self.split.protocol,
            "split": self.split.digest,
            "options": dict(self.split.options),
            **settings,
            "optimizer": "Adam",
            "loss": "MSE",
            "targets": "standardised",
            "best_epoch": self.progress.best_epoch,
            "validation_srcc": round(self.progress.best, 4) if math.isfinite(self.progress.best) else None,
            "selected_on_test": self.split.selected_on_test,
            "versions": {"aigciqa": __version__, "torch": torch.__version__},
        }


def rank_correlations(
    scores: NDArray[np.float64], samples: Sequence[Sample], dimensions: Sequence[str]
) -> dict[str, float]:
    """SRCC of scores (n, dimensions) with the opinions on samples, by dimension; NaN where all scores are equal."""
    opinions = ([sample.scores[name] for sample in samples] for name in dimensions)
    return {name: srcc(*pair) for name, *pair in zip(dimensions, scores.T, opinions, strict=True)}
