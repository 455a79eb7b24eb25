"""The paper's regression head: two fully connected layers (PKU-I2IQA, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigciqa.heads.base import Head


class RegressionHead(Head):
    """`Linear(d, d // 2) -> ReLU -> Linear(d // 2, n)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, inputs // 2)
        self.fc2 = nn.Linear(inputs // 2, outputs)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.fc2(torch.relu(self.fc1(features)))
        return scores

    def score_map(self, maps: Tensor, features: Tensor, index: int) -> Tensor:
        # Piecewise linear in a spatial mean: the slope at that mean splits the score into places without remainder.
        active = (self.fc1(features) > 0).to(features.dtype)
        slope = (active * self.fc2.weight[index]) @ self.fc1.weight
        slope = slope[:, : maps.shape[1]]
        contribution = torch.einsum("bc,bchw->bhw", slope, maps)
        rest = self.forward(features)[:, index] - contribution.mean(dim=(1, 2))
        return contribution + rest[:, None, None]
