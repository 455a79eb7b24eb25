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

    def __init__(self, backbone: Backbone, encode: Encode) -> None:
        """Args: a backbone that `runs_side_by_side`, and what a pass is."""
        self.encode = encode
        self.parameters = list(backbone.parameters())
        twin = copy.deepcopy(backbone, {id(parameter): parameter for parameter in self.parameters}).train()
        self.backbones = (backbone, twin)
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

        ctx.owner, ctx.parameters = owner, parameters
        ctx.features = owner.map(run, owner.backbones, parts)
        return tuple(each.detach() for each in ctx.features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def run(features: Tensor, gradient: Tensor) -> tuple[Tensor, ...]:
            gradients: tuple[Tensor, ...] = torch.autograd.grad(features, ctx.parameters, gradient)
            return gradients

        first, other = ctx.owner.map(run, ctx.features, gradients)
        torch._foreach_add_(first, other)
        return (None, None, *first)


def _normalisations(backbone: Backbone) -> list[nn.BatchNorm2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
