"""The figures of a fitted head, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aigciqa.tables.text import TextTable


def figures_text(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A table for each dimension and its learning curve, in 80 columns.

    Args:
        results: `config.results` of a fitted metric: dimension -> `ratings` and `groups` (counts), `srcc`, `plcc` and
            `rmse` (each `[value, low, high]`), `controls` (name -> the same three), `learning_curve` (count -> SRCC,
            the last one estimated).
    """
    return "\n\n".join(_of_dimension(name, figures) for name, figures in results.items())


def _of_dimension(name: str, figures: Mapping[str, Any]) -> str:
    rows = [("fitted head", figures), *figures.get("controls", {}).items()]
    table = TextTable(
        name,
        ("", "SRCC", "PLCC", "RMSE"),
        tuple((label, *(_figure(row.get(each)) for each in ("srcc", "plcc", "rmse"))) for label, row in rows),
        left=1,
    )
    lines = [f"{name}: {figures['ratings']} ratings, each predicted without those of its group ({figures['groups']})"]
    lines.append(table.aligned())
    if curve := figures.get("learning_curve"):
        *seen, (twice, guess) = curve.items()
        known = ", ".join(f"{count}: {_number(srcc)}" for count, srcc in seen)
        lines.append(f"SRCC by ratings: {known}; {twice} would give about {_number(guess)}")
    return "\n".join(lines)


def _figure(figure: Any) -> str:
    """A figure with its interval, if it has one."""
    if figure is None:
        return ""
    if isinstance(figure, (int, float)):
        return _number(figure)
    value, low, high = map(_number, figure)
    return f"{value} [{low}, {high}]"


def _number(value: float) -> str:
    """Two decimals, fewer of large numbers."""
    decimals = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{decimals}f}".replace("-", "−")
