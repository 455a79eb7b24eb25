"""An evaluation as images: scores against opinion scores, and the agreement for each generator."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from aigciqa.evaluation.predictions import Array, opinions
from aigciqa.evaluation.results import Evaluation, Result
from aigciqa.plotting import require_matplotlib
from aigciqa.tables.text import rounded, with_interval
from aigciqa.utils.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
#: Okabe and Ito's colours, told apart by the colour-blind as well, and marks to match.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
MARKS = ("o", "s", "^", "D", "v", "P", "X")
_INK, _GRID = "#222222", "#DDDDDD"
_STYLE = {
    "font.size": 10, "text.color": _INK, "xtick.color": _INK, "ytick.color": _INK,
    "axes.edgecolor": "#888888", "axes.labelcolor": _INK, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titleweight": "bold", "axes.titlesize": 11,
    "axes.spines.top": False, "axes.spines.right": False,
    "svg.fonttype": "none", "svg.hashsalt": "aigciqa",
}  # fmt: skip
_DPI = 200
_LEGEND_COLUMNS = 3


def write_plots(
    evaluation: Evaluation, folder: str | os.PathLike[str], *, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Draw everything there is to draw.

    Args:
        evaluation: what `evaluate` returned.
        folder: made if absent.
        formats: `png`, `svg`, or another that matplotlib writes.

    Returns:
        The files: `scatter-<metric>-<dimension>.*` and, where samples name generators, `generators-<dimension>.*`; the
        second of a name is `<name>-2.*`, also where only case tells them apart.

    Raises:
        MissingExtraError: matplotlib is missing.
    """
    require_matplotlib()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures: list[tuple[tuple[str, ...], Figure]]
    figures = [(("scatter", each.metric, each.dimension), scatter(evaluation, each)) for each in evaluation.results]
    for dimension in dict.fromkeys(each.dimension for each in evaluation.results):
        shown = [each for each in evaluation.results if each.dimension == dimension]
        if any(each.generators for each in shown):
            figures.append((("generators", dimension), per_generator(shown)))
    paths = []
    taken = Counter[str]()
    with require_matplotlib().rc_context(_STYLE):
        for labels, figure in figures:
            name = "-".join(re.sub(r"[^\w.-]+", "_", label).strip("_") for label in labels)
            taken[name.casefold()] += 1
            number = taken[name.casefold()]
            for suffix in formats:
                paths.append(folder / f"{name}{'' if number == 1 else f'-{number}'}.{suffix}")
                metadata = {"Date": None} if suffix == "svg" else None
                with replacing(paths[-1]) as unfinished:
                    figure.savefig(unfinished, dpi=_DPI, format=suffix, metadata=metadata)
    return paths


def scatter(evaluation: Evaluation, result: Result) -> Figure:
    """Scores against opinion scores, a colour per generator, with the logistic that the fitted figures use."""
    predictions = next(each for each in evaluation.predictions if each.label == result.metric)
    scores = predictions.oriented(result.dimension)
    mos = opinions(evaluation.samples, result.dimension)
    known = np.isfinite(scores) & np.isfinite(mos)
    generators = [sample.generator for sample in evaluation.samples]
    with require_matplotlib().rc_context(_STYLE):
        figure, axes = _figure(6.6, 4.6)
        names = sorted({name for name, shown in zip(generators, known, strict=True) if shown and name is not None})
        for number, name in enumerate(names or [None]):
            rows = known & np.array([each == name or not names for each in generators])
            _points(axes, scores[rows], mos[rows], number, name, crowd=int(known.sum()))
        if result.agreement.mapping is not None:
            along = np.linspace(scores[known].min(), scores[known].max(), 200)
            axes.plot(along, result.agreement.mapping(along), color=_INK, linewidth=2, label="fitted logistic")
        label = predictions.label
        axes.set_xlabel(f"− {label} (lower is better)" if predictions.lower_better else f"{label} score")
        axes.set_ylabel(f"mean opinion score: {result.dimension}")
        axes.set_title(f"{result.metric} on {result.dimension}", pad=26)
        line = axes.text(0, 1.03, _figures_line(result), transform=axes.transAxes, fontsize=9, color="#555555")
        line.set_in_layout(False)  # it may reach above the legend
        axes.grid(color=_GRID, linewidth=0.8)
        if names or result.agreement.mapping is not None:
            legend = axes.legend(
                frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0), handlelength=1.4,
                markerscale=1.4,
            )  # fmt: skip
            for handle in filter(None, legend.legend_handles):
                handle.set_alpha(1.0)
    return figure


