"""A comparison of groups as text: for the terminal, Markdown, CSV and JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType

from aigciqa.compare.groups import Comparison, Result, have_prompts
from aigciqa.compare.picking import Pick
from aigciqa.stats.groups import MIN_MATCHED, SIGNIFICANCE, NonInferiority, proving_prompts
from aigciqa.tables import provenance
from aigciqa.tables.csv_text import csv_lines
from aigciqa.tables.text import (
    TextTable,
    markdown_text,
    percent,
    printable,
    probability,
    rounded,
    with_interval,
    without_nan,
    write_text,
    writer_of,
)
from aigciqa.utils.paths import counted, shown

_CSV_COLUMNS = (
    "metric", "dimension", "first", "second", "first_mean", "second_mean", "prompts", "pairs", "matched", "difference",
    "low", "high", "win_rate", "p_value", "is_significant",
)  # fmt: skip
#: Of the images that could not be scored, these many are named.
_SHOWN = 10
_LUCK = (
    "The best of several is picked with some luck, so that its mean is too high an estimate: confirm it on prompts "
    "that it was not picked by."
)
#: Relative difference from their mean that equal scores can have.
_ROUNDING = 1e-12


def to_terminal(result: Result) -> str:
    """Aligned text."""
    parts = [_heading(result)]
    for comparison in result.comparisons:
        parts.append(printable(comparison.label))
        parts += [f"{table.title}\n{table.aligned()}" for table in _tables(result, comparison)]
    return "\n\n".join(filter(None, [*parts, "\n".join(_notes(result))])) + "\n"


def to_markdown(result: Result) -> str:
    """Markdown tables under headings."""
    parts = [markdown_text(_heading(result))]
    for comparison in result.comparisons:
        parts.append(f"## {markdown_text(printable(comparison.label))}")
        parts += [f"### {table.title}\n\n{table.markdown()}" for table in _tables(result, comparison)]
    return "\n\n".join([*parts, *map(markdown_text, _notes(result))]) + "\n"


def to_csv(result: Result) -> str:
    """A row per metric, dimension and pair of groups; the means are those of all scores of a group."""
    rows = []
    for comparison in result.comparisons:
        means = {each.name: each.mean for each in comparison.summaries}
        for each in comparison.differences:
            row = {**asdict(each), "metric": comparison.metric, "dimension": comparison.dimension, "prompts": each.n}
            row |= {"first_mean": means[each.first], "second_mean": means[each.second]}
            rows.append({name: without_nan(row[name]) for name in _CSV_COLUMNS})
    return csv_lines(rows, _CSV_COLUMNS)


def to_json(result: Result) -> str:
    """Everything but the single scores; what is NaN is null."""
    found = {
        "matched_by": result.matching.rule,
        "baseline": result.baseline,
        "fail_below": result.share,
        "passed": None if result.share is None else not result.below,
        "groups": [
            {"name": group.name, "rows": len(group.rows), "failed": len(group.failures)} for group in result.groups
        ],
        "blocks": [
            {
                "metric": each.metric,
                "dimension": each.dimension,
                "standings": list(map(asdict, each.summaries)),
                "differences": list(map(asdict, each.differences)),
                "margins": list(map(asdict, each.non_inferiority)),
                "pick": None if each.pick is None else {**asdict(each.pick), "as_good": each.pick.as_good},
            }
            for each in result.comparisons
        ],
        "alone": [dict(zip(("metric", "dimension", "group"), each, strict=True)) for each in result.uncompared],
        "failures": [
            {"group": name, **{key: row[key] for key in ("image", "metric", "error")}} for name, row in result.failures
        ],
    }
    return json.dumps(without_nan(found), indent=2, allow_nan=False) + "\n"


#: Format -> what writes it.
WRITERS: Mapping[str, Callable[[Result], str]] = MappingProxyType(
    {"terminal": to_terminal, "markdown": to_markdown, "json": to_json, "csv": to_csv}
)
_WRITERS_OF_FILES = MappingProxyType({".md": to_markdown, ".json": to_json, ".csv": to_csv})


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a file of a kind that can't be written."""
    writer_of(path, _WRITERS_OF_FILES, "comparison")


