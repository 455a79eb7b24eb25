"""Generated images and prompts through a backbone at the same time, each on half of the cores."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aigciqa.backbones.base import Backbone
from aigciqa.backbones.efficientnet import EfficientNetLite2
from aigciqa.backbones.inceptionv4 import InceptionV4
from aigciqa.backbones.resnet import ResNet
from aigciqa.backbones.vgg import VGG

#: Backbones whose passes may run at the same time: nothing in them is random, and nothing but batch normalisation keeps
#: a state.
SIDE_BY_SIDE: tuple[type[Backbone], ...] = (EfficientNetLite2, InceptionV4, ResNet, VGG)
#: Encodes pixels with a backbone.
Encode = Callable[[Backbone, Tensor], Tensor]


class SideBySide:
    """Two passes, with their gradients, of threads that wait for each other once a step instead of once a layer.

    Bit for bit the same from run to run. Batch normalisation sees the parts apart, and its running statistics take
    in the first part, then the second.
    """

    def __init__(self, backbone: Backbone, encode: Encode, dtype: torch.dtype) -> None:
        """Args: a backbone of a class in `SIDE_BY_SIDE`, what a pass is, and what its convolutions compute in."""
        self.encode = encode
        self.parameters = list(backbone.parameters())
        # What the passes read: the parameters, but of convolutions copies in `dtype`, which both share.
        self.leaves = {id(parameter): parameter for parameter in self.parameters}
        for module in backbone.modules():
            if type(module) is nn.Conv2d and dtype != module.weight.dtype:
                own = (module._parameters.get(name) for name in ("weight", "bias"))
                self.leaves |= {id(each): nn.Parameter(each.detach().to(dtype)) for each in own if each is not None}
        buffers = {id(buffer): buffer for buffer in backbone.buffers()}
        first = copy.deepcopy(backbone, {**self.leaves, **buffers}).train()
        counted = {id(buffer) for module in _normalisations(first) for buffer in module.buffers()}
        shared = {key: buffer for key, buffer in buffers.items() if key not in counted}
        self.backbones = [first, copy.deepcopy(backbone, {**self.leaves, **shared}).train()]
        self.normalisations = list(zip(*map(_normalisations, self.backbones), strict=True))
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
        for _, other in self.normalisations:
            other.reset_running_stats()
            other.get_buffer("running_var").zero_()
        features: Any = _Passes.apply(self, parts, *self.parameters)
        for first, other in self.normalisations:
            _count(first, other)
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
        def run(features: Tensor, gradient: Tensor) -> tuple[Tensor | None, ...]:
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(features, leaves, gradient, allow_unused=True)
            return gradients

        leaves = tuple(ctx.owner.leaves.values())
        parts = zip(*ctx.owner.map(run, ctx.features, gradients), ctx.owner.parameters, strict=True)
        return (None, None, *(_sum(first, other, parameter.dtype) for first, other, parameter in parts))


def _sum(first: Tensor | None, other: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The sum of two gradients; None where a parameter takes no part in either pass."""
    if first is None or other is None:
        given = other if first is None else first
        return None if given is None else given.to(dtype)
    return first.to(dtype).add_(other)


def _normalisations(backbone: Backbone) -> list[_BatchNorm]:
    """Those that count batches."""
    modules = (module for module in backbone.modules() if isinstance(module, _BatchNorm))
    return [module for module in modules if module.training and module.running_mean is not None]


def _count(first: _BatchNorm, other: _BatchNorm) -> None:
    """Let the running statistics of one layer take in what the same layer, starting at zero, saw in the other pass."""
    before, batches = (int(module.get_buffer("num_batches_tracked")) for module in (first, other))
    if first.momentum is not None:
        kept, taken = (1 - first.momentum) ** batches, 1.0
    else:  # the mean over all batches
        kept, taken = before / (before + batches), batches / (before + batches)
    for name in ("running_mean", "running_var"):
        # As the layer itself does it: autograd, which keeps the buffer, does not count it as a change.
        first.get_buffer(name).data.mul_(kept).add_(other.get_buffer(name), alpha=taken)
    first.get_buffer("num_batches_tracked").add_(batches)
