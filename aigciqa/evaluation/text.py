"""An evaluation as text: for the terminal, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from aigciqa.evaluation.results import Comparison, Evaluation, Published, Result
from aigciqa.stats.bootstrap import Interval
from aigciqa.stats.correlations import MIN_TELLING, Agreement
from aigciqa.tables import provenance
from aigciqa.tables.csv_text import csv_lines
from aigciqa.tables.text import (
    TextTable,
    markdown_text,
    printable,
    probability,
    rounded,
    with_interval,
    without_nan,
    write_text,
    writer_of,
)
from aigciqa.utils.paths import counted

_NOTHING = Interval(math.nan, math.nan, math.nan)
#: Decimals of the paper's figures in tables to be read, and in CSV.
PAPER_DECIMALS, CSV_DECIMALS = 4, 6


def agreement_table(results: Sequence[Result], *, intervals: bool = True) -> TextTable:
    """A row per metric and dimension, and the paper's beside ours; without `intervals`, only SRCC has one.

    Of fewer images than `MIN_TELLING` there are no figures, in the other tables as well.
    """
    paper = any(each.published is not None for each in results)
    beside = ("paper", "diff") if paper else ()
    header = (
        "metric", "dimension", "n", "SRCC", *beside, "PLCC", *beside, "PLCC fitted", "KRCC", "RMSE", "within prompts"
    )  # fmt: skip

    def row(result: Result) -> tuple[str, ...]:
        ours = _telling(result.agreement)
        theirs = result.published
        within = result.within if ours.n >= MIN_TELLING else _NOTHING
        show = _interval if intervals else _value
        return (
            result.metric, result.dimension, str(ours.n),
            _interval(ours.srcc), *(_beside(ours.srcc, theirs and theirs.srcc) if paper else ()),
            show(ours.plcc), *(_beside(ours.plcc, theirs and theirs.plcc) if paper else ()),
            show(ours.plcc_fitted), show(ours.krcc), show(ours.rmse), show(within),
        )  # fmt: skip

    return TextTable("Agreement with people", header, tuple(map(row, results)), left=2)


def generator_table(results: Sequence[Result], *, intervals: bool = True) -> TextTable:
    """A row per metric, dimension and generator; `intervals` as for `agreement_table`."""
    show = _interval if intervals else _value
    header = ("metric", "dimension", "generator", "n", "SRCC", "PLCC", "PLCC fitted", "KRCC", "RMSE")
    rows = tuple(
        (
            result.metric, result.dimension, name, str(ours.n),
            _interval(ours.srcc), show(ours.plcc), show(ours.plcc_fitted), show(ours.krcc), show(ours.rmse),
        )
        for result in results
        for name, ours in ((name, _telling(each)) for name, each in result.generators.items())
    )  # fmt: skip
    return TextTable("Per generator", header, rows, left=3)


def comparison_table(comparisons: Sequence[Comparison]) -> TextTable:
    """A row per pair of metrics and dimension."""
    header = ("first", "second", "dimension", "n", "SRCC first − second", "Williams t", "p", "Steiger Z", "p")
    rows = tuple(
        (
            each.first, each.second, each.dimension, str(each.n), _interval(each.difference, signed=True),
            rounded(each.williams.statistic), probability(each.williams.p),
            rounded(each.steiger.statistic), probability(each.steiger.p),
        )
        for each in comparisons
        if each.n >= MIN_TELLING
    )  # fmt: skip
    return TextTable("Differences between metrics", header, rows, left=3)


def sections(evaluation: Evaluation, *, intervals: bool = True) -> list[TextTable]:
    """All tables of an evaluation that have rows; arguments as for `agreement_table`."""
    tables = (
        agreement_table(evaluation.results, intervals=intervals),
        generator_table(evaluation.results, intervals=intervals),
        comparison_table(evaluation.comparisons),
    )
    return [table for table in tables if table.rows]


def caption(evaluation: Evaluation) -> str:
    """What was evaluated, in a few sentences."""
    return " ".join(_sentences(evaluation))


def _sentences(evaluation: Evaluation) -> list[str]:
    setting = evaluation.setting
    groups = {sample.group for sample in evaluation.samples}
    where = [
        setting.database,
        f"protocol {setting.protocol}" if setting.protocol else "",
        f"{setting.part} part" if setting.part else "",
        f"seed {setting.seed}" if setting.seed is not None else "",
        f"split {setting.split[:12]}" if setting.split else "",
    ]
    count = f"{counted(evaluation.samples, 'image')} of {counted(len(groups), 'prompt')}"
    what = ": ".join(filter(None, (", ".join(filter(None, where)), count)))
    notes = (f"Note: {printable(note)}." for note in evaluation.notes)
    return [f"{what}.", "In brackets: 95% intervals, by resampling prompts.", *notes]


def to_terminal(evaluation: Evaluation) -> str:
    """Aligned text, with the intervals of SRCC only."""
    tables = sections(evaluation, intervals=False)
    heading = "\n".join(_sentences(evaluation))
    return "\n\n".join([heading, *(f"{table.title}\n{table.aligned()}" for table in tables)]) + "\n"


def to_markdown(evaluation: Evaluation) -> str:
    """Markdown tables under headings."""
    parts = [
        markdown_text(caption(evaluation)),
        *(f"## {table.title}\n\n{table.markdown()}" for table in sections(evaluation)),
    ]
    return "\n\n".join(parts) + "\n"


def to_latex(evaluation: Evaluation) -> str:
    r"""LaTeX `tabular`s, to be `\input`; they need no package."""
    parts = [f"% {caption(evaluation)}", *(f"% {each.title}\n{each.latex()}" for each in sections(evaluation))]
    return "\n\n".join(parts) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """One row per metric, dimension and generator (empty: all images), every figure with its bounds."""
    rows = [row for result in evaluation.results for row in _csv_rows(evaluation, result)]
    return csv_lines(rows, list(rows[0]))


def to_json(evaluation: Evaluation) -> str:
    """Everything but the single predictions; what is NaN is null."""
    found = {
        **asdict(evaluation.setting),
        "samples": len(evaluation.samples),
        "results": [_result(each) for each in evaluation.results],
        "comparisons": [asdict(each) for each in evaluation.comparisons],
        "failures": [dict(zip(("metric", "image", "error"), each, strict=True)) for each in evaluation.failures],
    }
    return json.dumps(without_nan(found), indent=2, allow_nan=False) + "\n"


def predictions_csv(evaluation: Evaluation) -> str:
    """A row per image and metric: the columns of `aigciqa score`, the generator, and each rating as `mos_*`.

    Scores are exact: rounding would tie what the figures tell apart.
    """
    dimensions = list(dict.fromkeys(result.dimension for result in evaluation.results))
    rows = []
    for each in evaluation.predictions:
        for number, sample in enumerate(evaluation.samples):
            scores = {name: each.scores[name][number] for name in dimensions if name in each.scores}
            rows.append(
                {
                    "image": sample.image, "reference": sample.reference, "group": sample.group, "metric": each.label,
                    **{name: without_nan(scores.get(name)) for name in dimensions},
                    "error": each.errors[number], "generator": sample.generator,
                    **{f"mos_{name}": without_nan(sample.scores.get(name)) for name in dimensions},
                }
            )  # fmt: skip
    return csv_lines(rows, list(rows[0]))


#: Suffix of a report -> what writes it.
WRITERS: Mapping[str, Callable[[Evaluation], str]] = MappingProxyType(
    {".csv": to_csv, ".json": to_json, ".md": to_markdown, ".tex": to_latex}
)


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a report of a kind that can't be written."""
    writer_of(path, WRITERS, "report")


