"""Activation checkpointing: feature maps are computed again in the backward pass instead of being kept in memory."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

from aigciqa.backbones.base import Backbone
from aigciqa.errors import InputError

#: A module that holds more of the backbone's parameters is not checkpointed as a whole, but the blocks in it are.
LARGEST_SHARE = 0.5


def checkpointed_forward(backbone: Backbone, images: Tensor) -> Tensor:
    """A backbone's maps (B, C, h, w), and bit for bit its gradients, keeping little more than the maps between blocks.

    The backbone's own `forward` runs, whatever it does. The blocks it calls are checkpointed; an `nn.Sequential` is so
    in stretches. What `forward` computes besides is kept.

    Args:
        backbone: in training mode.
        images: (B, 3, H, W), preprocessed.

    Raises:
        InputError: the input of a block is changed in place, so that the block can't be computed again.
    """
    blocks = _Checkpointed(backbone)
    with blocks.running():
        maps: Tensor = backbone(images)
        blocks.check_inputs()
    return maps


class _Checkpointed:
    """A backbone's blocks during one forward pass."""

    def __init__(self, backbone: Backbone) -> None:
        self.largest = LARGEST_SHARE * _size(backbone)
        self.names = {module: name for name, module in backbone.named_modules()}
        #: Module -> what runs instead of its forward.
        self.forwards: dict[nn.Module, Callable[..., Any]] = {}
        #: Blocks, their inputs, and the versions of these.
        self.inputs: list[tuple[nn.Module, Tensor, int]] = []
        self._open(backbone)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Have the blocks checkpointed meanwhile."""
        before = {module: vars(module).get("forward") for module in self.forwards}
        try:
            for module, forward in self.forwards.items():
                vars(module)["forward"] = forward
            yield
        finally:
            for module, own in before.items():
                del vars(module)["forward"]
                if own is not None:
                    vars(module)["forward"] = own
            self.forwards.clear()  # they refer to this object, and it to maps that are to be freed before long
            self.inputs.clear()

    def check_inputs(self) -> None:
        """Raise InputError if a block would be computed again from something else."""
        for module, tensor, version in self.inputs:
            if tensor._version != version:
                raise InputError(
                    f"activation checkpointing: the input of {self.names[module]!r} is changed in place, so its maps "
                    "can't be computed again: let the backbone change a copy, or train without it"
                )

    def _open(self, module: nn.Module) -> None:
        """Let the forward of a module be, and checkpoint the blocks that it calls."""
        if _is_chain(module):
            self.forwards[module] = functools.partial(self._run_chain, self._stretches(module))
        for child in module.children():
            if self._is_open(child):
                self._open(child)
            elif _is_block(child) and not _is_chain(module):
                self.forwards[child] = functools.partial(self._run, child, child.forward)

    def _is_open(self, module: nn.Module) -> bool:
        has_parts = next(module.children(), None) is not None
        is_container = type(module).forward is nn.Module.forward
        return _is_chain(module) or (has_parts and (is_container or _size(module) > self.largest))

    def _stretches(self, chain: nn.Module) -> list[list[nn.Module]]:
        """A chain's parts, cut around open ones, before blocks, and after poolings.

        Nowhere before an activation that works in place: it would change what the next stretch is computed from.
        """
        stretches: list[list[nn.Module]] = []
        before: nn.Module | None = None
        for part in vars(chain)["_modules"].values():  # `children` leaves out those that come again
            is_pooled = isinstance(before, nn.MaxPool2d) and not getattr(part, "inplace", False)
            is_opened = before is None or self._is_open(before) or self._is_open(part)
            if is_opened or is_pooled or _is_block(part):
                stretches.append([])
            stretches[-1].append(part)
            before = part
        return stretches

    def _run_chain(self, stretches: list[list[nn.Module]], maps: Any) -> Any:
        for stretch in stretches:
            first = stretch[0]
            maps = first(maps) if self._is_open(first) else self._run(first, nn.Sequential(*stretch), maps)
        return maps

    def _run(self, block: nn.Module, forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
        """What `forward`, which is that of a block or of a stretch that begins with it, makes of its inputs."""
        tensors = [leaf for leaf in tree_leaves((inputs, options)) if isinstance(leaf, Tensor)]
        self.inputs += [(block, tensor, tensor._version) for tensor in tensors]
        part = forward if isinstance(forward, nn.Module) else block

        def contexts() -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
            """Of the forward pass, and of the one that is done again."""
            return contextlib.nullcontext(), _as_it_was(part, _state(part))

        return checkpoint(forward, *inputs, use_reentrant=False, context_fn=contexts, **options)


def _is_chain(module: nn.Module) -> bool:
    return type(module).forward is nn.Sequential.forward


def _is_block(module: nn.Module) -> bool:
    """Whether it has parts, or weights that are not those of one of torch's own layers."""
    if next(module.children(), None) is not None:
        return True
    is_layer = any(base.__module__.startswith("torch.nn.") for base in type(module).__mro__ if base is not nn.Module)
    return not is_layer and next(module.parameters(), None) is not None


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


#: Where each buffer is kept, under which name, the buffer, and a copy of what it holds.
_State = list[tuple[dict[str, Any], str, Tensor, Tensor]]


@contextlib.contextmanager
def _as_it_was(part: nn.Module, before: _State) -> Iterator[None]:
    """Buffers hold what they held; nothing that is written to them stays: no batch is counted twice."""
    now = _state(part)
    _put(before)
    try:
        yield
    finally:
        _put(now)


def _state(part: nn.Module) -> _State:
    return [
        (module._buffers, name, buffer, buffer.detach().clone())
        for module in part.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]


def _put(state: _State) -> None:
    for buffers, name, buffer, held in state:
        buffer.data.copy_(held)  # as batch normalisation writes it: autograd does not count it as a change
        buffers[name] = buffer
