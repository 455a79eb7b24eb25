"""What every backbone is: images in, feature maps out, and a pooling of the maps."""

from __future__ import annotations

from torch import Tensor, nn

from aigciqa.errors import InputError


class OptionError(InputError):
    """An option that a backbone does not have, or a value that it does not take."""


class Backbone(nn.Module):
    """A feature extractor.

    Subclasses set `feature_dim` and implement `forward`. Those whose features are not the plain spatial mean of
    their maps override `pool`; those that look at a sample of positions override `dense`.

    Attributes:
        feature_dim: D, the length of the feature vector of one image.
        input_side: side of the square images that are the only ones it can read; None if it reads any size.
        is_convolutional: whether scoring rearranges its convolutions to be faster; False for transformers.

    Example:
        >>> import torch
        >>> from aigciqa.backbones import Backbone
        >>> class Small(Backbone):
        ...     feature_dim = 8
        ...
        ...     def __init__(self, name):
        ...         super().__init__()
        ...         self.layer = torch.nn.Conv2d(3, 8, kernel_size=32, stride=32)
        ...
        ...     def forward(self, images):
        ...         return self.layer(images)
        >>> backbone = Small("small")
        >>> tuple(backbone.pool(backbone(torch.rand(2, 3, 224, 224))).shape)
        (2, 8)
    """

    feature_dim: int
    input_side: int | None = None
    is_convolutional: bool = True

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) of images (B, 3, H, W), preprocessed as the backbone's `Preprocess` says."""
        raise NotImplementedError

    def pool(self, maps: Tensor) -> Tensor:
        """Features (B, D) of feature maps (B, C, h, w): global average pooling, unless overridden."""
        return maps.mean(dim=(2, 3))

    @property
    def inner_dim(self) -> int:
        """C, the number of channels of `inner_maps`."""
        return self.feature_dim

    def inner_maps(self, images: Tensor) -> Tensor:
        """Feature maps (B, C, h, w) whose statistics `aigciqa.fit_head` reads: `forward`'s, unless overridden."""
        maps: Tensor = self(images)
        return maps

    def local_features(self, maps: Tensor) -> Tensor:
        """Features position by position (B, D, h, w), whose mean is about `pool(maps)`: the maps, unless overridden."""
        return maps

    def dense(self, images: Tensor) -> Tensor:
        """Feature maps fine enough to draw a quality map from: those of `forward`, unless overridden."""
        maps: Tensor = self(images)
        return maps
