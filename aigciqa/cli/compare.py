"""`aigciqa compare`: generators or checkpoints against each other, from their images or from tables of scores."""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    EXIT_DONE,
    EXIT_ERRORS,
    check_metric_names,
    check_references,
    check_report,
    check_table_output,
    command,
    complain,
    computing_options,
    load_metrics,
    overwrite_option,
    put,
    reference_option,
    report_option,
    unnamed_metric,
    weights_option,
    writing,
)
from aigciqa.compare.picking import by_step, checkpoint_names
from aigciqa.records import Item
from aigciqa.registry import SCORE_RANGES, known_metric
from aigciqa.tables.columns import columns_of, dimensions_of, to_row
from aigciqa.tables.scores import ScoreTable, is_table, read_table
from aigciqa.tables.text import printable
from aigciqa.utils.object_stores import may_exist
from aigciqa.utils.paths import absolute, counted

if TYPE_CHECKING:
    from aigciqa.compare.groups import Group, Result
    from aigciqa.metric import Metric
    from aigciqa.tables.provenance import MetricFacts

#: More groups are counted, not named, in a report's title.
_TITLE_NAMES = 4
#: Value of --by that picks one.
_CHECKPOINT = "checkpoint"
#: Generation parameters by which images are matched.
_MATCHED_BY = ("prompt", "seed")


@command("compare")
@click.argument("arguments", nargs=-1, metavar="A B...")
@click.option(
    "-m", "--metric", "names", multiple=True, metavar="METRIC",
    help="Metric to score images with, or to take of tables; may be given more than once. "
    "[default: those of the tables; else as for aigciqa score]",
)  # fmt: skip
@reference_option
@click.option(
    "--by", metavar="checkpoint|COLUMN",
    help="checkpoint: A, B and so on are checkpoints, named by what tells their paths apart; pick the best. Else "
    "divide one folder or table by this, such as model.",
)  # fmt: skip
@click.option("--baseline", metavar="NAME", help="Compare the others with this one. [default: all pairs]")
@click.option(
    "--fail-below", type=click.FloatRange(min=0, min_open=True), metavar="SHARE",
    help="Exit with status 1 if a group's mean is below this share of the baseline's, such as 0.95.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Write the comparison: .md, .json or .csv.")
@report_option
@overwrite_option
@click.option(
    "--format", "form", type=click.Choice(["terminal", "markdown", "json", "csv"]), default="terminal",
    help="What goes to standard output.",
)  # fmt: skip
@computing_options
@weights_option
@click.option("--dimension", metavar="D", help=f"Compare this dimension only: {', '.join(SCORE_RANGES)}, or a column.")
@click.option("--quiet", is_flag=True, help="No progress, and nothing on standard output where -o writes a file.")
def main(
    arguments: tuple[str, ...],
    names: tuple[str, ...],
    reference: str | None,
    by: str | None,
    baseline: str | None,
    fail_below: float | None,
    output: str | None,
    report: str | None,
    form: str,
    weights: str,
    dimension: str | None,
    quiet: bool,
    overwrite: bool,
    **computing: Any,
) -> None:
    """Compare generators or checkpoints: means, differences, win rates by prompt, significance.

    A, B and so on are folders of images, which are scored, or tables that aigciqa score -o wrote (.csv, .json, .jsonl,
    .parquet): each is a group. A single table is divided by its column group.

    With --by checkpoint, these are checkpoints of a model, such as runs/*/samples: the best is picked, and those that
    may be as good are named.

    The comparison goes to standard output, progress to standard error. Exit status: 0 compared, 1 images could not
    be scored or a group is below --fail-below, 2 usage error.
    """
    from aigciqa.compare import text
    from aigciqa.compare.groups import Group, check_names, compare
    from aigciqa.scoring.generation import check_fields

    if not arguments:
        raise click.UsageError("nothing to compare: name folders of images or tables of scores")
    if fail_below is not None and baseline is None:
        raise click.UsageError("--fail-below is a share of the baseline's mean: name it with --baseline")
    check_table_output("-o", output, [*arguments, reference])
    check_report(report, [*arguments, reference])
    if output is not None:
        text.check_suffix(output)
    named = [dimension] if dimension else []
    tables = {argument: read_table(argument, named) for argument in arguments if is_table(argument)}
    folders = [argument for argument in arguments if argument not in tables]
    for folder in folders:
        if not (folder == "-" or glob.has_magic(folder) or may_exist(folder)):
            raise click.UsageError(f"{folder}: no such file or folder")
    is_one, picks = len(arguments) == 1, by == _CHECKPOINT
    if is_one and folders and (by is None or picks):
        has_folders = next((True for each in glob.iglob(f"{glob.escape(arguments[0])}/*/")), False)
        hint = f", such as {arguments[0].rstrip('/')}/*" if has_folders else ", such as runs/*/samples" if picks else ""
        raise click.UsageError(f"{arguments[0]} is one group: name several folders{hint}")
    if by is not None and not (is_one or picks):
        raise click.UsageError(f"--by {by} divides one folder or table; got {counted(arguments, 'argument')}")
    if is_one and folders and by is not None:
        check_fields((by,), "--by")
    if reference is not None and not folders:
        raise click.UsageError("-r goes with images that are to be scored; tables name their references themselves")
    titles = _titles(arguments, picks)
    if picks:
        arguments = tuple(sorted(arguments, key=lambda argument: by_step(titles[argument])))
    baseline = titles.get(baseline, baseline) if baseline is not None else None
    if not is_one:
        check_names(list(titles.values()), baseline)
    groups = {argument: _table_group(titles[argument], table, names) for argument, table in tables.items()}
    dimensions = dict.fromkeys(name for table in tables.values() for name in table.dimensions)
    known: list[Mapping[str, MetricFacts]] = [table.metrics for table in tables.values()]
    if folders:
        names = names or _named_in(groups.values())
        fields = dict.fromkeys((*_MATCHED_BY, *((by,) if by is not None and not picks else ())))
        scored, metrics = _score_folders(
            folders, titles, names, reference, weights, dimension, tuple(fields), quiet, **computing
        )
        dimensions |= dict.fromkeys(dimensions_of(metrics, dimension))
        known.append({metric.name: metric.config.facts for metric in metrics})
        if tables:  # of which only the images are known, not the folder that was scored
            scored = {argument: Group.of_rows(each.name, each.rows) for argument, each in scored.items()}
        groups |= scored
    if dimension and dimension not in dimensions:
        raise click.UsageError(f"no scores of {dimension!r}; there are {', '.join(dimensions)}")
    compared = [dimension] if dimension else list(dimensions)
    given = _divided(groups[arguments[0]], by) if is_one else [groups[argument] for argument in arguments]
    result = compare(given, compared, baseline=baseline, share=fail_below, pick_best=picks)
    with writing(), contextlib.ExitStack() as last:  # a closed pipe costs no file, a full disk no output
        if output is None or not quiet:
            last.callback(put, text.WRITERS[form](result), nl=False)
        if output is not None:
            text.write_result(result, output)
        if report is not None:
            _write_report(report, result, compared, _agreeing(known), list(text.findings(result)))
    sys.exit(_status(result))


