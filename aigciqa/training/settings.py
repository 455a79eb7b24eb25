"""What a training run is made with."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

from aigciqa.errors import InputError

#: Settings' `dtype` -> Lightning Fabric's `precision`.
PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


@dataclass(frozen=True)
class Settings:
    """What a run is made with; together with the split it decides the outcome.

    The defaults are the recipe of the paper (PKU-I2IQA, section 5): Adam on the mean squared error. Every image is
    cropped at random and mirrored half of the time.

    Attributes:
        metric: name of the metric to train.
        dimensions: opinion scores to learn, jointly where there are several.
        epochs: passes over the training part.
        batch_size: images per step, over all devices.
        learning_rate, weight_decay: Adam's.
        gradient_accumulation: steps whose gradients are added up before the weights move.
        patience: epochs without a better SRCC after which to stop; None trains all epochs.
        seed: of the head's initial weights, of the order of the images, of crops and flips, of what a backbone drops.
        start: the weights to start from: `"imagenet"`, `"none"` (random), or a folder, repo or ImageNet file.
        frozen: train the head alone, on features computed once (centre crop).
        dtype: what the network computes in: `"float32"`, or mixed with `"bfloat16"` or `"float16"`.
        activation_checkpointing: compute feature maps twice instead of keeping them: less memory, more time, the same
            outcome.

    Raises:
        InputError: a value out of range.

    Example:
        >>> from aigciqa.training.settings import Settings
        >>> settings = Settings("nr-resnet18", ("quality",), epochs=30, patience=10)
        >>> settings.batch_size, settings.learning_rate
        (8, 0.0001)
    """

    metric: str
    dimensions: tuple[str, ...]
    epochs: int = 100
    batch_size: int = 8
    learning_rate: float = 1e-4
    weight_decay: float = 1e-5
    gradient_accumulation: int = 1
    patience: int | None = None
    seed: int = 0
    start: str = "imagenet"
    frozen: bool = False
    dtype: str = "float32"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.dimensions, str) or not self.dimensions or len(set(self.dimensions)) < len(self.dimensions):
            raise InputError(f"dimensions are one or more distinct names; got {self.dimensions!r}")
        for name in ("epochs", "batch_size", "gradient_accumulation"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is 1 or more; got {getattr(self, name)}")
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience is 1 or more; got {self.patience}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning rate is a number above 0; got {self.learning_rate}")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight decay is a number, 0 or more; got {self.weight_decay}")
        if self.seed < 0:
            raise InputError(f"seed is 0 or more; got {self.seed}")
        if self.dtype not in PRECISIONS:
            raise InputError(f"dtype is one of {', '.join(PRECISIONS)}; got {self.dtype!r}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON and weights-only pickles keep them."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return plain
