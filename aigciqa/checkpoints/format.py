"""Heads on disk: a folder of `config.json`, `model.safetensors` and `README.md` (a model card).

Nothing is ever unpickled, a config is data only, and both files are checked on every load: schema and bounds, sha256,
size, and one tensor of finite values for every parameter with its shape.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from aigciqa.backbones import backbone_names
from aigciqa.errors import AlteredError, CheckpointError, InputError, TruncatedError
from aigciqa.registry import METRICS, SCORE_RANGES, Kind, MetricSpec, Preprocess
from aigciqa.utils.files import replacing

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
#: Bytes a `config.json` may have.
LARGEST_CONFIG = 1 << 20
#: What a generated card has in place of the repo's name, until it is published.
PLACEHOLDER = "ORG/NAME"
#: What cards of heads have among their first lines.
_CARD_MARK = "library_name: aigciqa"
#: `resize`, `crop` and `max_side` may have this many pixels, or four times what the table of metrics has.
_SIDE = 1024
#: A longest side for metrics that the table lacks.
_LARGEST_SIDE = 65536
#: Divisors of pixels in [0, 1]; 1/255 is among them, for networks that read 0..255.
_STDS = (1e-3, 1e3)
#: Scales of opinions are 0..5, 0..100, or ratings of a tournament around 1500.
_LARGEST_SCORE, _SMALLEST_RANGE = 1e6, 1e-6
_LONGEST_NAME = 100
#: How deep `training` and `results` may be nested.
_DEPTH = 16


@dataclass(frozen=True)
class WeightsMetadata:
    """What `config.json` says of the file of weights.

    Attributes:
        size: bytes.
        sha256: in hexadecimal.
    """

    size: int
    sha256: str

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> WeightsMetadata:
        """Check a parsed `config.json`; raises CheckpointError naming the key."""
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
        dimensions: what the head predicts, in the order of its outputs.
        score_range: dimension -> (lowest, highest).
        preprocess: how images are preprocessed.
        license: SPDX identifier of the weights' licence; None where none was stated.
        training: database, protocol, split seed, hyper-parameters.
        results: correlations with confidence intervals.
    """

    metric: str
    kind: Kind
    backbone: str
    dimensions: tuple[str, ...]
    score_range: Mapping[str, tuple[float, float]]
    preprocess: Preprocess
    options: Mapping[str, Any] = field(default_factory=dict)
    license: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_spec(cls, spec: MetricSpec) -> MetricConfig:
        """The config of an untrained metric of the table."""
        return cls(
            metric=spec.name,
            kind=spec.kind,
            backbone=spec.backbone,
            dimensions=spec.dimensions,
            score_range=spec.score_ranges,
            preprocess=spec.preprocess,
        )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MetricConfig:
        """Check a parsed `config.json`.

        Raises:
            CheckpointError: naming the key, what it holds and what was expected.
        """
        reader = _Reader(data)
        if reader.get("format", int) != FORMAT:
            raise CheckpointError(
                f"config.json: 'format' is {data['format']}; this version reads {FORMAT}: upgrade aigciqa"
            )
        backbone = reader.section("backbone")
        dimensions = tuple(reader.get("dimensions", list))
        names = [name for name in dimensions if isinstance(name, str) and name in SCORE_RANGES]
        if not dimensions or len(set(names)) != len(dimensions):
            raise reader.error("dimensions", f"distinct names out of {', '.join(SCORE_RANGES)}")
        kind = reader.choice("kind", ("nr", "fr"))
        name = backbone.choice("name", backbone_names())
        metric = reader.get("metric", str, f"{kind}-{name}")
        if len(metric) > _LONGEST_NAME:
            raise reader.error("metric", "a metric's name")
        return cls(
            metric=metric,
            kind=cast(Kind, kind),
            backbone=name,
            options=backbone.metadata("options"),
            dimensions=dimensions,
            score_range=reader.ranges("score_range", dimensions),
            preprocess=_read_preprocess(reader.section("preprocess"), METRICS.get(metric)),
            license=reader.license("license"),
            training=reader.metadata("training"),
            results=reader.metadata("results"),
        )

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it, size and hash of the weights aside."""
        preprocess = self.preprocess
        return {
            "format": FORMAT,
            "metric": self.metric,
            "kind": self.kind,
            "backbone": {"name": self.backbone, "options": dict(self.options)},
            "dimensions": list(self.dimensions),
            "score_range": {name: list(bounds) for name, bounds in self.score_range.items()},
            "preprocess": {
                "resize": preprocess.resize,
                "crop": preprocess.crop,
                "mean": list(preprocess.mean),
                "std": list(preprocess.std),
                "max_side": preprocess.max_side,
                "eight_bit": preprocess.eight_bit,
            },
            "license": self.license,
            "training": dict(self.training),
            "results": dict(self.results),
        }


def write_checkpoint(
    folder: str | os.PathLike[str], config: MetricConfig, tensors: Mapping[str, Tensor], card: str | None = None
) -> None:
    """Write a head's folder.

    Args:
        folder: made if absent; files of an earlier head in it are replaced.
        config: what the weights are.
        tensors: the metric's `state_dict()`.
        card: the model card; written from the config if absent.

    Raises:
        CheckpointError: what would be refused when it is loaded; nothing was written.
    """
    from safetensors.torch import save

    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    check_values(tensors, str(folder))
    data = save(tensors)
    metadata = WeightsMetadata(len(data), hashlib.sha256(data).hexdigest())
    entry = {**config.to_dict(), **asdict(metadata)}
    MetricConfig.from_dict(json.loads(json.dumps(entry)))
    text = json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / CARD_FILE, (card if card is not None else model_card(config)).encode())
    _replace(folder / WEIGHTS_FILE, data)
    _replace(folder / CONFIG_FILE, f"{text}\n".encode())


def is_foreign(card: Path) -> bool:
    """Whether a `README.md` is there that is no model card of a head."""
    return card.is_file() and _CARD_MARK not in card.read_text(encoding="utf-8", errors="replace")[:2000]


class LocalCheckpoint:
    """A head on disk."""

    def __init__(self, folder: Path) -> None:
        """Args: folder: where the head is."""
        self.folder = folder

    def config_file(self) -> Path:
        """`config.json`."""
        path = self.folder / CONFIG_FILE
        if not path.exists():
            raise CheckpointError(f"{self.folder} is not a head: it has no {CONFIG_FILE}")
        return path

    def weights_file(self, metadata: WeightsMetadata) -> Path:
        """`model.safetensors`, verified."""
        path = self.folder / WEIGHTS_FILE
        verify(path, metadata)
        return path

    def refusal(self, error: CheckpointError) -> CheckpointError:
        """The error itself: it names the file."""
        return error


def read_config(path: Path) -> tuple[MetricConfig, WeightsMetadata]:
    """Read and check a `config.json`.

    Raises:
        CheckpointError: naming the key, what it holds and what was expected.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise CheckpointError(f"{path} is no file")  # a pipe or a device would never end
        with path.open("rb") as file:
            text = file.read(LARGEST_CONFIG + 1)
        if len(text) > LARGEST_CONFIG:
            raise CheckpointError(f"{path} has {max(size, len(text)):,} bytes; expected at most {LARGEST_CONFIG:,}")
        data = json.loads(text.decode(), object_pairs_hook=_object)
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}; expected an object")
    return MetricConfig.from_dict(data), WeightsMetadata.from_dict(data)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json alone would take the last of two values without a word."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"the key {key[:100]!r} comes twice")
        found[key] = value
    return found


