"""Heads: features -> scores. A new one is a module with a `build` function and a line in `_MODULES`."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from aigciqa.errors import InputError
from aigciqa.heads.base import Head, OutputsError
from aigciqa.heads.regression import RegressionHead

_MODULES = {"lite": "lite", "linear": "linear", "regression": "regression", "taught": "taught"}

_REGISTERED: dict[str, Callable[[str, int, int], Head]] = {}

__all__ = ["Head", "OutputsError", "RegressionHead", "build_head", "head_names", "register_head"]


def head_names() -> tuple[str, ...]:
    """The names `build_head` takes."""
    return (*_MODULES, *_REGISTERED)


def build_head(name: str, kind: str, feature_dim: int, outputs: int) -> Head:
    """Build a randomly initialised head.

    Args:
        name: one of `head_names()`.
        kind: `"nr"` (reads D features) or `"fr"` (reads 2 D: generated, then reference).
        feature_dim: D, the backbone's.
        outputs: n, the number of dimensions.

    Raises:
        InputError: unknown name.
        OutputsError: a number of dimensions that the head can't predict.
    """
    if name not in head_names():
        raise InputError(f"unknown head {name!r}; expected one of: {', '.join(head_names())}")
    build: Callable[[str, int, int], Head]
    build = _REGISTERED.get(name) or importlib.import_module(f"aigciqa.heads.{_MODULES[name]}").build
    try:
        return build(kind, feature_dim, outputs)
    except InputError as error:
        raise OutputsError(str(error)) from error


def register_head(name: str, build: Callable[[str, int, int], Head]) -> None:
    """Add a head of your own, for the rest of this process.

    Args:
        name: what a `MetricSpec` and a checkpoint's `config.json` call it.
        build: called as `build(kind, feature_dim, outputs)`, arguments as `build_head` has them; returns the head with
            random weights, or raises `InputError` if it can't have so many outputs.

    Raises:
        InputError: there is a head of that name.
    """
    if name in head_names():
        raise InputError(f"there is a head {name!r} already: give yours another name")
    _REGISTERED[name] = build
