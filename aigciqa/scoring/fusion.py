"""Convolutions that add and rectify in the same pass, by oneDNN, for networks that run on a CPU.

An operation of its own reads and writes all feature maps once more. oneDNN adds a residual and rectifies while the
result is in the cache, with weights laid out for the size of pictures that the network sees.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

_ADDITIONS = (operator.add, operator.iadd, torch.add)


def fuse_convolutions(network: fx.GraphModule, example: Tensor) -> None:
    """Fuse the convolutions of a network with what follows them; where this torch can't, the network stays as it is.

    Args:
        network: traced, on the CPU, never to be trained.
        example: pictures of the shape, memory format and dtype that it will read. It reads others too, only slower.
    """
    from torch.fx.passes.shape_prop import ShapeProp

    try:
        with torch.inference_mode():
            ShapeProp(network).propagate(example)
            chains = list(_chains(network))
            if chains:
                chains[0].fused(torch.zeros_like(example))
    except (
        AttributeError,
        RuntimeError,
        TypeError,
    ):  # built without oneDNN, or no kernels for this dtype on this processor
        return
    for number, chain in enumerate(chains):
        _replace(network, chain, f"fused{number}")
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


class FusedConvolution(nn.Module):
    """A convolution, the addition of a residual if there is one, and an activation if there is one.

    Args:
        convolution: padded with a number of zeros.
        activation: `nn.ReLU`, `nn.LeakyReLU` or None.
        shape: (B, C, h, w) of the maps to be read.
    """

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None, shape: torch.Size) -> None:
        super().__init__()
        where = (convolution.padding, convolution.stride, convolution.dilation)
        self.geometry: tuple[Any, ...] = (*where, convolution.groups)
        lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight = lay_out(convolution.weight.detach().to_mkldnn(), *self.geometry, list(shape))
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.activation: tuple[str, list[float]] = ("none", [])
        if isinstance(activation, nn.LeakyReLU):
            self.activation = ("leaky_relu", [activation.negative_slope])
        elif activation is not None:
            self.activation = ("relu", [])

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        run: Any = torch.ops.mkldnn._convolution_pointwise
        common = (self.weight, self.bias, *self.geometry)
        name, constants = self.activation
        if residual is None:
            result: Tensor = run(maps, *common, name, constants, "")
        else:
            result = run.binary(maps, residual, *common, "add", 1.0, None if name == "none" else name, constants, None)
        return result


@dataclass(frozen=True)
class _Chain:
    """Nodes that become one: a convolution, perhaps an addition, perhaps an activation."""

    convolution: fx.Node
    addition: fx.Node | None
    activation: fx.Node | None
    fused: FusedConvolution

    def residual(self) -> tuple[Any, ...]:
        """What is added to the convolution's result."""
        if self.addition is None:
            return ()
        one, other = self.addition.args
        return (other,) if one is self.convolution else (one,)


def _chains(network: fx.GraphModule) -> Iterator[_Chain]:
    modules = dict(network.named_modules())
    place = {node: index for index, node in enumerate(network.graph.nodes)}
    for node in network.graph.nodes:
        convolution = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(convolution, nn.Conv2d) or isinstance(convolution.padding, str):
            continue
        if convolution.padding_mode != "zeros":
            continue
        addition = _sole_user(node)
        # Of two convolutions that are added, the later one takes the other's maps as its residual.
        if addition is not None and not (
            addition.target in _ADDITIONS
            and not addition.kwargs
            and all(place.get(arg, len(place)) <= place[node] and _shape(arg) == _shape(node) for arg in addition.args)
        ):
            addition = None
        user = _sole_user(addition or node)
        activation = modules.get(str(user.target)) if user is not None and user.op == "call_module" else None
        if not isinstance(activation, nn.ReLU if addition is not None else (nn.ReLU, nn.LeakyReLU)):
            user = activation = None  # after an addition oneDNN does no other activation
        yield _Chain(node, addition, user, FusedConvolution(convolution, activation, _shape(node.args[0])))


def _replace(network: fx.GraphModule, chain: _Chain, name: str) -> None:
    nodes = [node for node in (chain.convolution, chain.addition, chain.activation) if node is not None]
    network.add_submodule(name, chain.fused)
    with network.graph.inserting_after(nodes[-1]):
        fused = network.graph.call_module(name, (chain.convolution.args[0], *chain.residual()))
    nodes[-1].replace_all_uses_with(fused)
    for node in reversed(nodes):
        network.graph.erase_node(node)


def _shape(node: Any) -> Any:
    """Of the tensor that a node gives; None if it gives none."""
    return getattr(node.meta.get("tensor_meta"), "shape", None)


def _sole_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None
