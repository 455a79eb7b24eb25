"""What every head is: features in, scores out, and the scores place by place."""

from __future__ import annotations

from torch import Tensor, nn


class Head(nn.Module):
    """Regresses scores from features.

    Features are (B, D) for a no-reference metric; for a full-reference one (B, 2 D), the generated image's D first,
    the reference's D after them.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Scores (B, n) of features (B, D) or (B, 2 D)."""
        raise NotImplementedError

    def score_map(self, maps: Tensor, features: Tensor, index: int) -> Tensor:
        """The score of one dimension, place by place.

        Args:
            maps: (B, C, h, w), the generated image's dense feature maps.
            features: (B, D) or (B, 2 D), as `forward` takes them.
            index: which of the n dimensions.

        Returns:
            (B, h, w), whose mean over (h, w) is that score as `forward` computes it.
        """
        raise NotImplementedError
