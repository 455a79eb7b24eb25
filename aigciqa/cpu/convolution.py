"""Convolutions as matrix products, where a CPU trains faster with those."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

#: Positions of an output map up to which a matrix product pays: of kernels of one position, and of larger ones, whose
#: patches have to be copied first. From the times of ResNet50's layers, batches of 8 to 32, a CPU with AVX512-BF16.
POINTWISE_POSITIONS, KERNEL_POSITIONS = 28 * 28, 8 * 8


class Convolution(nn.Conv2d):
    """A convolution that trains in bfloat16 on the CPU.

    On small maps with many channels, oneDNN's convolutions spend much of the backward pass on the layout of the
    weights and their gradients. The same sums are matrix products there.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self._pays(input):
            return super().forward(input)
        maps: Tensor = _Product.apply(input, self.weight.to(input.dtype), self.stride, self.padding)
        return maps

    def _pays(self, maps: Tensor) -> bool:
        if maps.dtype != torch.bfloat16 or maps.dim() != 4 or not torch.is_grad_enabled():
            return False
        if isinstance(self.padding, str):
            return False
        is_plain = self.bias is None and self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        sides = zip(maps.shape[2:], self.padding, self.kernel_size, self.stride, strict=True)
        height, width = ((side + 2 * padding - kernel) // stride + 1 for side, padding, kernel, stride in sides)
        is_pointwise = self.kernel_size == (1, 1) and self.padding == (0, 0)
        return is_plain and height * width <= (POINTWISE_POSITIONS if is_pointwise else KERNEL_POSITIONS)


def use_products(backbone: nn.Module) -> None:
    """Make `Convolution`s of the convolutions of a backbone, in place: weights and their names stay."""
    for module in backbone.modules():
        if type(module) is nn.Conv2d:
            module.__class__ = Convolution


class _Product(torch.autograd.Function):
    """A convolution without bias. Maps are (B, C, h, w), weights (O, C, kh, kw), both channels last in memory."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weights: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
        ctx.shape, ctx.stride, ctx.padding = maps.shape, stride, padding
        ctx.is_pointwise = weights.shape[2:] == (1, 1) and padding == (0, 0)
        if not ctx.is_pointwise:
            ctx.save_for_backward(maps, weights)
            return F.conv2d(maps, weights, None, stride, padding)
        seen = maps[:, :, :: stride[0], :: stride[1]].contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(seen, weights)
        # Written into maps of its own: a view of the product could not be changed in place by what follows.
        shape = (seen.shape[0], weights.shape[0], *seen.shape[2:])
        made = torch.empty(shape, dtype=seen.dtype, memory_format=torch.channels_last)
        torch.mm(_rows(seen), weights.flatten(1).t(), out=_rows(made))
        return made

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        maps, weights = ctx.saved_tensors
        rows = _rows(gradient)
        if ctx.is_pointwise:
            of_maps = _maps(rows @ weights.flatten(1), maps)
            if of_maps.shape != ctx.shape:
                of_seen, of_maps = of_maps, of_maps.new_zeros(ctx.shape).to(memory_format=torch.channels_last)
                of_maps[:, :, :: ctx.stride[0], :: ctx.stride[1]] = of_seen
            return of_maps, (rows.t() @ _rows(maps)).view(weights.shape), None, None
        of_maps = conv2d_input(ctx.shape, weights, gradient, ctx.stride, ctx.padding)  # type: ignore[no-untyped-call]
        patches = _patches(maps, weights.shape[2:], gradient.shape[2:], ctx.stride, ctx.padding)
        of_weights = (rows.t() @ patches).view(weights.shape[0], *weights.shape[2:], -1).permute(0, 3, 1, 2)
        return of_maps, of_weights, None, None


def _rows(maps: Tensor) -> Tensor:
    """Maps (B, C, h, w) as a matrix (B h w, C)."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _maps(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_rows`: as many images and positions as `like` has."""
    return rows.view(like.shape[0], *like.shape[2:], -1).permute(0, 3, 1, 2)


def _patches(
    maps: Tensor, kernel: torch.Size, positions: torch.Size, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """What the kernel sees (B h w, kh kw C) at each position of the output."""
    padded = F.pad(maps.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0]))
    height, width = ((count - 1) * step + 1 for count, step in zip(positions, stride, strict=True))
    return torch.cat(
        [
            padded[:, top : top + height : stride[0], left : left + width : stride[1]].flatten(0, 2)
            for top in range(kernel[0])
            for left in range(kernel[1])
        ],
        dim=1,
    )
