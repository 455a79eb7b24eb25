"""`config.json`: what the weights of a checkpoint are. It is data only, and every value is checked when it is read."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike

from aigciqa.backbones import backbone_names
from aigciqa.errors import CheckpointError, InputError, WrongMetricError, shortened
from aigciqa.heads import head_names
from aigciqa.registry import (
    LARGEST_SCORE,
    SMALLEST_RANGE,
    TIMM,
    Interpolation,
    Kind,
    MetricSpec,
    Preprocess,
    check_score_ranges,
    known_metric,
    metric_info,
)
from aigciqa.stats.bootstrap import Array
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.tables.provenance import MetricFacts

FORMAT = 1
#: Bytes a `config.json` may have.
LARGEST_CONFIG = 1 << 20
#: `resize`, `crop` and `max_side` may have this many pixels, or four times what the table of metrics has.
_BOUNDS = {"resize": 1024, "crop": 1024, "max_side": 4096}
#: A longest side for metrics that the table lacks.
_LARGEST_SIDE = 65536
#: Divisors of pixels in [0, 1]; 1/255 is among them, for networks that read 0..255.
_STDS = (1e-3, 1e3)
_LONGEST_NAME = 100
#: How deep `training` and `results` may be nested.
_DEPTH = 16
#: Heads that a checkpoint may have in place of its metric's own: they were fitted to features of a frozen backbone.
_FITTED_HEADS = ("linear", "taught")


@dataclass(frozen=True)
class WeightsFile:
    """What `config.json` says of the file of weights: bytes, and sha256 in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightsFile:
        """Check a parsed `config.json`, as `MetricConfig.from_dict` does."""
        reader = _Reader(data)
        size, sha256 = reader.get("size", int), reader.get("sha256", str)
        if size < 1:
            raise reader.error("size", "a number of bytes")
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise reader.error("sha256", "64 hexadecimal digits")
        return cls(size, sha256)


@dataclass(frozen=True)
class MetricConfig:
    """What `config.json` says of a metric, size and hash of the weights aside.

    Attributes:
        metric: name in the table of metrics.
        kind: `"nr"` or `"fr"`.
        backbone: name of the feature extractor.
        options: the backbone's options.
        head: name of the head, as `aigciqa.heads.head_names()` lists them.
        score_ranges: dimension -> (lowest, highest), in the order of the head's outputs.
        preprocess: how images are preprocessed.
        imagenet: the part of the backbone whose ImageNet weights are left out of the checkpoint, and come from where
            `weights="imagenet"` has them; None where all weights are in the checkpoint.
        license: SPDX identifier of the weights' license; None where none was stated.
        training: database, protocol, split seed, hyper-parameters.
        results: correlations with confidence intervals.
        reference_sets: scores of known images, for percentiles; the first is the one that tables of scores tell.

    Example:
        >>> import aigciqa
        >>> config = aigciqa.create_metric("nr-lite").config
        >>> config.license, config.score_ranges
        ('Apache-2.0', {'quality': (0.0, 5.0)})
    """

    metric: str
    kind: Kind
    backbone: str
    head: str
    score_ranges: Mapping[str, tuple[float, float]]
    preprocess: Preprocess
    options: Mapping[str, Any] = field(default_factory=dict)
    imagenet: str | None = None
    license: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    reference_sets: tuple[ReferenceSet, ...] = ()

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What the head predicts, in the order of its outputs."""
        return tuple(self.score_ranges)

    @property
    def facts(self) -> MetricFacts:
        """What a report says of the metric."""
        return MetricFacts(self.score_ranges, self.preprocess.seen, self.reference_sets)

    def reference_set(self) -> ReferenceSet:
        """The set whose percentiles tables of scores tell, the first; InputError where there is none."""
        if not self.reference_sets:
            raise InputError(
                f"{self.metric}: no scores of a reference set are known of its weights, to take percentiles in; leave "
                "percentiles out. Those of nr-lite and nr-efficientnet-lite2 have one, and heads from aigciqa fit"
            )
        return self.reference_sets[0]

    def percentiles(self, scores: ArrayLike) -> Array:
        """Percentiles (B, n) of scores (B, n) in the `reference_set`."""
        known, columns = self.reference_set(), np.asarray(scores).T
        return np.stack([known.percentiles(*each) for each in zip(self.dimensions, columns, strict=True)], axis=1)

    @classmethod
    def from_spec(cls, spec: MetricSpec) -> MetricConfig:
        """The config of an untrained metric of the table."""
        return cls(spec.name, spec.kind, spec.backbone, spec.head, spec.score_ranges, spec.preprocess)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetricConfig:
        """Check a parsed `config.json`; a CheckpointError names the key, what it holds and what was expected."""
        reader = _Reader(data)
        if reader.get("format", int) != FORMAT:
            raise CheckpointError(
                f"config.json: 'format' is {data['format']}; this version reads {FORMAT}: upgrade aigciqa"
            )
        backbone = reader.section("backbone")
        kind = reader.choice("kind", ("nr", "fr"))
        backbone_name = backbone.backbone()
        metric = reader.get("metric", str, f"{kind}-{backbone_name}")
        if len(metric) > _LONGEST_NAME:
            raise reader.error("metric", "a metric's name")
        spec = known_metric(metric)
        return cls(
            metric=metric,
            kind=cast(Kind, kind),
            backbone=backbone_name,
            options=backbone.free("options"),
            imagenet=backbone.get("imagenet", str, None),
            head=reader.choice("head", head_names(), spec.head if spec is not None else "regression"),
            score_ranges=reader.score_ranges(),
            preprocess=_read_preprocess(reader.section("preprocess"), spec),
            license=reader.license(),
            training=reader.free("training"),
            results=reader.free("results"),
            reference_sets=reader.reference_sets(),
        )

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it, size and hash of the weights aside."""
        preprocess = self.preprocess
        data = {
            "format": FORMAT,
            "metric": self.metric,
            "kind": self.kind,
            "backbone": {"name": self.backbone, "options": dict(self.options)}
            | ({} if self.imagenet is None else {"imagenet": self.imagenet}),
            "head": self.head,
            "dimensions": list(self.dimensions),
            "score_range": {name: list(bounds) for name, bounds in self.score_ranges.items()},
            "preprocess": {**asdict(preprocess), "mean": list(preprocess.mean), "std": list(preprocess.std)},
            "license": self.license,
            "training": dict(self.training),
            "results": dict(self.results),
        }
        return data | ({"reference_sets": list(map(asdict, self.reference_sets))} if self.reference_sets else {})


