"""The head of `nr-efficientnet-lite2`: a linear score that people taught, and the distance to pristine photographs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigciqa.backbones.scene_statistics import STATISTICS
from aigciqa.errors import InputError
from aigciqa.heads.base import Head
from aigciqa.heads.lite import GAUSSIAN_FEATURES, LARGEST, GaussianDistance


class TaughtHead(Head):
    """Features (B, D), of which the first are lite's mean statistics -> score (B, 1) in [0, 5]; always float32."""

    mix: Tensor

    def __init__(self, kind: str, feature_dim: int, outputs: int) -> None:
        super().__init__()
        if kind != "nr" or outputs != 1:
            raise InputError(f"a taught head is of a no-reference metric and predicts one dimension; got {outputs}")
        self.weight = nn.Parameter(torch.zeros(feature_dim))
        self.distance = GaussianDistance(GAUSSIAN_FEATURES)
        #: Weight of the distance, and the offset.
        self.register_buffer("mix", torch.tensor([-1.0, 0.0]))

    def logits(self, features: Tensor) -> Tensor:
        """Scores (B,) before they are bounded to [0, 5]."""
        mix = self.mix.float()
        distance = self.distance(features[:, :STATISTICS])
        logits: Tensor = features @ self.weight.float() + mix[0] * distance + mix[1]
        return logits

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):
            scores: Tensor = LARGEST * torch.sigmoid(self.logits(features.float()))
            return scores[:, None]


build = TaughtHead