def _score_folders(
    folders: Sequence[str],
    titles: Mapping[str, str],
    names: Sequence[str],
    reference: str | None,
    weights: str,
    dimension: str | None,
    fields: Sequence[str],
    quiet: bool,
    *,
    device: str | None,
    dtype: str,
    batch_size: int | None,
    workers: int | None,
) -> tuple[dict[str, Group], list[Metric]]:
    """The scores of the images in each folder, and the metrics; references are encoded once for all folders."""
    from tqdm import tqdm

    from aigciqa.compare.groups import Group
    from aigciqa.scoring import matching, sources
    from aigciqa.scoring.engine import Engine

    check_metric_names(names, weights)
    skipped: sources.Skipped = {}
    openers = sources.open_sources(folders, sys.stdin.buffer, skipped)
    references = matching.references_from(reference) if reference is not None else None
    found = {folder: list(opener()) for folder, opener in zip(folders, openers, strict=True)}
    for folder, images in found.items():
        if not images:
            raise click.UsageError(f"no images in {folder}")
    pairs = {folder: references(images) for folder, images in found.items()} if references else {}
    for line in sources.describe_skipped(skipped):
        complain(line)
    names = names or (unnamed_metric("nr" if reference is None else "fr", weights, quiet),)
    check_references(names, reference, Item(""), folders)
    metrics = load_metrics(names, weights, device, dtype, dimension)
    columns = columns_of(dimensions_of(metrics, dimension), fields)

    def items(folder: str, relatives: list[str]) -> Iterator[Item]:
        """The items of a folder; notes where below it they lie."""
        for each in itertools.chain.from_iterable(map(sources.opened, found[folder])):
            relatives.append(each.relative)
            yield pairs[folder](each) if pairs else each.item

    groups = {}
    with contextlib.closing(Engine(metrics, batch_size, workers, generation=fields)) as engine:
        for folder in folders:
            name, relatives = titles[folder], list[str]()
            records = engine.run(items(folder, relatives))
            total = len(found[folder]) * len(metrics)
            with tqdm(records, printable(name), total, leave=False, disable=quiet or None, unit="score") as bar:
                rows = [to_row(record, columns) for record in bar]
            groups[folder] = Group(name, rows, [relative for relative in relatives for _ in metrics])
    return groups, metrics


