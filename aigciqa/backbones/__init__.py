"""Backbones: name -> feature extractor. A new one is a module with a `build` function and a line in `_MODULES`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from aigciqa.backbones.base import Backbone, OptionError

_MODULES = {
    "inceptionv4": "inceptionv4",
    "lite": "lite",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "vgg16": "vgg",
    "vgg19": "vgg",
}

__all__ = ["Backbone", "OptionError", "backbone_names", "build_backbone"]


def backbone_names() -> tuple[str, ...]:
    """The names `build_backbone` takes."""
    return tuple(_MODULES)


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a randomly initialised backbone.

    Args:
        name: one of `backbone_names()`.
        options: what the backbone's `build` function takes: `presentation` (lite), `negative_slope` (ResNets).

    Raises:
        ValueError: unknown name.
        OptionError: an option that the backbone does not have, or a value that it does not take.
    """
    if name not in _MODULES:
        raise ValueError(f"unknown backbone {name!r}; expected one of: {', '.join(_MODULES)}")
    build = importlib.import_module(f"aigciqa.backbones.{_MODULES[name]}").build
    known = list(inspect.signature(build).parameters)[1:]
    unknown = sorted(options.keys() - known)
    if unknown:
        takes = f"it takes {', '.join(known)}" if known else "it takes none"
        raise OptionError(f"the backbone {name} has no option {unknown[0]!r}; {takes}")
    try:
        backbone: Backbone = build(name, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(str(error)) from error
    return backbone
