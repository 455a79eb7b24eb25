"""The table of metrics: what each one is, as data. A new metric is one entry in `_TABLE`.

Nothing here imports torch, so the table can be listed at once.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from aigciqa.errors import InputError

Kind = Literal["nr", "fr"]

#: Dimension -> range of its mean opinion score in the PKU-I2IQA database; `overall` is the sum of the other three.
SCORE_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"quality": (0.0, 5.0), "authenticity": (0.0, 5.0), "correspondence": (0.0, 5.0), "overall": (0.0, 15.0)}
)
PAPER = "PKU-I2IQA (Yuan et al. 2023, arXiv:2311.15556)"


@dataclass(frozen=True)
class Preprocess:
    """How images are preprocessed for a backbone. Part of the metric and of its checkpoint.

    Attributes:
        resize: pixels of the short side after a bilinear antialiased resize; None leaves the image as it is.
        crop: side of the centre crop after the resize; None takes the whole image.
        mean: per channel (R, G, B), subtracted from values in [0, 1].
        std: per channel, divided by.
        max_side: the long side is never resized beyond this; the short side then stays below `resize`.
        eight_bit: tensors are rounded to 8-bit levels as a file's pixels are (gradients pass straight through).
    """

    resize: int | None
    crop: int | None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    max_side: int | None = None
    eight_bit: bool = False


@dataclass(frozen=True)
class MetricSpec:
    """One row of the table of metrics.

    Attributes:
        name: `kind-backbone`.
        kind: `"nr"` (no reference) or `"fr"` (full reference: the image prompt).
        backbone: name of the feature extractor.
        feature_dim: D, the length of one image's features.
        preprocess: how images are preprocessed for the backbone.
        dimensions: what the head predicts; the first is the main one.
        source: where the model is described.
        embedded: variant -> folder of weights inside the package; empty where weights come from the Hub.
        lower_better: always False: higher scores are better.
    """

    name: str
    kind: Kind
    backbone: str
    feature_dim: int
    preprocess: Preprocess
    dimensions: tuple[str, ...]
    source: str
    embedded: Mapping[str, str] = field(default_factory=dict)
    lower_better: bool = False

    @property
    def score_ranges(self) -> dict[str, tuple[float, float]]:
        """Dimension -> (lowest, highest) mean opinion score."""
        return {dimension: SCORE_RANGES[dimension] for dimension in self.dimensions}

    @property
    def score_range(self) -> tuple[float, float]:
        """(lowest, highest) of the main dimension."""
        return SCORE_RANGES[self.dimensions[0]]

    @property
    def requires_reference(self) -> bool:
        """Whether an image prompt is needed."""
        return self.kind == "fr"

    @property
    def input_size(self) -> int | None:
        """Side of the square the backbone sees; None where it sees whole images."""
        return self.preprocess.crop


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_CROP_224 = Preprocess(resize=256, crop=224, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
_CROP_299 = Preprocess(resize=320, crop=299, mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
_COMMON_SIZE = Preprocess(resize=512, crop=None, max_side=4096, eight_bit=True)


def _paper(kind: Kind, backbone: str, feature_dim: int, preprocess: Preprocess) -> MetricSpec:
    return MetricSpec(
        name=f"{kind}-{backbone}",
        kind=kind,
        backbone=backbone,
        feature_dim=feature_dim,
        preprocess=preprocess,
        dimensions=tuple(SCORE_RANGES),
        source=f"{kind.upper()}-AIGCIQA, {PAPER}",
    )


_TABLE = (
    MetricSpec(
        name="nr-lite",
        kind="nr",
        backbone="lite",
        feature_dim=688,
        preprocess=_COMMON_SIZE,
        dimensions=("quality",),
        source="natural-scene statistics, trained without human labels (aigciqa)",
        embedded={"default": "nr-lite", "native": "nr-lite-native"},
    ),
    MetricSpec(
        name="fr-lite",
        kind="fr",
        backbone="lite",
        feature_dim=688,
        preprocess=_COMMON_SIZE,
        dimensions=("quality",),
        source="natural-scene statistics, trained without human labels (aigciqa)",
        embedded={"default": "fr-lite"},
    ),
    _paper("nr", "resnet18", 512, _CROP_224),
    _paper("fr", "resnet18", 512, _CROP_224),
    _paper("nr", "resnet50", 2048, _CROP_224),
    _paper("fr", "resnet50", 2048, _CROP_224),
    _paper("nr", "vgg16", 512, _CROP_224),
    _paper("fr", "vgg16", 512, _CROP_224),
    _paper("nr", "vgg19", 512, _CROP_224),
    _paper("fr", "vgg19", 512, _CROP_224),
    _paper("nr", "inceptionv4", 1536, _CROP_299),
    _paper("fr", "inceptionv4", 1536, _CROP_299),
)
_METRICS = {spec.name: spec for spec in _TABLE}
METRICS: Mapping[str, MetricSpec] = MappingProxyType(_METRICS)


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of the metrics that match a shell pattern, in the table's order.

    Args:
        pattern: as `fnmatch` takes it: `"fr-*"`, `"*-vgg1?"`.
    """
    return [name for name in METRICS if fnmatch.fnmatchcase(name, pattern)]


def metric_info(name: str) -> MetricSpec:
    """The table's entry for a metric.

    Raises:
        ValueError: unknown name; the message suggests near ones.
    """
    try:
        return METRICS[name]
    except (KeyError, TypeError):
        near = difflib.get_close_matches(str(name).lower(), METRICS, n=2)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise InputError(f"unknown metric {name!r}{hint} Known metrics: {', '.join(METRICS)}.") from None


def known_dimensions() -> frozenset[str]:
    """Names of the dimensions that the metrics of the table predict, those of registered metrics among them."""
    return frozenset(SCORE_RANGES).union(*(spec.dimensions for spec in METRICS.values()))


def register_metric(spec: MetricSpec) -> None:
    """Add a metric of your own to the table, for the rest of this process.

    Args:
        spec: its entry; the backbone is one of the library's, or yours (`aigciqa.backbones.register_backbone`).

    Raises:
        ValueError: the table has a metric of that name.
    """
    if spec.name in METRICS:
        raise InputError(f"there is a metric {spec.name!r} already: give yours another name")
    _METRICS[spec.name] = spec