def _titles(arguments: Sequence[str], are_checkpoints: bool) -> dict[str, str]:
    """Argument -> name of its group: the last part of its path, or all of it where two would be called the same.

    Of several checkpoints, the part that tells their paths apart.
    """
    paths = {argument: argument if argument == "-" else absolute(argument) for argument in arguments}
    if len(set(paths.values())) < len(arguments):
        raise click.UsageError("the same folder or table is named twice")
    paths |= {argument: os.path.splitext(path)[0] for argument, path in paths.items() if is_table(argument)}
    if are_checkpoints and len(arguments) > 1:
        return dict(zip(arguments, checkpoint_names(list(paths.values())), strict=True))
    names = {argument: os.path.basename(path) for argument, path in paths.items()}
    times = Counter(names.values())
    return {argument: name if times[name] == 1 else argument for argument, name in names.items()}


def _table_group(name: str, table: ScoreTable, names: Sequence[str]) -> Group:
    """The rows of a table by the metrics that are named, or all."""
    from aigciqa.compare.groups import Group

    kept = [row for row in table.rows if not names or row["metric"] in names]
    if not kept:
        there = ", ".join(dict.fromkeys(row["metric"] for row in table.rows))
        raise click.UsageError(f"{table.path} has no scores by {', '.join(names)}; it has {there}")
    return Group.of_rows(name, kept, table)


def _named_in(groups: Iterable[Group]) -> tuple[str, ...]:
    """The metrics of the tables, if we can score with all of them."""
    names = tuple(dict.fromkeys(row["metric"] for group in groups for row in group.rows))
    return names if all(known_metric(name) is not None for name in names) else ()


def _divided(whole: Group, by: str | None) -> list[Group]:
    """The groups of a table by one of its columns; checkpoints in order."""
    from aigciqa.compare.groups import Group

    column = by or "group"
    if whole.table is not None and column not in whole.table.columns:
        if by != _CHECKPOINT:
            raise click.UsageError(f"{whole.name} has no column {by!r}; it has {', '.join(whole.table.columns)}")
        column = "group"
    if whole.table is not None and column in whole.table.dimensions:
        raise click.UsageError(f"--by {column}: these are scores, which are compared and do not divide")
    what = "field" if whole.table is None else "column"
    rows: dict[str, list[Any]] = {}
    for row in whole.rows:
        rows.setdefault(row[column] or f"(no {column})", []).append(row)
    if len(rows) == 1:
        hint = "score with --group-by, or name more tables" if by is None else f"name another {what}"
        raise click.UsageError(f"all images of {whole.name} are of one {column}: {hint}")
    names = sorted(rows, key=by_step) if by == _CHECKPOINT else list(rows)
    return [Group.of_rows(name, rows[name], whole.table) for name in names]


def _agreeing(known: Sequence[Mapping[str, MetricFacts]]) -> dict[str, MetricFacts]:
    """Metric -> what is known of it, where all that scored by it agree; else it had several weights."""
    from aigciqa.tables.provenance import MetricFacts

    names = dict.fromkeys(itertools.chain.from_iterable(known))
    found = {name: [each[name] for each in known if name in each] for name in names}
    return {
        name: first if all(each == first for each in others) else MetricFacts({})
        for name, (first, *others) in found.items()
    }


def _write_report(
    path: str, result: Result, dimensions: Sequence[str], known: Mapping[str, MetricFacts], findings: Sequence[str]
) -> None:
    """A report of all rows, grouped as they were compared."""
    from aigciqa.report import write_report

    others = (name for group in result.groups if group.table is not None for name in group.table.others)
    carried = dict.fromkeys([*_MATCHED_BY, *others])
    columns = columns_of(dimensions, carried)
    blank = dict.fromkeys(columns)
    rows = (
        {
            **blank,
            **(group.table.located(row) if group.table is not None else row),
            **{name: group.score(row, name) for name in dimensions},
            "group": group.name,
        }
        for group in result.groups
        for row in group.rows
    )
    matches = (key for group in result.groups for key in result.matching.keys.get(group.name, [""] * len(group.rows)))
    names = [group.name for group in result.groups]
    title = ", ".join(names) if len(names) <= _TITLE_NAMES else f"{len(names)} groups"
    write_report(
        path,
        rows,
        columns,
        matches=matches,
        by_seed=result.matching.seeds is not None,
        title=f"Comparison of {title}",
        baseline=result.baseline,
        metrics=known,
        findings=findings,
    )


def _status(result: Result) -> int:
    """The exit status; says on standard error why it is not 0."""
    below = dict.fromkeys(f"{each.name} ({comparison.label})" for comparison, each in result.below)
    if below:
        complain(f"below {result.share:g} of the baseline: {', '.join(below)}")
    if result.failures:
        complain(f"{counted(result.failures, 'score')} missing")
    return EXIT_ERRORS if below or result.failures else EXIT_DONE
