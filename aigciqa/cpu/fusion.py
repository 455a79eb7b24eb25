"""A traced network made faster: batch normalisation folded into convolutions, which on a CPU also add and rectify.

An operation of its own reads and writes all feature maps once more. oneDNN adds a residual and rectifies while the
result is in the cache, with weights laid out for the size of images that the network sees.

Only what the graph proves to be the same is touched: plain torch modules, results that nobody else reads, operations
that follow each other at once, so that nothing can change a tensor in between.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from aigciqa.backbones.efficientnet import pad_same, same_padding

_ADDITIONS = (operator.add, operator.iadd, torch.add)


def fold_normalisation(network: fx.GraphModule) -> None:
    """Put batch normalisation into the convolutions before it.

    A convolution that is called twice, or whose weights the network also reads by themselves, stays as it is. The
    network is traced in evaluation mode, never to be trained.
    """
    modules = dict(network.named_modules())
    calls = Counter(node.target for node in network.graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in network.graph.nodes if node.op == "get_attr"}
    for node in network.graph.nodes:
        if type(_module(node, modules)) is not nn.Conv2d or calls[node.target] > 1 or node.target in read:
            continue
        user = _sole_user(node)
        normalisation = _module(user, modules)
        if user is None or type(normalisation) is not nn.BatchNorm2d or not normalisation.track_running_stats:
            continue
        network.set_submodule(node.target, fuse_conv_bn_eval(modules[node.target], normalisation))
        user.replace_all_uses_with(node)
        network.graph.erase_node(user)
    network.delete_all_unused_submodules()
    network.recompile()


def fuse_convolutions(network: fx.GraphModule, example: Tensor, batch: int) -> None:
    """Fuse the convolutions of a network with what follows them; where this torch can't, the network stays as it is.

    Args:
        network: traced, on the CPU, never to be trained.
        example: a few images of the size, memory format and dtype that it will read. It reads others too, only slower.
        batch: how many images it will mostly read at once.
    """
    from torch.fx.passes.shape_prop import ShapeProp

    try:
        with torch.inference_mode():
            ShapeProp(network).propagate(example)
            chains = list(_chains(network, batch))
            if chains:
                chains[0].fused(torch.zeros_like(example))
    except (AttributeError, RuntimeError, TypeError):  # no oneDNN, or no kernels for this dtype on this processor
        return
    for number, chain in enumerate(chains):
        _replace(network, chain, f"fused{number}")
    network.graph.lint()
    network.delete_all_unused_submodules()
    network.recompile()


class FusedConvolution(nn.Module):
    """A convolution of maps of a shape (B, C, h, w), a residual if there is one, and a rectifier if given."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None, shape: torch.Size) -> None:
        super().__init__()
        where = (convolution.padding, convolution.stride, convolution.dilation)
        self.geometry: tuple[Any, ...] = (*where, convolution.groups)
        lay_out: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
        self.weight = lay_out(convolution.weight.detach().to_mkldnn(), *self.geometry, list(shape))
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self.activation: tuple[str, list[float]] = ("none", [])
        if isinstance(activation, nn.ReLU6):
            self.activation = ("hardtanh", [0.0, 6.0])
        elif isinstance(activation, nn.LeakyReLU):
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


class PaddedConvolution(nn.Module):
    """A convolution behind TensorFlow's "same" padding, without a padded copy of the maps.

    Where one row and column more goes after than before, a kernel that begins with zeros does the same with equal
    padding. Maps of a size that is padded otherwise are copied.
    """

    def __init__(
        self, convolution: nn.Conv2d, activation: nn.Module | None, size: tuple[int, int], shape: torch.Size
    ) -> None:
        super().__init__()
        self.size = size  # kernel and stride
        self.padding = same_padding(shape[-1], *size)
        padded = torch.Size((*shape[:2], *(side + sum(self.padding) for side in shape[2:])))
        self.padded = FusedConvolution(convolution, activation, padded)
        grown = copy.deepcopy(convolution)
        grown.weight = nn.Parameter(functional.pad(convolution.weight.detach(), (1, 0, 1, 0)), requires_grad=False)
        grown.padding = (self.padding[1],) * 2
        self.grown = FusedConvolution(grown, activation, shape)

    def forward(self, maps: Tensor, residual: Tensor | None = None) -> Tensor:
        before, after = self.padding
        if after == before + 1 and all(same_padding(side, *self.size) == self.padding for side in maps.shape[2:]):
            found: Tensor = self.grown(maps, residual)
        else:
            found = self.padded(pad_same(maps, *self.size), residual)
        return found


