"""The paper's head: two fully connected layers (PKU-I2IQA, section 4)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigciqa.heads.base import Head


class RegressionHead(Head):
    """`Linear(d, d // 2) -> ReLU -> Linear(d // 2, n)`."""

    output_layer = "fc2"

    def __init__(self, kind: str, feature_dim: int, outputs: int) -> None:
        super().__init__()
        inputs = feature_dim if kind == "nr" else 2 * feature_dim
        self.fc1 = nn.Linear(inputs, inputs // 2)
        self.fc2 = nn.Linear(inputs // 2, outputs)

    def forward(self, features: Tensor) -> Tensor:
        scores: Tensor = self.fc2(torch.relu(self.fc1(features)))
        return scores


build = RegressionHead