def write_result(result: Result, path: str | os.PathLike[str]) -> None:
    """Write a comparison to a file ending in `.md`, `.json` or `.csv`; its folder is made if absent."""
    write_text(path, writer_of(path, _WRITERS_OF_FILES, "comparison")(result))
    provenance.forget(path)


def _heading(result: Result) -> str:
    """What was compared and how images were matched, in a few lines."""
    lines = [f"{len(result.groups)} groups.", _matched(result), "In brackets: 95% intervals, by resampling prompts."]
    if any(len(comparison.differences) > 1 for comparison in result.comparisons):
        lines.append(f"p is corrected for the number of pairs (Holm): below {SIGNIFICANCE} it is significant.")
    return "\n".join(lines)


def findings(result: Result) -> Iterator[str]:
    """What was asked for beside the figures: the verdicts on a share of the baseline, and the best checkpoint."""
    for comparison in result.comparisons:
        yield from (_verdict(result, comparison, each) for each in comparison.non_inferiority)
    picks = [(comparison, comparison.pick) for comparison in result.comparisons if comparison.pick is not None]
    for comparison, pick in picks:
        yield f"{printable(comparison.label)}: {_picked(pick)}"
    if picks:
        yield _LUCK


def _notes(result: Result) -> Iterator[str]:
    """The findings, and what could not be scored or compared."""
    yield from findings(result)
    for comparison in result.comparisons:
        yield from _too_little(comparison)
    for metric, dimension, name in result.uncompared:
        yield printable(f"Only {name} has scores of {metric} · {dimension}: not compared.")
    if failures := result.failures:
        reasons = [f"- {printable(name)}: {printable(row['error'])}" for name, row in failures[:_SHOWN]]
        more = [f"- and {len(failures) - _SHOWN} more"] if len(failures) > _SHOWN else []
        yield "\n".join([f"{counted(failures, 'score')} missing and left out:", *reasons, *more])


def _picked(pick: Pick) -> str:
    """The best checkpoint, its leads over those that matter, and which others may be as good."""
    best, names = pick.best, {name: printable(name) for name in pick.order}
    mean = with_interval(best.mean, best.low, best.high)
    lines = [f"{names[best.name]} is best of {counted(pick.order, 'checkpoint')}, with a mean of {mean}."]
    roles = {"runner-up": pick.runner_up, "last": pick.order[-1], "first": pick.order[0]}
    for lead in sorted(pick.leads, key=lambda lead: lead.second != pick.runner_up):
        if found := [role for role, name in roles.items() if name == lead.second]:
            difference = with_interval(lead.difference, lead.low, lead.high, signed=True)
            verdict = "significant" if lead.is_significant else "not significant"
            p = probability(lead.p_value).removeprefix("< ")
            sign = "=" if p == probability(lead.p_value) else "<"
            lines.append(
                f"Its lead over {names[lead.second]} ({', '.join(found)}): {difference}, p {sign} {p}: {verdict}."
            )
    others = [names[name] for name in pick.as_good]
    first, last = (pick.order.index(pick.as_good[place]) for place in (0, -1))
    if len(others) == 1:
        lines.append("It is significantly better than each of the others.")
    elif len(others) == len(pick.order):
        lines.append("Any of them may be as good.")
    elif len(others) > 2 and last - first + 1 == len(others):
        lines.append(f"Any of {others[0]} to {others[-1]} may be as good.")
    else:
        lines.append(f"Any of {', '.join(others)} may be as good.")
    return "\n".join(lines)


