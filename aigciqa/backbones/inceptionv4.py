"""InceptionV4 (Szegedy et al. 2017) as pretrainedmodels has it, without the classifier.

pretrainedmodels is imported here and nowhere else: the import costs about a second and draws from torch's global
random generator, so it runs inside `fork_rng`. Its own pooling is fixed to 299 x 299 inputs; ours is global.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aigciqa.backbones.base import Backbone


class InceptionV4(Backbone):
    """pretrainedmodels' InceptionV4 `features`: (B, 3, 299, 299) -> (B, 1536, 8, 8)."""

    feature_dim = 1536

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            from pretrainedmodels.models.inceptionv4 import InceptionV4 as Trunk

        self.features = Trunk(num_classes=1).features
        for module in self.features.modules():
            if isinstance(module, nn.Conv2d):  # torch's default would let the signal die out over the 149 layers
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.features(images)
        return maps


def build(name: str) -> Backbone:
    """Build `inceptionv4`."""
    return InceptionV4()
