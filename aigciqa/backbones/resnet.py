"""ResNet18 and ResNet50 (He et al. 2016) as torchvision has them, without the classifier.

Parameter names are torchvision's, so its ImageNet files and the paper authors' checkpoints fit.
"""

from __future__ import annotations

from torch import nn

from aigciqa.backbones.base import Backbone
from aigciqa.errors import InputError


class ResNet(nn.Sequential, Backbone):
    """torchvision's ResNet up to `layer4`, its parts in order: (B, 3, H, W) -> (B, D, H/32, W/32)."""

    def __init__(self, name: str, negative_slope: float) -> None:
        super().__init__()
        from torchvision import models

        # Untrained residual branches begin at zero (Goyal et al. 2017): random features keep their size with depth.
        trunk = getattr(models, name)(weights=None, zero_init_residual=True)
        self.feature_dim = trunk.fc.in_features
        for part in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(part, getattr(trunk, part))
        if negative_slope:
            for block in self.modules():
                if isinstance(block, (models.resnet.BasicBlock, models.resnet.Bottleneck)):
                    block.relu = nn.LeakyReLU(negative_slope, inplace=True)


def build(name: str, negative_slope: float = 0.0) -> Backbone:
    """Build `resnet18` or `resnet50`; `negative_slope` is that of the activations inside the residual blocks.

    0 is ReLU. The paper authors' ResNet18 has 0.01 there (and ReLU in the stem), which its checkpoints need.
    """
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, (int, float)) or not 0 <= negative_slope < 1:
        raise InputError(f"negative_slope is {negative_slope!r}; expected a number in [0, 1)")
    return ResNet(name, negative_slope)
