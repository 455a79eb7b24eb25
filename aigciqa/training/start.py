"""The metric that a run starts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aigciqa.create import create_metric, load_imagenet
from aigciqa.errors import InputError
from aigciqa.metric import Metric
from aigciqa.training.settings import Settings
from aigciqa.training.targets import Targets

if TYPE_CHECKING:
    from aigciqa.databases import Sample


def starting_metric(
    settings: Settings,
    score_range: Mapping[str, tuple[float, float]],
    samples: Sequence[Sample],
    state: Mapping[str, Any] | None,
) -> Metric:
    """The metric to train, whose head gives targets.

    Args:
        settings: of the run.
        score_range: dimension -> (lowest, highest) opinion score, for the dimensions to learn at least.
        samples: what to learn from.
        state: of a run to go on with, whose weights are to be put in; the metric has its starting weights if absent.

    Raises:
        InputError: a metric that can't be trained here, or weights of another backbone to start from.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        template = create_metric(settings.metric, weights=None)
        if not template.head.output_layer or template.config.preprocess.crop is None:
            raise InputError(
                f"{settings.metric} can't be trained here: expected a head with an output_layer, and a preprocess with "
                "a crop; the embedded metrics are made by examples/train_lite.py"
            )
        config = replace(
            template.config,
            score_ranges={name: score_range[name] for name in settings.dimensions},
        )
        metric = Metric(config if state is None else replace(config, options=state["options"]))
    if state is not None:
        return metric
    with torch.no_grad():  # the head starts at the mean opinion, as it would after a few steps
        metric.head.get_parameter(f"{metric.head.output_layer}.bias").zero_()
    return _with_start(metric, settings.start, samples)


def _with_start(metric: Metric, start: str, samples: Sequence[Sample]) -> Metric:
    """A metric with the weights to start from; from a checkpoint of the same kind and dimensions, the head's too."""
    config = metric.config
    if start == "imagenet":
        return load_imagenet(metric)
    if start == "none":
        return metric
    path = Path(start).expanduser()
    if path.is_file():
        return load_imagenet(metric, path)
    given = Metric.from_pretrained(start)
    if given.config.backbone != config.backbone:
        raise InputError(f"{start} has the backbone {given.config.backbone}; expected {config.backbone}")
    started = Metric(replace(config, options=given.config.options))
    started.backbone.load_state_dict(given.backbone.state_dict())
    started.head.load_state_dict(metric.head.state_dict())
    if given.config.kind == config.kind and given.dimensions == config.dimensions:
        ranges = [[each.score_ranges[name] for name in config.dimensions] for each in (given.config, config)]
        started.load_state_dict(Targets.of(samples, metric).from_scores(given.state_dict(), *ranges))
    return started
