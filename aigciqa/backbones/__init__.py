"""Backbones: name -> feature extractor. A new one is a module with a `build` function and a line in `_MODULES`."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from aigciqa.backbones.base import Backbone, OptionError
from aigciqa.errors import InputError
from aigciqa.registry import TIMM

_MODULES = {
    "efficientnet-lite2": "efficientnet",
    "inceptionv4": "inceptionv4",
    "lite": "lite",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "vgg16": "vgg",
    "vgg19": "vgg",
}

_REGISTERED: dict[str, Callable[..., Backbone]] = {}

__all__ = ["Backbone", "OptionError", "backbone_names", "build_backbone", "register_backbone"]


def backbone_names() -> tuple[str, ...]:
    """The names `build_backbone` takes, beside `timm/<model>`."""
    return (*_MODULES, *_REGISTERED)


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a randomly initialised backbone.

    Args:
        name: one of `backbone_names()`, or `timm/<model>`.
        options: what the backbone's `build` function takes: `presentation` (lite), `negative_slope` (ResNets); and
            for each of them `statistics`: whether features are statistics of its inner maps, beside those of `lite`,
            as `aigciqa.fit_head` reads them.

    Raises:
        InputError: unknown name.
        OptionError: an option that the backbone does not have, or a value that it does not take.
        MissingExtraError: timm is not installed.
    """
    module = "timm_models" if name.startswith(TIMM) else _MODULES.get(name)
    if module is None and name not in _REGISTERED:
        raise InputError(f"unknown backbone {name!r}; expected one of: {', '.join(backbone_names())}, {TIMM}<model>")
    build = _REGISTERED.get(name) or importlib.import_module(f"aigciqa.backbones.{module}").build
    has_statistics = options.pop("statistics", False)
    known = list(inspect.signature(build).parameters)[1:]
    unknown = sorted(options.keys() - known)
    if unknown:
        takes = f"it takes {', '.join([*known, 'statistics'])}"
        raise OptionError(f"the backbone {name} has no option {unknown[0]!r}; {takes}")
    try:
        backbone: Backbone = build(name, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    if not has_statistics:
        return backbone
    from aigciqa.backbones.statistics import StatisticsBackbone

    return StatisticsBackbone(backbone)


def register_backbone(name: str, build: Callable[..., Backbone]) -> None:
    """Add a feature extractor of your own, for the rest of this process.

    Args:
        name: what a `MetricSpec` and a checkpoint's `config.json` call it.
        build: called as `build(name, **options)`; returns the backbone with random weights.

    Raises:
        InputError: there is a backbone of that name.
    """
    if name in backbone_names():
        raise InputError(f"there is a backbone {name!r} already: give yours another name")
    _REGISTERED[name] = build
