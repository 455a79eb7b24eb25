"""VGG16 and VGG19 (Simonyan and Zisserman 2015): torchvision's convolutional part, global average pooling after it.

Only `features` is ever built: the ImageNet classifier holds 124 of VGG16's 138 million parameters.
"""

from __future__ import annotations

from torch import Tensor, nn

from aigciqa.backbones.base import Backbone

_LAYERS = {"vgg16": "D", "vgg19": "E"}  # the configurations of the VGG paper's table 1


class VGG(Backbone):
    """torchvision's VGG `features`: (B, 3, H, W) -> (B, 512, H/32, W/32)."""

    feature_dim = 512

    def __init__(self, name: str) -> None:
        super().__init__()
        from torchvision.models import vgg

        self.features = vgg.make_layers(vgg.cfgs[_LAYERS[name]], batch_norm=False)
        for module in self.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.features(images)
        return maps


def build(name: str) -> Backbone:
    """Build `vgg16` or `vgg19`."""
    return VGG(name)