def read_config(path: Path) -> tuple[MetricConfig, WeightsFile]:
    """Read and check a `config.json`. Raises as `MetricConfig.from_dict` does."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path} is not a file")  # a pipe or a device would never end
        if size > LARGEST_CONFIG:
            raise CheckpointError(f"{path} has {size:,} bytes; expected at most {LARGEST_CONFIG:,}")
        data = json.loads(path.read_bytes().decode(), object_pairs_hook=_object)
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}; expected an object")
    return MetricConfig.from_dict(data), WeightsFile.from_dict(data)


def check_metric(config: MetricConfig, metric: str | None, source: str) -> None:
    """Raise WrongMetricError unless a checkpoint is of the metric asked for, and of one that is known."""
    if metric is not None and config.metric != metric:
        raise WrongMetricError(f"{source} holds a checkpoint for {config.metric!r}, not for {metric!r}")
    try:
        spec = metric_info(config.metric)
    except InputError as error:
        known = "no metric of this version, and none that was registered"
        reason = str(error) if TIMM in config.metric else known
        raise WrongMetricError(f"{source} holds a checkpoint for {config.metric!r}: {reason}") from None
    for key, name in (("kind", "kind"), ("backbone", "backbone.name"), ("head", "head")):
        found, expected = getattr(config, key), getattr(spec, key)
        if found != expected and not (key == "head" and found in _FITTED_HEADS):
            raise WrongMetricError(f"{source}: {name!r} is {found!r}; expected {expected!r}, for {spec.name!r}")


def is_number(value: Any) -> bool:
    """Whether a value is a number that is finite as float."""
    largest = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json alone would take the last of two values without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"the key {key[:100]!r} comes twice")
        found[key] = value
    return found


def _read_preprocess(reader: _Reader, spec: MetricSpec | None) -> Preprocess:
    def side(key: str) -> int | None:
        largest = _LARGEST_SIDE if spec is None else max(_BOUNDS[key], 4 * (getattr(spec.preprocess, key) or 0))
        value = reader.get(key, int, None)
        if value is not None and not 1 <= value <= largest:
            raise reader.error(key, f"a number of pixels up to {largest}, or null")
        return cast("int | None", value)

    return Preprocess(
        resize=side("resize"),
        crop=side("crop"),
        mean=reader.triple("mean", 0, 1),
        std=reader.triple("std", *_STDS),
        max_side=side("max_side"),
        eight_bit=reader.get("eight_bit", bool, False),
        interpolation=cast(Interpolation, reader.choice("interpolation", ("bilinear", "bicubic"), "bilinear")),
    )


_MISSING = object()
#: JSON's types, in error messages.
_NAMES = {bool: "true or false", dict: "an object", int: "a whole number", list: "a list", str: "a string"}


class _Reader:
    """Typed access to a parsed JSON object; every error names the key."""

    def __init__(self, data: Mapping[str, Any], prefix: str = "") -> None:
        self.data = data
        self.prefix = prefix

    def error(self, key: str, expected: str) -> CheckpointError:
        found = shortened(repr(self.data[key]), 200) if key in self.data else "absent"
        return CheckpointError(f"config.json: '{self.prefix}{key}' is {found}; expected {expected}")

    def get(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        value = self.data.get(key)
        if value is None and default is not _MISSING:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, _NAMES[kind])
        return value

    def section(self, key: str) -> _Reader:
        return _Reader(self.get(key, dict), f"{self.prefix}{key}.")

    def choice(self, key: str, allowed: tuple[str, ...], default: str | None = None) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str) or value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return value

    def backbone(self) -> str:
        name: str = self.get("name", str)
        if name not in backbone_names() and not name.startswith(TIMM):
            raise self.error("name", f"one of {', '.join(backbone_names())}, or {TIMM}<model>")
        return name

    def free(self, key: str) -> dict[str, Any]:
        """An object with any keys, whose values can be written into a file and a card; empty if absent."""
        value: dict[str, Any] = self.get(key, dict, {})
        if (unfit := _unfit(value, _DEPTH)) is not None:
            raise CheckpointError(f"config.json: '{self.prefix}{key}{shortened(unfit[0], 200)}' {unfit[1]}")
        return value

    def license(self) -> str | None:
        value = self.get("license", str, None)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", value, re.ASCII):
            raise self.error("license", "an SPDX identifier such as Apache-2.0, or null")
        return cast("str | None", value)

    def reference_sets(self) -> tuple[ReferenceSet, ...]:
        listed, dimensions = self.get("reference_sets", list, []), {*self.score_ranges()}
        try:
            found = tuple(map(ReferenceSet.from_dict, listed))
        except InputError as error:
            raise CheckpointError(f"config.json: '{self.prefix}reference_sets': {error}") from error
        if any(each.quantiles.keys() != dimensions for each in found):
            raise self.error("reference_sets", "quantiles of every dimension, and no others")
        return found

    def triple(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        value = self.get(key, list)
        if len(value) != 3 or not all(is_number(part) and low <= part <= high for part in value):
            raise self.error(key, f"three finite numbers in [{low:g}, {high:g}]")
        return (float(value[0]), float(value[1]), float(value[2]))

    def score_ranges(self) -> dict[str, tuple[float, float]]:
        names, value = self.get("dimensions", list), self.get("score_range", dict)
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
            raise self.error("dimensions", "distinct names")
        if set(value) != set(names) or not all(map(_is_range, value.values())):
            raise self.error(
                "score_range", f"[lowest, highest] of every dimension, within {LARGEST_SCORE:,.0f} of zero"
            )
        try:
            return check_score_ranges({name: value[name] for name in names})
        except InputError as error:
            raise CheckpointError(f"config.json: 'dimensions': {shortened(str(error), 200)}") from error


def _is_range(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(is_number(bound) and abs(bound) <= LARGEST_SCORE for bound in value)
        and value[1] - value[0] >= SMALLEST_RANGE
    )


def _unfit(value: Any, depth: int) -> tuple[str, str] | None:
    """Where below a value, and in which way, it can't be written into a file and a card; None if it can."""
    if isinstance(value, (dict, list)):
        if not depth:
            return "", f"is nested more than {_DEPTH} times"
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            unfit = _unfit(key, 1) or _unfit(part, depth - 1)
            if unfit is not None:
                return f".{repr(str(key))[1:-1]}{unfit[0]}", unfit[1]
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return "", "holds half of a character"
    elif not (value is None or isinstance(value, bool) or is_number(value)):
        return "", f"is {shortened(repr(value), 200)}; expected a finite number"
    return None