def write_report(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write an evaluation to `.csv`, `.json`, `.md` or `.tex`, making its folder; any other is an `InputError`."""
    write_text(path, writer_of(path, WRITERS, "report")(evaluation))
    provenance.forget(path)


def _telling(ours: Agreement) -> Agreement:
    """The figures, without those of images so few that they say nothing."""
    if ours.n >= MIN_TELLING:
        return ours
    return Agreement(ours.n, ours.groups, _NOTHING, _NOTHING, _NOTHING, _NOTHING, _NOTHING, mapping=None)


def _interval(interval: Interval, *, signed: bool = False) -> str:
    return with_interval(interval.value, interval.low, interval.high, signed=signed)


def _value(interval: Interval) -> str:
    return rounded(interval.value)


def _beside(ours: Interval, theirs: float | None) -> tuple[str, str]:
    """The paper's figure and ours less it."""
    if theirs is None:
        return "", ""
    return f"{theirs:.{PAPER_DECIMALS}f}", rounded(ours.value - theirs, signed=True)


def _result(result: Result) -> dict[str, Any]:
    published = result.published
    return {
        "metric": result.metric,
        "dimension": result.dimension,
        "failed": result.failed,
        **asdict(result.agreement),
        "srcc_within": asdict(result.within),
        "generators": {name: asdict(each) for name, each in result.generators.items()},
        "paper": None if published is None else {**published._asdict(), **_differences(result, published)},
    }


def _differences(result: Result, published: Published) -> dict[str, float]:
    ours = {"srcc": result.agreement.srcc.value, "plcc": result.agreement.plcc.value}
    return {f"{name}_difference": ours[name] - theirs for name, theirs in published._asdict().items()}


def _csv_rows(evaluation: Evaluation, result: Result) -> Iterable[dict[str, Any]]:
    overall: dict[str, Any] = _bounded("srcc_within", result.within)
    overall |= dict.fromkeys(("paper_srcc", "paper_plcc", "srcc_difference", "plcc_difference"))
    if result.published is not None:
        overall |= {f"paper_{name}": figure for name, figure in result.published._asdict().items()}
        overall |= {name: _csv_number(value) for name, value in _differences(result, result.published).items()}
    yield {**_csv_figures(evaluation, result, result.agreement, None), **overall}
    for name, ours in result.generators.items():
        yield {**_csv_figures(evaluation, result, ours, name), **dict.fromkeys(overall)}


def _csv_figures(evaluation: Evaluation, result: Result, ours: Agreement, generator: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        **asdict(evaluation.setting), "metric": result.metric, "dimension": result.dimension, "generator": generator,
        "n": ours.n, "groups": ours.groups, "failed": result.failed if generator is None else None,
    }  # fmt: skip
    for name, interval in ours.intervals().items():
        row |= _bounded(name, interval)
    return row


def _bounded(name: str, interval: Interval) -> dict[str, float | None]:
    values = {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {key: _csv_number(value) for key, value in values.items()}


def _csv_number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), CSV_DECIMALS)
