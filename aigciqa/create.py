"""Metrics by name: `create_metric`, and ImageNet weights to train one from."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from aigciqa.checkpoints import hub
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.imagenet import imagenet_weights
from aigciqa.errors import InputError
from aigciqa.metric import Metric
from aigciqa.registry import metric_info
from aigciqa.utils.hardware import autocast_dtype

_EMBEDDED = Path(__file__).parent / "checkpoints" / "embedded"


@torch.inference_mode(False)  # whose tensors could never have gradients
def create_metric(
    name: str,
    *,
    weights: str | os.PathLike[str] | None = "default",
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    dimension: str | None = None,
    as_loss: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Metric:
    """Create a metric, in evaluation mode.

    Args:
        name: one of `aigciqa.list_metrics()`; or `nr-timm/<model>` or `fr-timm/<model>`, with any model of timm.
        weights: `"default"` (inside the package for `nr-lite`, `fr-lite` and, with the extra `fit`,
            `nr-efficientnet-lite2`, else the Hub's `aigciqa/<name>`); another variant inside the package (`"native"`
            for `nr-lite`); a folder; a Hub repo `"org/name"` or `"org/name@revision"`; or None for random ones, drawn
            from torch's global generator. An existing folder wins over a repo of that name; what begins with `.`, `/`
            or `~` is never looked up on the Hub. `"imagenet"` takes ImageNet weights for the backbone (timm's own for
            its models) and random ones for the head, to train from (`load_imagenet`).
        device: where to compute; the CPU if absent.
        dtype: what the backbone computes in: `"float32"` (the default), or `"bfloat16"` / `"float16"` by autocast, or
            `"auto"`: bfloat16 where the device is built for it. Weights and scores stay float32.
        dimension: the dimension that calling the metric returns; the head's first one if absent.
        as_loss: let gradients flow to the images and return `-score.mean()`.
        cache_dir: where downloads are kept; huggingface_hub's own place if absent.
        local_files_only: take downloads from that cache only.

    Raises:
        InputError: unknown name, weights, dtype or dimension.
        MissingExtraError: the metric is on a model of timm, which is not installed.
        WeightsError: the weights could not be loaded. Its kinds: `CheckpointError` (malformed, altered, truncated or
            another metric's) and `HubError` (not found, no access, offline, unreachable ...); `aigciqa.errors` has a
            class for each.

    Example:
        >>> import aigciqa
        >>> metric = aigciqa.create_metric("fr-lite")
        >>> metric.kind, metric.dimensions, metric.score_range
        ('fr', ('quality',), (0.0, 5.0))
    """
    spec = metric_info(name)
    dtype = autocast_dtype(dtype, device)
    if weights is None or weights == "imagenet":
        metric = Metric(MetricConfig.from_spec(spec), dimension=dimension, as_loss=as_loss, dtype=dtype)
        if weights is not None:
            load_imagenet(metric, cache_dir=cache_dir, local_files_only=local_files_only)
        return metric.to(device)
    if isinstance(weights, str) and weights in spec.embedded:
        weights = _EMBEDDED / spec.embedded[weights]
    elif weights == "default":
        weights = hub.default_repo(name)
    return Metric.from_pretrained(
        weights,
        device=device,
        dtype=dtype,
        dimension=dimension,
        as_loss=as_loss,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        metric=name,
    )


def load_imagenet(
    metric: Metric,
    file: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> Metric:
    """Give a metric's backbone ImageNet weights, to start training from; the head stays as it is.

    Args:
        metric: one with a backbone of the paper, or of timm.
        file: a `.pth` or `.safetensors` file to take instead of the published one. A hash in its name
            (`-f37072fd.pth`) is checked.
        cache_dir: where downloads are kept; torch's and huggingface_hub's own places if absent.
        local_files_only: take downloads from there only.

    Returns:
        The metric.

    Raises:
        InputError: no ImageNet weights are known for the backbone.
        AlteredError: the file does not have the hash that it should have.
        CheckpointError: the file can't be read, or is another network's.
        HubError: the file could not be loaded: offline, unreachable.

    Example::

        metric = aigciqa.create_metric("fr-resnet50", weights=None)
        aigciqa.load_imagenet(metric, "resnet50-0676ba61.pth")
    """
    expected = metric.backbone.state_dict()
    weights = imagenet_weights(metric.config.backbone, expected, file, cache_dir, local_files_only)
    metric.backbone.load_state_dict(weights)
    return metric


def as_metrics(metric: str | Metric | Iterable[str | Metric], **options: Any) -> list[Metric]:
    """Metrics, those given by name created.

    Args:
        options: for `create_metric`, among them its defaults, which are as absent.

    Raises:
        TypeError: what is neither a name nor a `Metric`, such as what `torch.compile` returns.
        InputError: no metric; an option together with a `Metric`, which has been created with its own.
    """
    if not isinstance(metric, (str, Metric, Iterable)):
        raise TypeError(f"expected the name of a metric, a Metric, or several of them; got {type(metric).__name__}")
    given = [metric] if isinstance(metric, (str, Metric)) else list(metric)
    if not given:
        raise InputError("no metric given")
    defaults = inspect.signature(create_metric).parameters
    chosen = {name: value for name, value in options.items() if value != defaults[name].default}
    made = next((each.name for each in given if isinstance(each, Metric)), None)
    if made is not None and chosen:
        text = ", ".join(f"{name}={value!r}" for name, value in chosen.items())
        raise InputError(
            f"{text}: for metrics given by name, but {made} is a Metric already; give its name, or leave that out and "
            "say it to create_metric"
        )
    return [each if isinstance(each, Metric) else create_metric(each, **chosen) for each in given]
