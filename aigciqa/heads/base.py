"""What every head is: features in, scores out, and the scores position by position."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigciqa.errors import InputError
from aigciqa.utils.paths import counted


class OutputsError(InputError):
    """A number of dimensions that a head can't predict."""


class Head(nn.Module):
    """Regresses scores from features.

    Features are (B, D) for a no-reference metric; for a full-reference one (B, 2 D), the generated image's D first,
    the reference's D after them. Subclasses implement `forward`.

    Attributes:
        output_layer: name of the `nn.Linear` that gives the scores. `aigciqa.training` needs it: scores are learnt in
            standard deviations from their mean, and this layer is rescaled afterwards. Empty where there is none.

    Example:
        >>> import torch
        >>> from aigciqa.heads import Head
        >>> class Linear(Head):
        ...     output_layer = "scores"
        ...
        ...     def __init__(self, kind, feature_dim, outputs):
        ...         super().__init__()
        ...         self.scores = torch.nn.Linear(feature_dim * (2 if kind == "fr" else 1), outputs)
        ...
        ...     def forward(self, features):
        ...         return self.scores(features)
        >>> tuple(Linear("nr", 512, outputs=2)(torch.rand(4, 512)).shape)
        (4, 2)
    """

    output_layer: str = ""

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, n) of features (B, D) or (B, 2 D)."""
        raise NotImplementedError

    def deviations(self, features: Tensor) -> Tensor:
        """Standard deviations (B, n) of people's mean ratings about the scores of features, as `forward` takes them.

        Raises:
            InputError: the head does not know; one from `aigciqa.fit_head` does.
        """
        raise InputError("how uncertain its scores are, only a head from `aigciqa fit` knows; leave uncertainty out")

    def score_map(self, maps: Tensor, features: Tensor, index: int) -> Tensor:
        """The score of one dimension, position by position: the head's slope at the features, applied at each position.

        A score of a piecewise linear head, such as one with ReLU, is split among the positions without remainder.

        Args:
            maps: (B, C, h, w), the generated image's local features, whose mean over (h, w) is about its features.
            features: (B, D) or (B, 2 D), as `forward` takes them.
            index: which of the n dimensions.

        Returns:
            (B, h, w), whose mean over (h, w) is that score as `forward` computes it.
        """
        with torch.inference_mode(False), torch.enable_grad():
            at = features.detach().clone().requires_grad_()
            (slope,) = torch.autograd.grad(self(at)[:, index].sum(), at)
        contribution: Tensor = torch.einsum("bc,bchw->bhw", slope[:, : maps.shape[1]], maps)
        rest: Tensor = self(features)[:, index] - contribution.mean(dim=(1, 2))
        return contribution + rest[:, None, None]


def head_input(features: Tensor, references: Tensor | None) -> Tensor:
    """What a head reads: features (B, D); with those of references, (B, D) or (1, D): [generated, reference]."""
    if references is None:
        return features
    if references.shape[0] not in (1, features.shape[0]):
        raise unequal(features.shape[0], references.shape[0])
    return torch.cat([features, references.expand_as(features)], dim=1)


def check_features(references: object, length: int) -> None:
    """Raise TypeError or InputError unless they are features of references, (B, length)."""
    expected = f"reference_features are what encode() returns, a tensor (B, {length})"
    if not isinstance(references, Tensor):
        raise TypeError(f"{expected}; got {type(references).__name__}")
    if references.dim() != 2 or references.shape[1] != length:
        raise InputError(f"{expected}; got {tuple(references.shape)}")


def unequal(images: int, references: int) -> InputError:
    """The error of images that have not a reference each."""
    given = f"{counted(images, 'image')} but {counted(references, 'reference')}"
    return InputError(f"{given}: pass one reference for each image")