@dataclass(frozen=True)
class _Chain:
    """Nodes that become one: perhaps padding, a convolution, perhaps an addition, perhaps an activation."""

    padding: fx.Node | None
    convolution: fx.Node
    addition: fx.Node | None
    activation: fx.Node | None
    fused: FusedConvolution | PaddedConvolution

    @property
    def source(self) -> Any:
        """What the chain reads."""
        return (self.padding or self.convolution).args[0]

    def residual(self) -> tuple[Any, ...]:
        if self.addition is None:
            return ()
        one, other = self.addition.args
        return (other,) if one is self.convolution else (one,)


def _chains(network: fx.GraphModule, batch: int) -> Iterator[_Chain]:
    modules = dict(network.named_modules())
    for node in network.graph.nodes:
        convolution = _module(node, modules)
        if type(convolution) is not nn.Conv2d or convolution.padding_mode != "zeros":
            continue
        if isinstance(convolution.padding, str):
            continue
        addition = _next(node)
        if addition is not None and not _is_addition(addition, node):
            addition = None
        user = _next(addition or node)
        activation = _module(user, modules)
        if type(activation) not in ((nn.ReLU,) if addition is not None else (nn.ReLU, nn.ReLU6, nn.LeakyReLU)):
            user = activation = None  # after an addition oneDNN does no other activation
        padding = _same_padding(node)
        source: Any = (padding or node).args[0]
        shape = torch.Size((batch, *source.meta["tensor_meta"].shape[1:]))
        fused: FusedConvolution | PaddedConvolution
        if padding is None:
            fused = FusedConvolution(convolution, activation, shape)
        else:
            size: Any = padding.args[1:]
            fused = PaddedConvolution(convolution, activation, size, shape)
        yield _Chain(padding, node, addition, user, fused)


def _same_padding(convolution: fx.Node) -> fx.Node | None:
    """The node that pads what a convolution alone reads, if it is `pad_same`."""
    node: Any = convolution.args[0]
    is_padding = node.op == "call_function" and node.target is pad_same and not node.kwargs
    return node if is_padding and _sole_user(node) is convolution else None


def _is_addition(node: fx.Node, convolution: fx.Node) -> bool:
    """Whether a node adds a tensor of the same kind to a convolution's result, and changes no other tensor."""
    if node.target not in _ADDITIONS or node.kwargs:
        return False
    one, other = node.args
    residual = other if one is convolution else one
    is_changed = node.target is operator.iadd and one is residual
    return residual is not convolution and not is_changed and _kind(residual) == _kind(convolution)


def _replace(network: fx.GraphModule, chain: _Chain, name: str) -> None:
    nodes = [node for node in (chain.padding, chain.convolution, chain.addition, chain.activation) if node is not None]
    network.add_submodule(name, chain.fused)
    with network.graph.inserting_after(nodes[-1]):
        fused = network.graph.call_module(name, (chain.source, *chain.residual()))
    nodes[-1].replace_all_uses_with(fused)
    for node in reversed(nodes):
        network.graph.erase_node(node)


def _module(node: fx.Node | None, modules: dict[str, nn.Module]) -> nn.Module | None:
    """The module that a node calls, with one tensor and no more; None if it does something else."""
    if node is None or node.op != "call_module" or len(node.args) != 1 or node.kwargs:
        return None
    return modules[str(node.target)]


def _kind(node: Any) -> tuple[Any, Any]:
    """Shape and dtype of the tensor that a node gives; None twice if it gives none."""
    metadata = node.meta.get("tensor_meta") if isinstance(node, fx.Node) else None
    return getattr(metadata, "shape", None), getattr(metadata, "dtype", None)


def _sole_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _next(node: fx.Node) -> fx.Node | None:
    """The only user of a node, if it follows at once."""
    return node.next if _sole_user(node) is node.next else None
