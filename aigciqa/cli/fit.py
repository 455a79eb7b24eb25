"""`aigciqa fit`: few ratings of your own become a checkpoint, and what to rate next."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    STOPS,
    check_name,
    command,
    complain,
    put,
    reference_option,
    say,
    score_range_option,
    split_commas,
    terminate,
    unwritten,
)
from aigciqa.errors import InputError, LockedError, WeightsError
from aigciqa.tables.text import printable

if TYPE_CHECKING:
    from aigciqa.metric import Metric
    from aigciqa.records import Item


@command("fit")
@click.argument("ratings", metavar="RATINGS")
@click.option("-o", "--output", metavar="DIR", help="Folder of the checkpoint.")
@click.option("-m", "--metric", metavar="METRIC", help="Whose features to use, such as nr-resnet50.")
@click.option(
    "-d", "--dimensions", multiple=True, callback=split_commas, metavar="D[,D...]",
    help="Columns of ratings to learn. [default: those named as a known dimension, and others of numbers]",
)  # fmt: skip
@score_range_option
@reference_option
@click.option(
    "--suggest", "unrated", multiple=True, metavar="IMAGES",
    help="Print those of these images (files, folders, manifests) whose ratings would teach most.",
)  # fmt: skip
@click.option("-n", "count", type=click.IntRange(min=1), default=20, metavar="N", help="How many to suggest.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of what is drawn at random.")
@click.option("--overwrite", is_flag=True, help="Replace the checkpoint that DIR holds.")
@click.option("--device", metavar="D", help="Where to compute: cpu, cuda, cuda:1, mps. [default: cpu]")
@click.option("--workers", type=click.IntRange(min=0), metavar="N", help="Decoding threads. [default: one per core]")
@click.option("--cache", metavar="DIR", help="Where features are kept, so that the next fit takes a moment.")
@click.option("--no-cache", is_flag=True, help="Keep no features.")
@click.option("--quiet", is_flag=True, help="No progress, and no word on what to do next.")
def main(
    ratings: str,
    output: str | None,
    unrated: tuple[str, ...],
    count: int,
    overwrite: bool,
    cache: str | None,
    no_cache: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Fit a head to few ratings of your own.

    RATINGS is a table with a column image and one of numbers for each dimension, or pairs with the columns better and
    worse: .csv, .json, .jsonl, .parquet or .xlsx, or a folder with one. Twenty to a hundred ratings of the kind of
    images that you will score make a metric that agrees with you. With --suggest alone, RATINGS may be a checkpoint
    that was fitted before.

    Its agreement with ratings it has not seen goes to standard output, beside that of measures which take no fitting;
    with --suggest, paths follow, a line each, the most useful first. Exit status: 0 done, 1 stopped by an error, 2
    usage error or ratings that can't be used (nothing is written), 130 interrupted, 143 terminated.
    """
    if output is None and not unrated:
        raise click.UsageError("name the folder of the checkpoint with -o, or images to choose from with --suggest")
    check_name("-o", output)
    if cache is not None and no_cache:
        raise click.UsageError("--cache and --no-cache: give one of them")
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    given |= {"progress": not quiet, "cache_dir": False if no_cache else cache}
    if "reference" in given:
        given["references"] = given.pop("reference")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # of NumPy: on matrices so small, threads wait for each other
    signal.signal(signal.SIGTERM, terminate)
    try:
        if options["device"] is not None:
            from aigciqa.utils.hardware import check_device

            check_device(options["device"])
        candidates = _items(unrated, options["reference"])
        if output is not None:
            metric = _fit(ratings, output, overwrite, given)
            if not quiet:
                _say_next(metric, output)
        if candidates:
            from aigciqa.training.fit.fit import suggest_ratings

            del given["seed"]
            for each in suggest_ratings(ratings, candidates, count, **given):
                put(printable(each.image) if sys.stdout.isatty() else each.image)
    except (InputError, LockedError):
        raise
    except WeightsError as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(unwritten(error)) from None
    except tuple(STOPS) as stop:
        why, status = STOPS[type(stop)]
        complain(why)
        sys.exit(status)


def _items(arguments: Sequence[str], reference: str | None) -> list[Item]:
    """The images that `--suggest` names; those that can't be listed are warned of."""
    if not arguments:
        return []
    from aigciqa.cli.inputs import Inputs

    found = list(Inputs(arguments, reference, None, lambda path: False).items())
    items = [item for item in found if item.error is None]
    for item in found:
        if item.error is not None:
            warnings.warn(item.error, stacklevel=2)
    if not items:
        raise click.UsageError(f"--suggest {shlex.join(arguments)}: no images there")
    return items


def _fit(ratings: str, output: str, overwrite: bool, options: Mapping[str, Any]) -> Metric:
    """Fit, and print how well."""
    from aigciqa.training.fit.fit import fit_head
    from aigciqa.training.fit.text import figures_text

    metric = fit_head(ratings, output=output, overwrite=overwrite, **options)
    put(figures_text(metric.config.results))
    return metric


def _say_next(metric: Metric, output: str) -> None:
    """What to do with the checkpoint."""
    reference = " -r PROMPTS" if metric.requires_reference else ""
    say(f"{output}: score other images of this kind with")
    say(f"    aigciqa score IMAGES{reference} --weights {shlex.quote(os.path.join(output, ''))}")