def per_generator(results: Sequence[Result]) -> Figure:
    """SRCC of metrics, of one dimension, for each generator and over all images: bars with 95% intervals."""
    names = sorted({name for result in results for name in result.generators})
    rows = [*names, "all"]
    height = 0.8 / len(results)
    legend_rows = math.ceil(len(results) / _LEGEND_COLUMNS) if len(results) > 1 else 0
    with require_matplotlib().rc_context(_STYLE):
        figure, axes = _figure(6.4, 1.1 + 0.2 * legend_rows + len(rows) * (0.22 + 0.17 * len(results)))
        for number, result in enumerate(results):
            found = {**result.generators, "all": result.agreement}
            places = [
                row + (number - (len(results) - 1) / 2) * height for row, name in enumerate(rows) if name in found
            ]
            figures = [found[name].srcc for name in rows if name in found]
            values = np.array([each.value for each in figures])
            reach = np.array([[each.value - each.low, each.high - each.value] for each in figures]).T
            axes.barh(
                places, values, height * 0.86, color=COLOURS[number % len(COLOURS)], label=result.metric,
                hatch="///" if number >= len(COLOURS) else None, edgecolor="white", linewidth=0,
                xerr=np.clip(np.nan_to_num(reach), 0, None),
                error_kw={"ecolor": _INK, "elinewidth": 1.1, "capsize": 2.5},
            )  # fmt: skip
        axes.axhline(len(names) - 0.5, color="#888888", linewidth=0.8)
        axes.axvline(0, color="#888888", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [_with_count(name, results) for name in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(right=1.0)
        axes.set_xlabel("SRCC with people, 95% interval")
        axes.set_title(f"{results[0].dimension}, by generator", pad=8 + 15 * legend_rows)
        axes.grid(axis="x", color=_GRID, linewidth=0.8)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        if len(results) > 1:
            axes.legend(
                frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(-0.01, 1.0), borderaxespad=0.2,
                ncols=_LEGEND_COLUMNS, handlelength=1.0, handletextpad=0.4, columnspacing=1.2,
            )  # fmt: skip
    return figure


def _points(axes: Axes, scores: Array, mos: Array, number: int, name: str | None, crowd: int) -> None:
    size = float(np.clip(9000 / max(crowd, 1), 10, 36))
    axes.scatter(
        scores, mos, s=size, color=COLOURS[number % len(COLOURS)],
        marker=MARKS[(number + number // len(COLOURS)) % len(MARKS)],
        alpha=0.55, linewidths=0, label=name, rasterized=crowd > 2000,
    )  # fmt: skip


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure that no window and no global state knows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _figures_line(result: Result) -> str:
    ours = result.agreement
    figures = {"SRCC": with_interval(ours.srcc.value, ours.srcc.low, ours.srcc.high), "PLCC": rounded(ours.plcc.value)}
    if ours.mapping is not None:
        figures |= {"fitted": rounded(ours.plcc_fitted.value), "RMSE": rounded(ours.rmse.value)}
    return "   ".join([f"n {ours.n}", *(f"{name} {figure}" for name, figure in figures.items())])


def _with_count(name: str, results: Sequence[Result]) -> str:
    found = [each.agreement if name == "all" else each.generators.get(name) for each in results]
    return f"{name}  ({max(each.n for each in found if each is not None)})"