def check_size(metadata: WeightsMetadata, expected: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if weights claim to be far larger than the metric's tensors: nothing was read yet."""
    largest = 2 * sum(tensor.nbytes for tensor in expected.values()) + _SLACK
    if metadata.size > largest:
        raise CheckpointError(f"{where}: 'size' is {metadata.size:,}; such a head has at most {largest:,} bytes")


#: Bytes that a file may have beside the tensors: its header, and room to name tensors that don't belong there.
_SLACK = 16 << 20


def verify(path: Path, metadata: WeightsMetadata) -> None:
    """Raise unless a file has the size and the sha256 that its config says.

    Raises:
        TruncatedError: another size.
        AlteredError: the size, but not the sha256.
        CheckpointError: it can't be read.
    """
    try:
        size = path.stat().st_size
        if size != metadata.size:
            raise TruncatedError(f"{path} has {size} bytes, its config says {metadata.size}: truncated or replaced")
        found = file_sha256(path)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    if found != metadata.sha256:
        raise AlteredError(f"{path} has sha256 {found}, its config says {metadata.sha256}: it was altered")


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a verified `model.safetensors` into memory of its own: what later happens to the file changes nothing."""
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    try:
        if "backend" in inspect.signature(load_file).parameters:
            return load_file(path, backend="pread")
        return load(path.read_bytes())  # older safetensors would map the file, or else holds it twice for a moment
    except (SafetensorError, OSError, LookupError, TypeError, ValueError, RuntimeError) as error:  # odd dtypes
        raise CheckpointError(f"{path} is not a safetensors file: {_cut(str(error))}") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless both have the same names, shapes and dtypes, and what was found is finite."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        problems = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("has unknown", extra)) if names]
        raise CheckpointError(f"{where}: the file {' and '.join(problems)}")
    for name, tensor in expected.items():
        for what in ("shape", "dtype", "layout"):
            has, wanted = getattr(found[name], what), getattr(tensor, what)
            if has != wanted:
                has, wanted = (tuple(x) if what == "shape" else x for x in (has, wanted))
                raise CheckpointError(f"{where}: {name!r} has {what} {has}; expected {wanted}")
    check_values(found, where)


def check_values(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError if a tensor holds NaN, infinity or a negative variance: scores would be NaN."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        # The sum is many times as fast, and finite unless the values are not, or are huge.
        if not math.isfinite(tensor.sum().item()) and not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: {name!r} holds NaN or infinity")
        if name.endswith("running_var") and tensor.min().item() < 0:
            raise CheckpointError(f"{where}: {name!r} holds a negative variance")


def model_card(config: MetricConfig) -> str:
    """A model card written from the config: what it is, how to use it, what it was trained on, how good it is."""
    front = [_CARD_MARK, "tags: [image-quality-assessment, ai-generated-images]"]
    if config.license:
        front.append(f"license: {config.license.lower()}")
    kind, images = "No-reference", '"out.png"'
    if config.kind == "fr":
        kind, images = "Full-reference", '"out.png", "prompt.png"'
    model = f"The backbone is `{config.backbone}`."
    if config.backbone != "lite":
        model = f"`{config.backbone}`, global average pooling, two fully connected layers (arXiv:2311.15556)."
    ranges = {name: f"{low:g} to {high:g}" for name, (low, high) in config.score_range.items()}
    return f"""---
{_lines(front)}
---
# {config.metric}

{kind} quality metric for AI-generated images.
{model}

## How to use

```python
import aigciqa  # pip install aigciqa

metric = aigciqa.create_metric("{config.metric}", weights="{PLACEHOLDER}")
score = metric({images})
```

The weights are safetensors, checked against the size and sha256 in `config.json` whenever they are loaded.

## What it predicts

{_table(("dimension", "range, higher is better"), ranges.items())}

## What it was trained on

{_table(("", ""), _flat(config.training)) if config.training else "Not stated."}

## Results

{_results(config.results) if config.results else "Not stated."}

## Licence

{config.license or "Not stated."}
"""


def _results(results: Mapping[str, Any]) -> str:
    """A table of results: a row for each group (a dimension, a database), a column for each figure."""
    groups = {name: figures for name, figures in results.items() if isinstance(figures, dict)}
    columns = list(dict.fromkeys(column for figures in groups.values() for column in figures))
    rows = [(name, *(_figure(figures.get(column, "")) for column in columns)) for name, figures in groups.items()]
    lone = _flat({name: figure for name, figure in results.items() if name not in groups})
    tables = [_table(("", *columns), rows) if rows else "", _table(("", ""), lone) if lone else ""]
    note = "A figure [low, high]: 95% confidence interval." if "[" in "".join(tables) else ""
    return "\n\n".join(part for part in (*tables, note) if part)


def _figure(value: Any) -> str:
    """A number, or [value, low, high]."""
    if isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)):
        return f"{value[0]:.4g} [{value[1]:.4g}, {value[2]:.4g}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(metadata: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Metadata as rows; those of a nested object are named `outer.inner`."""
    rows: list[tuple[str, str]] = []
    for key, value in metadata.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", _figure(value))]
    return rows


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [head, ["---"] * len(head), *rows]
    return _lines("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)


def _lines(lines: Iterable[str]) -> str:
    return "\n".join(lines)


def _read_preprocess(reader: _Reader, spec: MetricSpec | None) -> Preprocess:
    def side(key: str) -> int | None:
        usual = getattr(spec.preprocess, key) if spec is not None else None
        return reader.size(key, _LARGEST_SIDE if spec is None else max(_SIDE, 4 * (usual or 0)))

    return Preprocess(
        resize=side("resize"),
        crop=side("crop"),
        mean=reader.triple("mean", 0, 1),
        std=reader.triple("std", *_STDS),
        max_side=side("max_side"),
        eight_bit=reader.get("eight_bit", bool, False),
    )


_MISSING = object()


class _Reader:
    """Typed access to a parsed JSON object; every complaint names the key."""

    def __init__(self, data: Mapping[str, Any], prefix: str = "") -> None:
        self.data = data
        self.prefix = prefix

    def error(self, key: str, expected: str) -> CheckpointError:
        found = _cut(repr(self.data[key])) if key in self.data else "absent"
        return CheckpointError(f"config.json: '{self.prefix}{key}' is {found}; expected {expected}")

    def get(self, key: str, kind: type, default: Any = _MISSING) -> Any:
        value = self.data.get(key)
        if value is None and default is not _MISSING:
            return default
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.error(key, f"a {kind.__name__}")
        return value

    def section(self, key: str) -> _Reader:
        return _Reader(self.get(key, dict), f"{self.prefix}{key}.")

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.data.get(key)
        if not isinstance(value, str) or value not in allowed:
            raise self.error(key, f"one of {', '.join(allowed)}")
        return value

    def size(self, key: str, largest: int) -> int | None:
        value = self.get(key, int, None)
        if value is not None and not 1 <= value <= largest:
            raise self.error(key, f"a number of pixels up to {largest}, or null")
        return cast("int | None", value)

    def metadata(self, key: str) -> dict[str, Any]:
        """An object for people to read; empty if absent."""
        value: dict[str, Any] = self.get(key, dict, {})
        unfit = _unfit(value, _DEPTH)
        if unfit is not None:
            where, problem = unfit
            raise CheckpointError(f"config.json: '{self.prefix}{key}{_cut(where)}' {problem}")
        return value

    def license(self, key: str) -> str | None:
        value = self.get(key, str, None)
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", value, re.ASCII):
            raise self.error(key, "an SPDX identifier such as Apache-2.0, or null")
        return cast("str | None", value)

    def triple(self, key: str, low: float, high: float) -> tuple[float, float, float]:
        value = self.get(key, list)
        if len(value) != 3 or not all(_is_number(part) and low <= part <= high for part in value):
            raise self.error(key, f"three finite numbers in [{low:g}, {high:g}]")
        return (float(value[0]), float(value[1]), float(value[2]))

    def ranges(self, key: str, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        value = self.get(key, dict)
        valid = set(value) == set(names) and all(
            isinstance(pair, list)
            and len(pair) == 2
            and all(_is_number(bound) and abs(bound) <= _LARGEST_SCORE for bound in pair)
            and pair[1] - pair[0] >= _SMALLEST_RANGE
            for pair in value.values()
        )
        if not valid:
            raise self.error(key, f"[lowest, highest] of every dimension, within {_LARGEST_SCORE:,.0f} of zero")
        return {name: (float(value[name][0]), float(value[name][1])) for name in names}


def _is_number(value: Any) -> bool:
    """Whether it is a number, and finite as float."""
    largest = sys.float_info.max
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -largest <= value <= largest


def _unfit(value: Any, depth: int) -> tuple[str, str] | None:
    """Where below a value, and in which way, it is nothing to write into a file and a card; None if all is well."""
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
    elif not (value is None or isinstance(value, bool) or _is_number(value)):
        return "", f"is {_cut(repr(value))}; expected a finite number"
    return None


def _cut(text: str, most: int = 200) -> str:
    return text if len(text) <= most else f"{text[:most]} ..."


def _some(names: list[str], most: int = 5) -> str:
    listed = ", ".join(map(repr, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _replace(path: Path, data: bytes) -> None:
    with replacing(path) as partial:
        partial.write_bytes(data)
