"""Any model of timm as a backbone: the maps of its `forward_features`, also where they come as tokens.

A model is found by its name in timm's own table, never by an address, since names come from checkpoints, too.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from aigciqa.backbones.base import Backbone
from aigciqa.errors import InputError
from aigciqa.registry import TIMM, timm_config


class TimmBackbone(Backbone):
    """A model of timm without its classifier: (B, 3, H, W) -> (B, C, h, w).

    Channels that come last are put first. Tokens are put back on their grid; those before them (class, registers) are
    left out.

    Attributes:
        trunk: timm's model.
    """

    trunk: Any

    def __init__(self, name: str) -> None:
        super().__init__()
        model = name.removeprefix(TIMM)
        side = min(timm_config(model).input_size[1:])
        import timm

        self.trunk = timm.create_model(model, num_classes=0).eval()
        self.feature_dim = self.trunk.num_features
        #: Pixels between tokens, and how many come before those of the grid; 0 where features come as maps.
        self.stride = self.prefix = 0
        self.has_channels_last = False
        found: Any = self._without_values(side)
        if isinstance(found, Tensor) and found.dim() == 3:
            tokens = found.shape[1]
            own: Any = getattr(self.trunk, "num_prefix_tokens", None)
            self.prefix = tokens - math.isqrt(tokens) ** 2 if own is None else own
            self.stride = side // math.isqrt(tokens - self.prefix)
        elif isinstance(found, Tensor) and found.dim() == 4:
            self.has_channels_last = found.shape[1] != self.feature_dim
        self.is_convolutional = not (self.stride or self.has_channels_last)
        if not self._reads(side):
            raise InputError(f"timm's {model} can't be a backbone: its features are not maps, nor tokens of a grid")
        self.input_side = None if self._reads(2 * side) else side
        self.train()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.trunk.forward_features(images)
        if self.stride:
            rows, columns = (-(-side // self.stride) for side in images.shape[2:])
            return found[:, self.prefix :].transpose(1, 2).reshape(-1, self.feature_dim, rows, columns)
        return found.permute(0, 3, 1, 2) if self.has_channels_last else found

    def _reads(self, side: int) -> bool:
        """Whether maps of more than one position come of square images of a size."""
        try:
            maps = self._without_values(side)
        except Exception:  # whatever models raise
            return False
        if not isinstance(maps, Tensor) or maps.dim() != 4:
            return False
        return maps.shape[1] == self.feature_dim and min(maps.shape[2:]) > 1

    @torch.no_grad()
    def _without_values(self, side: int) -> Tensor:
        """Maps of square images: their shape, without values, which costs no time."""
        state = itertools.chain(self.named_parameters(), self.named_buffers())
        shapes = {name: tensor.to("meta") for name, tensor in state}
        maps: Tensor = functional_call(self, shapes, torch.empty(2, 3, side, side, device="meta"))
        return maps


def build(name: str) -> Backbone:
    """Build `timm/<model>`."""
    return TimmBackbone(name)
