"""Heads: features -> scores. `build_head` picks the head that belongs to a backbone."""

from __future__ import annotations

from typing import Any

from aigciqa.heads.base import Head
from aigciqa.heads.regression import RegressionHead

__all__ = ["Head", "RegressionHead", "build_head"]


def build_head(backbone: str, kind: str, feature_dim: int, outputs: int, **options: Any) -> Head:
    """Build a randomly initialised head.

    Args:
        backbone: name of the backbone whose features it reads; `lite` has heads of its own.
        kind: `"nr"` (reads D features) or `"fr"` (reads 2 D: generated, then reference).
        feature_dim: D.
        outputs: n, the number of dimensions.
        options: the backbone's options, for the heads that depend on them.
    """
    if backbone == "lite":
        from aigciqa.heads.lite import build_lite_head

        return build_lite_head(kind, feature_dim, outputs, **options)
    return RegressionHead(feature_dim if kind == "nr" else 2 * feature_dim, outputs)
