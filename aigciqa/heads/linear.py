"""A linear head, fitted to few ratings, which also says how sure it is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from aigciqa.heads.base import Head

#: Directions of the features in which a head remembers what it knows.
DIRECTIONS = 64


class LinearHead(Head):
    """Features (B, D) -> scores (B, n). Full-reference: of [generated, generated - reference], (B, 2 D).

    A rating deviates from its score by `std^2 = noise + prior * (|z|^2 - sum over r of shrink_r * (basis_r . z)^2)`,
    `z = (features - centre) * scale`: a Gaussian process's, whose kernel is linear.
    """

    output_layer = "scores"
    centre: Tensor
    scale: Tensor
    basis: Tensor
    shrink: Tensor
    prior: Tensor
    noise: Tensor

    def __init__(self, kind: str, feature_dim: int, outputs: int) -> None:
        super().__init__()
        self.is_comparing = kind == "fr"
        inputs = 2 * feature_dim if self.is_comparing else feature_dim
        self.scores = nn.Linear(inputs, outputs)
        self.register_buffer("centre", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(inputs))
        self.register_buffer("basis", torch.zeros(DIRECTIONS, inputs))
        self.register_buffer("shrink", torch.zeros(outputs, DIRECTIONS))
        self.register_buffer("prior", torch.zeros(outputs))
        self.register_buffer("noise", torch.zeros(outputs))

    def inputs(self, features: Tensor) -> Tensor:
        """What the scores are linear in: (B, D) or (B, 2 D)."""
        if not self.is_comparing:
            return features
        generated, reference = features.chunk(2, dim=1)
        return torch.cat([generated, generated - reference], dim=1)

    def forward(self, features: Tensor) -> Tensor:
        return functional.linear(self.inputs(features).float(), self.scores.weight.float(), self.scores.bias.float())

    def deviations(self, features: Tensor) -> Tensor:
        z = (self.inputs(features).float() - self.centre.float()) * self.scale.float()
        known = (z @ self.basis.float().T).square() @ self.shrink.float().T
        unknown = (z.square().sum(dim=1, keepdim=True) - known).clamp(min=0)
        return (self.noise.float() + self.prior.float() * unknown).sqrt()


build = LinearHead
