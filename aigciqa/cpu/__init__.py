"""What only speed on a CPU needs; the scores are the same without it."""

from __future__ import annotations

from torch import nn

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.resnet import ResNet
from aigciqa.backbones.vgg import VGG


def has_blocked_layout(backbone: Backbone) -> bool:
    """Whether a backbone computes on tensors in oneDNN's own layout (`Tensor.to_mkldnn`), the fastest to train in."""
    is_leaky = any(isinstance(module, nn.LeakyReLU) for module in backbone.modules())
    return isinstance(backbone, (ResNet, VGG)) and not is_leaky
