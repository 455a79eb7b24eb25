"""`aigciqa evaluate`: how well metrics agree with the people who rated a database."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    EXIT_DONE,
    EXIT_ERRORS,
    check_apart,
    check_output,
    check_table_output,
    command,
    complain,
    computing_options,
    load_metrics,
    overwrite_option,
    put,
    say,
    score_range_option,
    writing,
)
from aigciqa.cli.words import warn
from aigciqa.databases import Database, Sample, load_database
from aigciqa.errors import InputError
from aigciqa.registry import default_metric, known_metric, metric_info
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from aigciqa.evaluation import Evaluation, PrecomputedScores, Predictions, Setting
    from aigciqa.metric import Metric

_DEFAULT_PROTOCOL = "prompt-disjoint"
_SHOWN_FAILURES = 5


@command("evaluate")
@click.argument("database_name", metavar="DATABASE")
@click.argument("root", metavar="ROOT", type=click.Path(path_type=Path))
@click.option(
    "-m", "--metric", "names", multiple=True, metavar="METRIC",
    help="Metric, or a column of the table of --scores; may be given more than once. [default: all of that table]",
)  # fmt: skip
@click.option(
    "--weights", multiple=True, metavar="W",
    help="Variant, folder or Hub repo of the weights; given more than once, one for each -m in order.",
)  # fmt: skip
@click.option(
    "--protocol", metavar="P",
    help=f"How the database is divided. [default: that the weights were trained by, else {_DEFAULT_PROTOCOL}]",
)  # fmt: skip
@click.option("--seed", type=int, metavar="N", help="Seed of the split. [default: that of the weights, else 0]")
@click.option("--folds", type=int, metavar="N", help="Parts of --protocol k-fold.")
@click.option("--fold", type=int, metavar="N", help="Part of --protocol k-fold that is the test part.")
@click.option(
    "--part", type=click.Choice(["test", "validation", "train", "all"]), default="test",
    help="Images to score; all: the whole database.",
)  # fmt: skip
@click.option(
    "--dimension", "dimensions", multiple=True, metavar="D",
    help="Opinion score to compare with; may be given more than once. [default: all that database and metric share]",
)  # fmt: skip
@click.option("--subset", metavar="S", help="Subset of pku-aigiqa-4k: all, i2i or t2i.")
@score_range_option
@click.option("--manifest", metavar="FILE", help="Manifest of the database folder.")
@click.option(
    "--scores", metavar="FILE", type=click.Path(path_type=Path),
    help="Table of scores made before: .csv, .json, .jsonl or .parquet.",
)  # fmt: skip
@click.option("--lower-better", multiple=True, metavar="METRIC", help="A metric of --scores whose low scores are good.")
@click.option("-o", "--output", metavar="FILE", help="Write the report: .csv, .json, .md or .tex.")
@click.option("--plots", metavar="DIR", type=click.Path(path_type=Path), help="Draw scatter and per-generator plots.")
@click.option("--predictions", metavar="FILE.csv", type=click.Path(path_type=Path), help="Write every single score.")
@overwrite_option
@computing_options
@click.option("--quiet", is_flag=True, help="No progress, and no table on standard output where -o writes one.")
def main(
    database_name: str,
    root: Path,
    names: tuple[str, ...],
    weights: tuple[str, ...],
    protocol: str | None,
    seed: int | None,
    folds: int | None,
    fold: int | None,
    part: str,
    dimensions: tuple[str, ...],
    subset: str | None,
    score_ranges: Any,
    manifest: str | None,
    scores: Path | None,
    lower_better: tuple[str, ...],
    output: str | None,
    plots: Path | None,
    predictions: Path | None,
    overwrite: bool,
    device: str | None,
    dtype: str,
    batch_size: int | None,
    workers: int | None,
    quiet: bool,
) -> None:
    """Compare metrics with the people who rated a database.

    DATABASE is its name, ROOT the folder it lies in.

    SRCC, PLCC (as it is, and after a fitted logistic), KRCC and RMSE with 95% intervals, over all images, per
    generator and within prompts; tests between metrics; the PKU-I2IQA paper's figures beside ours where it has them.

    The table goes to standard output, progress and warnings to standard error. Exit status: 0 all scored, 1 some
    images could not be, 2 usage error.
    """
    from aigciqa.evaluation import PrecomputedScores, evaluate, text
    from aigciqa.evaluation.opinion_scores import check_table
    from aigciqa.plotting import require_matplotlib

    if output is not None:
        text.check_suffix(output)
    if predictions is not None:
        check_table(predictions)
    if plots is not None:
        require_matplotlib()
    options = _given(subset=subset, manifest=manifest, score_range=score_ranges)
    if database_name == "folder":
        options["dimensions"] = dimensions
    database = load_database(database_name, root, **options)
    read = (*database.spec.layout, *database.options.values())
    labels = [database.root / name for name in read if isinstance(name, str)]
    for option, path in (("-o", output), ("--predictions", predictions)):
        check_table_output(option, path, [scores, *labels])
    check_output("--plots", plots, [scores, *labels], is_folder=True)
    check_apart(("-o", output), ("--predictions", predictions))
    table: PrecomputedScores | None = None
    if scores is not None:
        table = PrecomputedScores.read(scores, dimensions=database.dimensions, columns=names)
    names = _names(names, table)
    for name in lower_better:
        if table is None or name not in names or name not in table:
            raise click.UsageError(f"--lower-better {name}: not one of the metrics read from --scores")
    to_run = _to_run(names, weights, table)
    metrics = {label: load_metrics([name], each, device, dtype)[0] for label, name, each in to_run}
    _check_dimensions(dimensions, database, metrics, table)
    setting, samples = _choose(database, metrics, part, protocol, seed, _given(folds=folds, fold=fold))
    needing = [label for label, metric in metrics.items() if metric.requires_reference]
    if needing and not any(sample.reference for sample in samples):
        why = f"{needing[0]} compares with image prompts, and these images have none"
        raise click.UsageError(f"{why}: use {default_metric('nr')}")
    if part != "train":
        _warn_of_seen_images(metrics, database, samples)

    predicted = iter(_predict(metrics, samples, batch_size, workers, quiet))
    rated: dict[str, Any] = {
        "root": database.root, "database": database.samples, "dimensions": dimensions or database.dimensions
    }  # fmt: skip
    ordered = [
        table.predictions(name, samples, lower_better=name in lower_better, **rated)
        if table is not None and name in table
        else next(predicted)
        for name in names
    ]
    try:
        evaluation = evaluate(ordered, samples, dimensions=dimensions or None, setting=setting)
    except InputError as error:
        if any(message is not None for each in ordered for message in each.errors):
            raise click.ClickException(str(error)) from None
        raise
    with writing():
        _write(evaluation, output, plots, predictions, quiet)
    sys.exit(_report_failures(evaluation.failures))


def _names(names: Sequence[str], table: PrecomputedScores | None) -> tuple[str, ...]:
    """The metrics asked for; all of the table if none."""
    if not names and table is not None:
        if not table.metrics:
            raise click.UsageError(f"{table.path} names no metric: say with -m which column is one")
        return tuple(table.metrics)
    if not names:
        raise click.UsageError("name a metric with -m, such as -m nr-lite, or a table of scores with --scores")
    for name in names:
        if table is not None and name not in table and known_metric(name) is None:
            known = ", ".join([*table.metrics, *table.columns])
            raise click.UsageError(f"{name!r} is neither a metric nor in {table.path}, which has {known}")
        if table is None:
            metric_info(name)
    return tuple(names)


def _to_run(
    names: Sequence[str], weights: Sequence[str], table: PrecomputedScores | None
) -> list[tuple[str, str, str]]:
    """(label, metric, weights) of the metrics to be run."""
    run = [name for name in names if table is None or name not in table]
    if weights and len(weights) != len(run):
        count = f"{len(weights)} --weights for {len(run)} metrics to run"
        raise click.UsageError(f"{count}: give one for each -m, in order")
    pairs = list(zip(run, weights or ["default"] * len(run), strict=True))
    if len(set(pairs)) < len(pairs) or len(set(names) - set(run)) < len(names) - len(run):
        raise click.UsageError("the same metric is named twice")
    return [(name if run.count(name) == 1 else f"{name} ({each})", name, each) for name, each in pairs]


def _choose(
    database: Database,
    metrics: Mapping[str, Metric],
    part: str,
    protocol: str | None,
    seed: int | None,
    options: Mapping[str, Any],
) -> tuple[Setting, Sequence[Sample]]:
    """The samples to score; by the split of the first checkpoint trained on the database, unless one is named."""
    from aigciqa.evaluation import Setting
    from aigciqa.evaluation.provenance import Training

    if part == "all":
        if protocol is not None or seed is not None or options:
            raise click.UsageError("--part all is not divided: leave --protocol, --seed, --folds and --fold out")
        return Setting(database.name, protocol="", part=part), database.samples
    if protocol is None:
        trained = (Training.recorded(metric.config.training) for metric in metrics.values())
        own = next((each for each in trained if each is not None and each.database == database.name), None)
        if own is not None:
            protocol, seed = own.protocol, own.seed if seed is None else seed
            options = {**own.options, **options}
    split = database.split(protocol or _DEFAULT_PROTOCOL, seed=seed or 0, **options)
    samples: Sequence[Sample] = getattr(split, part)
    if not samples:
        raise InputError(f"the {part} part of the protocol {split.protocol} is empty")
    return Setting(database.name, split.protocol, part, split.seed, split.digest), samples


def _check_dimensions(
    dimensions: Sequence[str], database: Database, metrics: Mapping[str, Metric], table: PrecomputedScores | None
) -> None:
    """Refuse before anything is scored what could not be compared after."""
    for name in dimensions:
        if name not in database.dimensions:
            raise click.UsageError(f"{database.name} was rated for {', '.join(database.dimensions)}, not for {name}")
    wanted = set(dimensions or database.dimensions)
    for label, metric in metrics.items():
        if table is None and not wanted & set(metric.dimensions):
            predicted = ", ".join(metric.dimensions)
            asked = ", ".join(sorted(wanted))
            hint = f": name the column of ratings {metric.dimensions[0]}" if database.name == "folder" else ""
            raise click.UsageError(f"{label} predicts {predicted}; asked for: {asked}{hint}")


def _warn_of_seen_images(metrics: Mapping[str, Metric], database: Database, samples: Sequence[Sample]) -> None:
    from aigciqa.evaluation.provenance import Training, seen_warning

    for label, metric in metrics.items():
        training = Training.recorded(metric.config.training)
        if training is not None and (warning := seen_warning(label, training, database, samples)) is not None:
            warn(warning)


def _predict(
    metrics: Mapping[str, Metric], samples: Sequence[Sample], batch_size: int | None, workers: int | None, quiet: bool
) -> list[Predictions]:
    """What the metrics to be run say of the samples."""
    from tqdm import tqdm

    from aigciqa.evaluation import predict

    if not metrics:
        return []
    total = len(metrics) * len(samples)
    with tqdm(total=total, unit="score", disable=quiet or None, dynamic_ncols=True, leave=False) as bar:
        return predict(metrics, samples, batch_size=batch_size, workers=workers, progress=bar.update)


def _write(
    evaluation: Evaluation, output: str | None, plots: Path | None, predictions: Path | None, quiet: bool
) -> None:
    from aigciqa.evaluation import text
    from aigciqa.evaluation.plots import write_plots
    from aigciqa.tables import provenance
    from aigciqa.tables.text import write_text

    if output is None or not quiet:
        put(text.to_terminal(evaluation), nl=False)  # with its notes
    else:
        for note in evaluation.notes:
            warn(note)
    if output is not None:
        text.write_report(evaluation, output)
    if predictions is not None:
        write_text(predictions, text.predictions_csv(evaluation))
        provenance.forget(predictions)
    if plots is not None:
        write_plots(evaluation, plots)


def _report_failures(failures: Sequence[tuple[str, str, str]]) -> int:
    """Name what could not be scored; returns the exit status."""
    if not failures:
        return EXIT_DONE
    complain(f"{counted(failures, 'score')} missing:")
    for metric, _, error in failures[:_SHOWN_FAILURES]:
        say(f"  {metric}: {error}")
    if len(failures) > _SHOWN_FAILURES:
        say(f"  and {len(failures) - _SHOWN_FAILURES} more; --predictions writes them all")
    return EXIT_ERRORS


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
