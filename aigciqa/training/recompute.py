"""Training in less memory: feature maps are computed again in the backward pass instead of being kept."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from aigciqa.backbones.base import Backbone


def recomputing_forward(backbone: Backbone, images: Tensor) -> Tensor:
    """The backbone's maps, and bit for bit its gradients, keeping only the maps between its stretches.

    Args:
        backbone: one that is a chain of layers and blocks, as those of the paper all are.
        images: (B, 3, H, W), preprocessed.

    Returns:
        (B, C, h, w).
    """
    maps = images
    for stretch in _stretches(backbone):
        maps = checkpoint(stretch, maps, use_reentrant=False, context_fn=functools.partial(_contexts, stretch))
    return maps


def _contexts(
    part: nn.Module,
) -> tuple[contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]]:
    """Of the forward pass, and of the one that is done again."""
    return contextlib.nullcontext(), _statistics_kept(part)


def _stretches(backbone: Backbone) -> list[nn.Sequential]:
    """The chain, cut before its blocks and after its poolings: nowhere before an activation that works in place."""
    parts = [
        part
        for child in backbone.children()
        for part in (child.children() if isinstance(child, nn.Sequential) else (child,))
    ]
    stretches: list[list[nn.Module]] = []
    before: nn.Module | None = None
    for part in parts:
        is_block = next(part.children(), None) is not None
        if before is None or is_block or isinstance(before, nn.MaxPool2d):
            stretches.append([])
        stretches[-1].append(part)
        before = part
    return [nn.Sequential(*stretch) for stretch in stretches]


@contextlib.contextmanager
def _statistics_kept(part: nn.Module) -> Iterator[None]:
    """Batch normalisation does not count the same batch twice."""
    normalisations = [module for module in part.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [(module.momentum, module.num_batches_tracked) for module in normalisations]
    for module in normalisations:
        module.momentum, module.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for module, (momentum, batches) in zip(normalisations, kept, strict=True):
            module.momentum, module.num_batches_tracked = momentum, batches
