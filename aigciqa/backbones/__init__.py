"""Backbones: name -> feature extractor. A new one is a module with a `build` function and a line in `_MODULES`."""

from __future__ import annotations

import importlib
from typing import Any

from aigciqa.backbones.base import Backbone

_MODULES = {
    "inceptionv4": "inceptionv4",
    "lite": "lite",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "vgg16": "vgg",
    "vgg19": "vgg",
}

__all__ = ["Backbone", "backbone_names", "build_backbone"]


def backbone_names() -> tuple[str, ...]:
    """The names `build_backbone` takes."""
    return tuple(_MODULES)


def build_backbone(name: str, **options: Any) -> Backbone:
    """Build a randomly initialised backbone.

    Args:
        name: one of `backbone_names()`.
        options: what the backbone's `build` function takes; the paper's five take none.

    Raises:
        ValueError: unknown name.
    """
    if name not in _MODULES:
        raise ValueError(f"unknown backbone {name!r}; expected one of: {', '.join(_MODULES)}")
    module = importlib.import_module(f"aigciqa.backbones.{_MODULES[name]}")
    backbone: Backbone = module.build(name, **options)
    return backbone
