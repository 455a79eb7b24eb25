"""What makes a table of scores, for the `FILE.meta.json` beside it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import aigciqa
from aigciqa.tables.provenance import FORMAT
from aigciqa.utils.object_stores import is_url

if TYPE_CHECKING:
    from aigciqa.metric import Metric
    from aigciqa.records import Item


def describe(
    metrics: Sequence[Metric], dimensions: Sequence[str], dtype: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes a table: version, metrics with the sha256 of their weights, options that change its rows.

    Args:
        metrics: in order.
        dimensions: the table's.
        dtype: what they compute in, where it is not up to each metric.
        options: of the run, by name.
    """
    import torch

    ranges = {name: list(metric.config.score_ranges[name]) for metric in metrics for name in metric.dimensions}
    return {
        "format": FORMAT,
        "version": aigciqa.__version__,
        "dimensions": {name: ranges[name] for name in dimensions},
        "metrics": [
            {
                "name": metric.name,
                "weights": _sha256(metric),
                "dtype": dtype or str(metric.autocast_dtype or torch.float32).removeprefix("torch."),
                "backbone": {"name": metric.config.backbone, **metric.config.options},
                "preprocess": asdict(metric.config.preprocess),
            }
            for metric in metrics
        ],
        "options": dict(options),
    }


def folder_of_paths(item: Item | None, output: str) -> str | None:
    """The folder that relative paths begin in, from the table's, since both may move; None if paths are absolute.

    Args:
        item: the first, whose paths stand for all.
        output: the table.
    """
    paths = [path for path in (item.image, item.reference) if path] if item is not None else []
    if all(os.path.isabs(path) or is_url(path) for path in paths):
        return None
    if is_url(output):
        return os.getcwd()
    try:
        return os.path.relpath(os.getcwd(), os.path.dirname(os.path.realpath(output)))
    except ValueError:  # on another drive of Windows
        return os.getcwd()


def _sha256(metric: Metric) -> str:
    """Of names, types, shapes and values of all weights, wherever they came from."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(metric.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
