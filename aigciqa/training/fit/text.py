"""The figures of a fitted head, as text."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import wrap
from typing import Any

from aigciqa.tables.text import TextTable

_WIDTH = 80
_LONGEST_NAME = 16
#: Names of figures of agreement.
_LABELS = {"srcc": "SRCC", "plcc": "PLCC", "rmse": "RMSE", "accuracy": "accuracy"}


def figures_text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each dimension, its learning curve and its warnings, in 80 columns.

    Args:
        results: `config.results` of a fitted metric, as `crossvalidation.Figures.to_json` makes them.
    """
    return "\n\n".join(_of_dimension(name, figures) for name, figures in results.items())


def _of_dimension(name: str, figures: Mapping[str, Any]) -> str:
    names = [each for each in _LABELS if each in figures]
    rows = {"fitted head": figures, **figures["controls"]}
    table = TextTable(
        name,
        ("", *(_LABELS[each] for each in names)),
        tuple(
            (_short(label), *(_figure(row[each]) if each in row else "" for each in names))
            for label, row in rows.items()
        ),
        left=1,
    )
    what = "pairs" if "accuracy" in figures else "ratings"
    title = f"{name}: {figures['ratings']} {what}, each predicted without those of its group ({figures['groups']})"
    points = [
        f"expected of {count}: {_figure(value)}" if isinstance(value, list) else f"{count}: {_figure(value)}"
        for count, value in figures["learning_curve"].items()
    ]
    unbroken = [point.replace(" ", "\N{NO-BREAK SPACE}") for point in points]
    curve = "\n".join(wrap(f"{_LABELS[names[0]]} by {what}: {', '.join(unbroken)}", _WIDTH))
    lines = [*wrap(title, _WIDTH), table.aligned(), curve.replace("\N{NO-BREAK SPACE}", " ")]
    for warning in figures["warnings"]:
        lines += wrap(f"Warning: {warning}", _WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_NAME else f"{label[: _LONGEST_NAME - 1]}…"


def _figure(figure: Any) -> str:
    """A figure, with its interval if it has one."""
    if not isinstance(figure, list):
        return _number(figure)
    value, low, high = map(_number, figure)
    return f"{value} [{low}, {high}]" if low != "n/a" else value


def _number(value: float | None) -> str:
    """Two decimals, fewer of large numbers."""
    if value is None:
        return "n/a"
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}".replace("-", "−")
