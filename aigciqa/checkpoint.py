"""Heads on disk: a folder of `config.json`, `model.safetensors` and `README.md` (a model card).

Nothing is ever unpickled, a config is data only, and both files are checked on every load: schema, sha256, size, and
one tensor for every parameter with its shape.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from aigciqa.backbones import backbone_names
from aigciqa.errors import CheckpointError
from aigciqa.registry import SCORE_RANGES, Kind, MetricSpec, Preprocess

FORMAT = 1
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"


@dataclass(frozen=True)
class MetricConfig:
    """What `config.json` says of a metric, file hash and size aside.

    Attributes:
        metric: name in the table of metrics.
        kind: `"nr"` or `"fr"`.
        backbone: name of the feature extractor.
        options: the backbone's options.
        dimensions: what the head predicts, in the order of its outputs.
        score_range: dimension -> (lowest, highest).
        preprocess: how pictures are presented.
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
        if not dimensions or len(set(dimensions)) != len(dimensions) or not set(dimensions) <= set(SCORE_RANGES):
            raise reader.error("dimensions", f"distinct names out of {', '.join(SCORE_RANGES)}")
        return cls(
            metric=reader.get("metric", str),
            kind=cast(Kind, reader.choice("kind", ("nr", "fr"))),
            backbone=backbone.choice("name", backbone_names()),
            options=backbone.get("options", dict, {}),
            dimensions=dimensions,
            score_range=reader.ranges("score_range", dimensions),
            preprocess=_read_preprocess(reader.section("preprocess")),
            license=reader.get("license", str, None),
            training=reader.get("training", dict, {}),
            results=reader.get("results", dict, {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """As `config.json` holds it, file hash and size aside."""
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
    """
    from safetensors.torch import save

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    entry = {**config.to_dict(), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    _replace(folder / WEIGHTS_FILE, data)
    _replace(folder / CONFIG_FILE, (json.dumps(entry, indent=2, ensure_ascii=False) + "\n").encode())
    _replace(folder / CARD_FILE, (card if card is not None else model_card(config)).encode())


def read_config(folder: Path) -> tuple[MetricConfig, dict[str, Any]]:
    """Read and check `config.json`: (the config, all that the file says)."""
    path = folder / CONFIG_FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is not a head: it has no {CONFIG_FILE}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} can't be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}; expected an object")
    return MetricConfig.from_dict(data), data


def read_tensors(folder: Path, entry: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read `model.safetensors` after checking its size and sha256 against the config's.

    Args:
        folder: where the head is.
        entry: what `config.json` says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / WEIGHTS_FILE
    reader = _Reader(entry)
    expected_size, expected_hash = reader.get("size", int), reader.get("sha256", str)
    try:
        size = path.stat().st_size
        if size != expected_size:
            raise CheckpointError(f"{path} has {size} bytes, its config says {expected_size}: truncated or replaced")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    found_hash = hashlib.sha256(data).hexdigest()
    if found_hash != expected_hash:
        raise CheckpointError(f"{path} has sha256 {found_hash}, its config says {expected_hash}: it was altered")
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is not a safetensors file: {error}") from error


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str) -> None:
    """Raise CheckpointError unless both have the same names and shapes."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        problems = [f"{word} {_some(names)}" for word, names in (("lacks", missing), ("has unknown", extra)) if names]
        raise CheckpointError(f"{where}: the file {' and '.join(problems)}")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise CheckpointError(
                f"{where}: {name!r} has shape {tuple(found[name].shape)}; expected {tuple(tensor.shape)}"
            )


def model_card(config: MetricConfig) -> str:
    """A model card written from the config: what it is, how to use it, how it was trained, how good it is."""
    lines = ["---", "library_name: aigciqa"]
    if config.license:
        lines.append(f"license: {config.license.lower()}")
    images = '"out.png"' if config.kind == "nr" else '"out.png", "prompt.png"'
    lines += [
        "tags: [image-quality-assessment, ai-generated-images]",
        "---",
        f"# {config.metric}",
        "",
        f"{'No-reference' if config.kind == 'nr' else 'Full-reference'} quality metric for AI-generated images: "
        f"backbone `{config.backbone}`, dimensions {', '.join(config.dimensions)}. Higher is better.",
        "",
        "```python",
        "import aigciqa",
        "",
        f'metric = aigciqa.create_metric("{config.metric}", weights="THIS FOLDER OR REPO")',
        f"score = metric({images})",
        "```",
        "",
    ]
    for title, facts in (("Training", config.training), ("Results", config.results)):
        lines += [f"## {title}", "", *([f"- {key}: {value}" for key, value in facts.items()] or ["Not stated."]), ""]
    return "\n".join(lines)


def _read_preprocess(reader: _Reader) -> Preprocess:
    return Preprocess(
        resize=reader.size("resize"),
        crop=reader.size("crop"),
        mean=reader.triple("mean"),
        std=reader.triple("std"),
        max_side=reader.size("max_side"),
        eight_bit=reader.get("eight_bit", bool, False),
    )


_MISSING = object()


class _Reader:
    """Typed access to a parsed JSON object; every complaint names the key."""

    def __init__(self, data: Mapping[str, Any], prefix: str = "") -> None:
        self.data = data
        self.prefix = prefix

    def error(self, key: str, expected: str) -> CheckpointError:
        found = repr(self.data[key]) if key in self.data else "absent"
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

    def size(self, key: str) -> int | None:
        value = self.get(key, int, None)
        if value is not None and not 1 <= value <= 65536:
            raise self.error(key, "a number of pixels or null")
        return cast("int | None", value)

    def triple(self, key: str) -> tuple[float, float, float]:
        value = self.get(key, list)
        if len(value) != 3 or not all(_is_number(part) for part in value):
            raise self.error(key, "three numbers")
        return (float(value[0]), float(value[1]), float(value[2]))

    def ranges(self, key: str, names: tuple[str, ...]) -> dict[str, tuple[float, float]]:
        value = self.get(key, dict)
        valid = set(value) == set(names) and all(
            isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) and pair[0] < pair[1]
            for pair in value.values()
        )
        if not valid:
            raise self.error(key, "[lowest, highest] of every dimension")
        return {name: (float(value[name][0]), float(value[name][1])) for name in names}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _some(names: list[str], most: int = 5) -> str:
    listed = ", ".join(map(repr, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    os.replace(temporary, path)
