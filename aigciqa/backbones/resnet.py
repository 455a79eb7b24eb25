"""ResNet18 and ResNet50 (He et al. 2016) as torchvision has them, without the classifier.

Parameter names are torchvision's, so its ImageNet files and the paper authors' checkpoints fit.
"""

from __future__ import annotations

from torch import Tensor, nn

from aigciqa.backbones.base import Backbone


class ResNet(Backbone):
    """torchvision's ResNet up to `layer4`: (B, 3, H, W) -> (B, D, H/32, W/32)."""

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision import models

        # Untrained residual branches begin at zero (Goyal et al. 2017): random features keep their size with depth.
        trunk = getattr(models, name)(weights=None, zero_init_residual=True)
        self.feature_dim = trunk.fc.in_features
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(part, getattr(trunk, part))

    def forward(self, images: Tensor) -> Tensor:
        maps = images
        for part in self.children():
            maps = part(maps)
        return maps


def build(name: str) -> nn.Module:
    """Build `resnet18` or `resnet50`."""
    return ResNet(name)
