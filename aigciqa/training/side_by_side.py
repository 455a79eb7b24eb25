"""Generated pictures and prompts through a backbone at the same time, each on half of the cores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from aigciqa.backbones.base import Backbone

#: Encodes pixels with a backbone.
Encode = Callable[[Backbone, Tensor], Tensor]


class SideBySide:
    """Two passes, with their gradients, of threads that wait for each other once a step instead of once a layer.

    Bit for bit the same from run to run. Batch normalisation sees the parts apart, and its running statistics take
    in the first part, then the second.
    """

    def __init__(self, backbone: Backbone, encode: Encode, dtype: torch.dtype) -> None:
        """Args: a backbone that `runs_side_by_side`, what a pass is, and what its convolutions compute in."""
        self.encode = encode
        self.parameters = list(backbone.parameters())
        # What the passes read: the parameters, but of convolutions copies in `dtype`, which both share.
        self.leaves = {id(parameter): parameter for parameter in self.parameters}
        for module in backbone.modules():
            if isinstance(module, nn.Conv2d) and dtype != module.weight.dtype:
                self.leaves |= {id(each): nn.Parameter(each.detach().to(dtype)) for each in module.parameters()}
        buffers = {id(buffer): buffer for buffer in backbone.buffers()}
        self.backbones = [copy.deepcopy(backbone, {**self.leaves, **kept}).train() for kept in (buffers, {})]
        self.normalisations = list(zip(*map(_normalisations, self.backbones), strict=True))
        for _, other in self.normalisations:
            other.momentum = 1.0  # its running statistics are those of the last batch
        self.threads: ThreadPoolExecutor | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Have the threads as long as the block lasts."""
        cores = torch.get_num_threads()
        with ThreadPoolExecutor(2, "aigciqa-pass", torch.set_num_threads, (cores // 2,)) as self.threads:
            try:
                yield
            finally:
                torch.set_num_threads(cores)  # the threads set it for those that are started after them, too

    def features(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Features (B, D) of both parts, pixels as `encode` takes them."""
        for leaf, parameter in zip(self.leaves.values(), self.parameters, strict=True):
            if leaf is not parameter:
                leaf.detach().copy_(parameter.detach())
        features: Any = _Passes.apply(self, parts, *self.parameters)
        for first, other in self.normalisations:
            for name in ("running_mean", "running_var"):
                # As the layer itself does it: autograd, which keeps the buffer, does not count it as a change.
                statistics = first.get_buffer(name).data
                statistics.mul_(1 - first.momentum).add_(other.get_buffer(name), alpha=first.momentum)
            first.num_batches_tracked += 1
        return list(features)

    def map(self, function: Callable[..., Any], *columns: Sequence[Any]) -> list[Any]:
        """A call for each pass, at the same time."""
        assert self.threads is not None
        return list(self.threads.map(function, *columns))


class _Passes(torch.autograd.Function):
    """Both passes, as one step of the graph whose inputs are the backbone's parameters."""

    @staticmethod
    def forward(ctx: Any, owner: SideBySide, parts: Sequence[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        dtype, is_mixed = torch.get_autocast_dtype("cpu"), torch.is_autocast_enabled("cpu")

        def run(backbone: Backbone, part: Tensor) -> Tensor:
            with torch.enable_grad(), torch.autocast("cpu", dtype, enabled=is_mixed, cache_enabled=False):
                return owner.encode(backbone, part)

        ctx.owner = owner
        ctx.features = owner.map(run, owner.backbones, parts)
        return tuple(each.detach() for each in ctx.features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def run(features: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
            gradients: tuple[Tensor, ...] = torch.autograd.grad(features, leaves, gradient)
            return gradients

        leaves = tuple(ctx.owner.leaves.values())
        parts = zip(*ctx.owner.map(run, ctx.features, gradients), ctx.owner.parameters, strict=True)
        return (None, None, *(first.to(parameter.dtype).add_(other) for first, other, parameter in parts))


def _normalisations(backbone: Backbone) -> list[nn.BatchNorm2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