def _too_little(comparison: Comparison) -> Iterator[str]:
    """Warnings of figures that say nothing: of one score, or of equal scores."""
    scored = [each for each in comparison.summaries if each.n]
    label = printable(comparison.label)
    single = [printable(each.name) for each in scored if each.n == 1]
    if single:
        needed = proving_prompts(len(comparison.differences))
        yield (
            f"{label}: one score only of {shown(single)}: no interval, no test. Two images or more of each group "
            f"give them, and {needed} prompts or more can prove a difference."
        )
    value = scored[0].worst
    if all(each.worst == value and math.isclose(each.mean, value, rel_tol=_ROUNDING) for each in scored):
        yield f"{label}: all scores are equal ({rounded(value)}): they say nothing of these images."


def _matched(result: Result) -> str:
    found = [each for comparison in result.comparisons for each in comparison.differences]
    matched = [each for each in found if each.matched]
    if not matched:
        if have_prompts(result.groups):
            return (
                f"Images are not matched: no two groups have {MIN_MATCHED} prompts or more in common. Scores of "
                "different prompts are compared: differences may be those of the prompts."
            )
        return (
            f"Images are not matched: no two groups have {MIN_MATCHED} prompts or more in common that their paths, "
            "references or generation parameters show."
        )
    numbers = [f"{_span([each.n for each in matched])} prompts"]
    if result.matching.seeds is not None:
        numbers.append(f"{_span([each.pairs or 0 for each in matched])} pairs")
    rest = (
        f"; {len(found) - len(matched)} of {len(found)} pairs of groups can't be" if len(matched) < len(found) else ""
    )
    sizes = {name: len(set(keys) - {""}) for name, keys in result.matching.keys.items()}
    is_part = any(each.n < max(sizes[each.first], sizes[each.second]) for each in matched)
    part = " Differences leave out prompts that only one of two groups has; means don't." if is_part else ""
    if strays := result.strays:
        part = f" Without a prompt, and matched with none: {printable(shown(strays))}.{part}"
    needed = proving_prompts(max(sum(pair.n > 1 for pair in each.differences) for each in result.comparisons))
    few = f" Fewer than {needed} prompts prove nothing." if max(each.n for each in matched) < needed else ""
    return f"Images are matched by their {result.matching.rule}: {', '.join(numbers)} in common{rest}.{part}{few}"


def _span(counts: Sequence[int]) -> str:
    """The least and the most of some counts."""
    return str(max(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def _tables(result: Result, comparison: Comparison) -> tuple[TextTable, TextTable]:
    failed = {group.name: sum(row["metric"] == comparison.metric for row in group.failures) for group in result.groups}
    means = tuple(
        (
            each.name, str(each.n), str(failed[each.name]),
            with_interval(each.mean, each.low, each.high), rounded(each.median), rounded(each.worst),
        )
        for each in comparison.summaries
    )  # fmt: skip
    differences = tuple(
        (
            each.first, each.second, str(each.n) if each.matched else f"{each.n} unmatched",
            with_interval(each.difference, each.low, each.high, signed=True), percent(each.win_rate),
            probability(each.p_value), "yes" if each.is_significant else "no",
        )
        for each in comparison.differences
    )  # fmt: skip
    compared = ("first", "second", "prompts", "first − second", "wins", "p", "significant")
    return (
        TextTable("Means", ("group", "n", "failed", "mean", "median", "worst"), means, left=1),
        TextTable("Differences", compared, differences, left=2),
    )


def _verdict(result: Result, comparison: Comparison, found: NonInferiority) -> str:
    name, label = printable(found.name), printable(comparison.label)
    if found.n == 0:
        return f"FAILED: {name} has no scores of {label}."
    ratio = f"{found.mean / found.baseline_mean:.3f} of {printable(str(result.baseline))}'s"
    over = f"over the {found.n} prompts that both have" if found.matched else "over all scores, no prompts in common"
    means = f"{rounded(found.mean)} against {rounded(found.baseline_mean)}, {over}"
    verdict = "FAILED" if found in comparison.below else "passed"
    unsure = "; noise alone could turn it" if found.low <= 0 <= found.high else ""
    return f"{verdict}: {label}: {name} is {ratio} ({means}); needed: {result.share:g}{unsure}."
