"""`aigciqa train`: a database of rated images becomes a checkpoint."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import fields
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    EXIT_ERRORS,
    STOPS,
    command,
    complain,
    license_option,
    put,
    say,
    score_range_option,
    split_commas,
    terminate,
    trainable_metric_option,
)
from aigciqa.tables.text import TextTable, rounded, with_interval
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from aigciqa.metric import Metric

_WIDTH = 80


@command("train")
@click.argument("database", metavar="DATABASE")
@click.argument("root", metavar="ROOT", type=click.Path(path_type=Path))
@trainable_metric_option("What to train, such as fr-resnet50.")
@click.option("-o", "--output", required=True, metavar="DIR", help="Folder of the checkpoint.")
@click.option("--protocol", metavar="P", default="prompt-disjoint", help="How the database is split.")
@click.option(
    "--dimensions", "-d", multiple=True, callback=split_commas, metavar="D[,D...]",
    help="Opinion scores to learn, jointly. [default: all that the database has]",
)  # fmt: skip
@score_range_option
@click.option("--epochs", type=click.IntRange(min=1), default=100, help="Times that all images are seen.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, help="Images per step.")
@click.option("--learning-rate", "--lr", type=float, default=1e-4, help="Adam's step size.")
@click.option("--weight-decay", type=float, default=1e-5, help="Adam's weight decay.")
@click.option(
    "--gradient-accumulation", type=click.IntRange(min=1), default=1, help="Steps whose gradients are added up."
)
@click.option("--patience", type=click.IntRange(min=1), help="Stop after so many epochs without a better SRCC.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the split, the head, the order and the crops.")
@click.option(
    "--start", default="imagenet", metavar="W",
    help="Weights to start from: imagenet, none, a checkpoint's folder or repo, or an ImageNet file.",
)  # fmt: skip
@click.option("--frozen", is_flag=True, help="Train the head alone, on features computed once.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32",
    help="What the network computes in; not float32: mixed precision.",
)  # fmt: skip
@click.option(
    "--activation-checkpointing", is_flag=True,
    help="Keep fewer feature maps: less memory, more time, the same outcome.",
)  # fmt: skip
@click.option("--device", default="auto", metavar="D", help="auto, cpu, cuda or mps.")
@click.option("--devices", type=click.IntRange(min=1), default=1, help="How many of them; each is a process.")
@click.option("--cache", type=click.Path(path_type=Path), metavar="DIR", help="Where decoded images are kept.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Decoding threads. [default: one per core]")
@license_option
@click.option("--tensorboard", is_flag=True, help="Also log to DIR/training/tensorboard.")
@click.option("--resume", is_flag=True, help="Go on with the run that DIR holds.")
@click.option("--quiet", is_flag=True, help="No progress.")
def main(database: str, root: Path, output: str, protocol: str, score_ranges: Any, quiet: bool, **options: Any) -> None:
    """Train a metric on a database of rated images.

    DATABASE is its name, ROOT the folder it lies in, DIR the folder of the new checkpoint.

    The defaults are those of the PKU-I2IQA paper, except for the split: prompts of the test part are never seen, and
    the epoch is chosen on a validation part (--protocol paper does as the paper does). A run that was killed goes on
    with --resume. Exit status: 0 trained, 1 stopped by an error, 2 usage error, 130 interrupted, 143 terminated.
    """
    signal.signal(signal.SIGTERM, terminate)
    try:
        given = {"score_range": score_ranges} if score_ranges is not None else {}
        metric, tested, is_first = _train(database, root, given, output, protocol, options, progress=not quiet)
    except tuple(STOPS) as stop:
        why, status = STOPS[type(stop)]
        complain(f"{why}{_kept(output)}")
        sys.exit(status)
    if not is_first:
        return
    put(_figures(metric, tested))
    if metric.config.training["validation_srcc"] is None:
        sys.exit(EXIT_ERRORS)  # `train` has warned
    if not quiet:
        say(f"{output}: use it with --weights {shlex.quote(os.path.join(output, ''))}, publish it with aigciqa publish")


def _train(
    database: str,
    root: Path,
    given: dict[str, Any],
    output: str,
    protocol: str,
    options: dict[str, Any],
    progress: bool,
) -> tuple[Metric, int, bool]:
    """Train; a run that can't go on is an error of the command, other than a wrong call.

    Args:
        given: options of the database.

    Returns:
        The metric, how many images the test part has, and whether this is the first process, which speaks for all.
    """
    import aigciqa
    from aigciqa.errors import InputError, LockedError, TrainingError, WeightsError
    from aigciqa.training.trainer import Settings, train
    from aigciqa.utils.hardware import keep_memory

    keep_memory(not options["activation_checkpointing"])
    settings = {each.name: options.pop(each.name) for each in fields(Settings)}
    try:
        if database == "folder":
            given["dimensions"] = settings["dimensions"]
        data = aigciqa.load_database(database, root, **given)
        split = data.split(protocol, seed=settings["seed"])
        settings["dimensions"] = settings["dimensions"] or data.dimensions
        metric = train(data, split, Settings(**settings), output, **options, progress=progress)
    except (InputError, LockedError):
        raise
    except (WeightsError, TrainingError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"{error}{_kept(output)}") from None
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    return metric, len(split.test), rank_zero_only.rank == 0  # type: ignore[attr-defined]


def _figures(metric: Metric, tested: int) -> str:
    """How far the metric agrees with the people who rated the test part."""
    from aigciqa.stats.correlations import MIN_TELLING

    results = metric.config.results
    if tested < MIN_TELLING:
        return f"The test part has {counted(tested, 'image')}: correlations of fewer than {MIN_TELLING} say nothing."
    if not results:
        return "There are no figures on the test part."  # `train` has warned
    columns = {"srcc": "SRCC", "plcc": "PLCC", "krcc": "KRCC", "rmse": "RMSE"}
    rows = tuple(
        (name, *(_figure(figures.get(each), with_bounds=each == "srcc") for each in columns))
        for name, figures in results.items()
    )
    table = TextTable("Test", ("dimension", *columns.values()), rows, left=1).aligned()
    is_unseen = not metric.config.training["selected_on_test"]
    unseen = "which were not trained on" if is_unseen else "on which the epoch was chosen"
    title = f"Agreement with people on the {counted(tested, 'image')} of the test part, {unseen}."
    return "\n".join([*wrap(f"{title} In brackets: 95% interval.", _WIDTH), table])


def _figure(given: float | list[float] | None, with_bounds: bool) -> str:
    """A figure as `config.json` keeps it: [value, low, high], the value alone, or none."""
    if given is None:
        return "n/a"
    values = given if isinstance(given, list) else [given]
    return with_interval(*values) if with_bounds and len(values) > 1 else rounded(values[0])


def _kept(output: str) -> str:
    """What a run that stopped leaves to go on from."""
    if not os.path.exists(os.path.join(output, "training")):
        return ""
    return f"; whole epochs are kept in {output}, and --resume goes on from there"
