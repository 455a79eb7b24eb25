"""oneDNN's own layout of tensors, in which a CPU trains some backbones fastest in float32."""

from __future__ import annotations

from torch import nn

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.resnet import ResNet
from aigciqa.backbones.vgg import VGG


def has_blocked_layout(backbone: Backbone) -> bool:
    """Whether all operations of a backbone exist for tensors in that layout (`Tensor.to_mkldnn`)."""
    is_leaky = any(isinstance(module, nn.LeakyReLU) for module in backbone.modules())
    return isinstance(backbone, (ResNet, VGG)) and not is_leaky
