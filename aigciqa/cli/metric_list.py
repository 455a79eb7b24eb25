"""`aigciqa score --list`: the metrics there are, those first that work without a download."""

from __future__ import annotations

from collections.abc import Sequence

import click

from aigciqa.registry import METRICS, SCORE_RANGES, MetricSpec
from aigciqa.tables.text import TextTable

_HEADER = ("metric", "reference", "sees", "extra")


def metric_list() -> str:
    """All metrics, in two tables."""
    embedded = [spec for spec in METRICS.values() if spec.embedded]
    others = [spec for spec in METRICS.values() if not spec.embedded]
    return (
        "No weights of the paper's ten metrics are published yet.\n\n"
        f"Ready to use, without a download; they score quality:\n{_table(embedded)}\n\n"
        "To train, or with weights of yours or somebody's (--weights DIR or ORG/NAME);\n"
        f"they score {', '.join(SCORE_RANGES)}:\n{_table(others)}\n\n"
        "nr-timm/MODEL and fr-timm/MODEL are the same on any model of timm (extra timm)."
    )


def show_metrics(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    """Print them, and end the command."""
    if asked:
        click.echo(metric_list())
        context.exit()


def _table(specs: Sequence[MetricSpec]) -> str:
    rows = []
    for spec in specs:
        reference = "needed" if spec.requires_reference else "none"
        sees = "the whole image"
        if spec.input_size is not None:
            sees = "nine crops" if spec.embedded else f"the centre, {spec.input_size} x {spec.input_size}"
        rows.append((spec.name, reference, sees, "fit" if spec.package is not None else "-"))
    return TextTable("Metrics", _HEADER, tuple(rows), left=len(_HEADER)).aligned()
