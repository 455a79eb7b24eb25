"""Model cards: the `README.md` of a checkpoint, written from its config."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aigciqa.checkpoints.config import MetricConfig, is_number
from aigciqa.errors import OutputExistsError
from aigciqa.utils.object_stores import local_path

CARD_FILE = "README.md"
#: What a generated card has in place of the repo's name, until it is published.
PLACEHOLDER = "ORG/NAME"
#: What model cards of checkpoints have among their first lines.
_MARK = "library_name: aigciqa"
#: What `training` has of a fitted head to know rated images again; no card tells it.
RATED = "rated_sha256"
_FITTED = """A linear head on statistics of `{backbone}`, which is frozen, and of the image itself, fitted to few
ratings with `aigciqa fit`. It holds for images of the kind that was rated: the same generators, prompts alike. Of
others it knows little, and `metric.predict(images, uncertainty=True)` says so."""
_UNSEEN = """Each rating was predicted by a head that had not seen it, nor any other of its group. Below the metric
stand controls, which were not fitted: a head that does not beat them has learnt less than it seems. In the learning
curve, the figure with an interval is what twice the ratings would be expected to bring."""


def checked_folder(output: str | os.PathLike[str]) -> Path:
    """Where a checkpoint is to be written.

    Raises:
        InputError: it is a URL.
        OutputExistsError: the folder's `README.md` is not the model card of a checkpoint.
    """
    folder = local_path(output)
    path = folder / CARD_FILE
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise OutputExistsError(
            f"{folder} has a README.md that is not a model card: name another folder, or move it away"
        )
    return folder


def model_card(config: MetricConfig) -> str:
    """A model card: what the metric is, how to use it, what it was trained on, how good it is."""
    license_line = f"license: {config.license.lower()}\n" if config.license else ""
    kind, images = "No-reference", '"out.png"'
    if config.kind == "fr":
        kind, images = "Full-reference", '"out.png", "prompt.png"'
    model = f"The backbone is `{config.backbone}`."
    if config.head == "regression":
        model = f"`{config.backbone}`, global average pooling, two fully connected layers (arXiv:2311.15556)."
    elif config.head == "linear":
        model = _FITTED.format(backbone=config.backbone)
    ranges = {name: f"{low:g} to {high:g}" for name, (low, high) in config.score_ranges.items()}
    training = _flat({name: value for name, value in config.training.items() if name != RATED})
    return f"""---
{_MARK}
tags: [image-quality-assessment, ai-generated-images]
{license_line}---
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

{_table(("", ""), training) if training else "Not stated."}

## Results

{_results(config) if config.results else "Not stated."}

## License

{config.license or "Not stated."}
"""


def _results(config: MetricConfig) -> str:
    """A row for each group (a dimension, a database), a column for each figure; below them what is in no group."""
    rows: dict[str, dict[str, Any]] = {}
    lone: dict[str, Any] = {}
    parts: list[str] = []
    for name, figures in config.results.items():
        if not isinstance(figures, dict):
            lone[name] = figures
        elif any(isinstance(each, dict) for each in figures.values()):
            parts.append(_section(name, figures))
        else:
            rows[name] = figures
    parts = [_grid(rows) if rows else "", *parts, _table(("", ""), _flat(lone)) if lone else ""]
    notes = [_UNSEEN] if config.head == "linear" else []
    if "[" in "".join(parts):
        notes.append("A figure [low, high]: 95% confidence interval.")
    return "\n\n".join(part for part in (*parts, "\n".join(notes)) if part)


def _section(name: str, figures: Mapping[str, Any]) -> str:
    """A group that has groups in it, such as the controls of a fitted head: they are rows below its own figures."""
    own: dict[str, Any] = {}
    rows = {"this metric": own}
    tables, sentences = [], []
    for key, value in figures.items():
        if isinstance(value, dict):
            if value and all(isinstance(each, dict) for each in value.values()):
                rows |= value
            else:
                tables.append(_grid({key: value}))
        elif isinstance(value, list) and all(isinstance(each, str) for each in value):
            sentences += [f"- {each}" for each in value]
        else:
            own[key] = value
    return "\n\n".join(part for part in (f"### {name}", _grid(rows), *tables, "\n".join(sentences)) if part)


def _grid(groups: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each group, a column for each figure."""
    rows = {name: dict(_flat(figures)) for name, figures in groups.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    cells = [(name, *(row.get(column, "") for column in columns)) for name, row in rows.items()]
    return _table(("", *columns), cells)


def _figure(value: Any) -> str:
    """A number, or [value, low, high]; nothing for null."""
    if isinstance(value, list) and len(value) == 3 and all(map(is_number, value)):
        return f"{value[0]:.4g} [{value[1]:.4g}, {value[2]:.4g}]"
    if isinstance(value, list) and len(value) == 3 and is_number(value[0]) and value[1:] == [None, None]:
        return _figure(value[0])
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Rows (key, value); the keys of a nested object are named `outer.inner`."""
    rows: list[tuple[str, str]] = []
    for key, value in data.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", _figure(value))]
    return rows


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    cells = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in cells)
