"""Model cards: the `README.md` of a checkpoint, written from its config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aigciqa.checkpoints.config import MetricConfig, is_number
from aigciqa.errors import OutputExistsError

CARD_FILE = "README.md"
#: What a generated card has in place of the repo's name, until it is published.
PLACEHOLDER = "ORG/NAME"
#: What model cards of checkpoints have among their first lines.
_MARK = "library_name: aigciqa"


def check_readme(folder: Path) -> None:
    """Raise OutputExistsError if the folder's `README.md` is not the model card of a checkpoint."""
    path = folder / CARD_FILE
    if path.is_file() and _MARK not in path.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise OutputExistsError(
            f"{folder} has a README.md that is not a model card: name another folder, or move it away"
        )


def model_card(config: MetricConfig) -> str:
    """A model card: what the metric is, how to use it, what it was trained on, how good it is."""
    license_line = f"license: {config.license.lower()}\n" if config.license else ""
    kind, images = "No-reference", '"out.png"'
    if config.kind == "fr":
        kind, images = "Full-reference", '"out.png", "prompt.png"'
    model = f"The backbone is `{config.backbone}`."
    if config.head == "regression":
        model = f"`{config.backbone}`, global average pooling, two fully connected layers (arXiv:2311.15556)."
    ranges = {name: f"{low:g} to {high:g}" for name, (low, high) in config.score_ranges.items()}
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

{_table(("", ""), _flat(config.training)) if config.training else "Not stated."}

## Results

{_results(config.results) if config.results else "Not stated."}

## License

{config.license or "Not stated."}
"""


def _results(results: Mapping[str, Any]) -> str:
    """A row for each group (a dimension, a database), a column for each figure; below them what is in no group."""
    groups = {name: figures for name, figures in results.items() if isinstance(figures, dict)}
    columns = list(dict.fromkeys(column for figures in groups.values() for column in figures))
    rows = [(name, *(_figure(figures.get(column, "")) for column in columns)) for name, figures in groups.items()]
    lone = _flat({name: figure for name, figure in results.items() if name not in groups})
    tables = [_table(("", *columns), rows) if rows else "", _table(("", ""), lone) if lone else ""]
    note = "A figure [low, high]: 95% confidence interval." if "[" in "".join(tables) else ""
    return "\n\n".join(part for part in (*tables, note) if part)


def _figure(value: Any) -> str:
    """A number, or [value, low, high]."""
    if isinstance(value, list) and len(value) == 3 and all(map(is_number, value)):
        return f"{value[0]:.4g} [{value[1]:.4g}, {value[2]:.4g}]"
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
