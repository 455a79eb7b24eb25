"""`aigciqa score`: scores of files, folders, manifests, as a table."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    check_metrics,
    check_output,
    check_references,
    check_report,
    check_there,
    command,
    computing_options,
    load_metrics,
    overwrite_option,
    reference_option,
    report_option,
    terminate,
    unnamed_metric,
    weights_option,
)
from aigciqa.cli.metric_list import show_metrics
from aigciqa.cli.row_printer import row_printer
from aigciqa.registry import SCORE_RANGES
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.resume import refuse_changed
from aigciqa.scoring.sinks import begun, journal_of
from aigciqa.tables.columns import columns_of, dimensions_of, scored_columns, to_row
from aigciqa.utils.files import locked

if TYPE_CHECKING:
    from aigciqa.cli.inputs import Inputs
    from aigciqa.cli.score_run import ScoreRun
    from aigciqa.integrations.ray import Setup
    from aigciqa.records import Item
    from aigciqa.scoring.decoding import Decoder


@command("score")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option(
    "-m", "--metric", "names", multiple=True, metavar="METRIC",
    help="Metric to use; may be given more than once. [default: nr-efficientnet-lite2 where its extra fit is "
    "installed, else nr-lite; fr-lite where there is a reference]",
)  # fmt: skip
@reference_option
@click.option("-o", "--output", metavar="FILE", help="Write a table: .csv, .json, .jsonl or .parquet.")
@report_option
@click.option("--maps", metavar="DIR", help="Write quality maps: where in each image the score comes from.")
@click.option(
    "--write-metadata", is_flag=True,
    help="Write stars (xmp:Rating) and scores into the images: PNG, JPEG and WebP, whose pixels stay as they are.",
)  # fmt: skip
@click.option("--write-sidecars", is_flag=True, help="Write them into IMAGE.xmp beside each image instead.")
@computing_options
@click.option(
    "--decoder", type=click.Choice(["pillow", "draft", "nvjpeg"]), default="pillow",
    help="What decodes JPEG files; draft: large ones smaller; nvjpeg: on the GPU. These two move scores slightly.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run of the same command left in FILE.")
@overwrite_option
@click.option("--strict", is_flag=True, help="Stop at the first image that can't be scored.")
@click.option(
    "--group-by", metavar="parent|REGEX",
    help="Group of an image: its folder's name, or what the expression finds in its path.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local",
    help="What runs the scoring: this process, or a Ray cluster, which writes FILE.parquet as a folder of parts.",
)  # fmt: skip
@click.option(
    "--part-size", type=click.IntRange(min=1), default=1000, metavar="N",
    help="Images in a part, with --engine ray.",
)  # fmt: skip
@weights_option
@click.option("--dimension", metavar="D", help=f"Write this dimension only, such as {', '.join(SCORE_RANGES)}.")
@click.option("--uncertainty", is_flag=True, help="Write how sure the scores are, too: heads of aigciqa fit know it.")
@click.option(
    "--percentiles", is_flag=True,
    help="Write where the scores stand among those of known images, too: the share that scores lower.",
)  # fmt: skip
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=show_metrics, help="List metrics.")
def main(
    images: tuple[str, ...],
    names: tuple[str, ...],
    reference: str | None,
    output: str | None,
    report: str | None,
    maps: str | None,
    write_metadata: bool,
    write_sidecars: bool,
    device: str | None,
    dtype: str,
    batch_size: int | None,
    workers: int | None,
    decoder: Decoder,
    resume: bool,
    overwrite: bool,
    strict: bool,
    group_by: str | None,
    engine: str,
    part_size: int,
    weights: str,
    dimension: str | None,
    uncertainty: bool,
    percentiles: bool,
    quiet: bool,
) -> None:
    """Score the quality of AI-generated images.

    IMAGE is a file, a folder (searched recursively), a glob pattern, a manifest (.csv, .jsonl or .parquet with a column
    image and optionally reference, group and others, which the table keeps), a tar archive, the URL of any of these but
    manifests in an object store, or - for paths on standard input.

    A table goes to FILE or to standard output, progress and a summary to standard error. An image that can't be scored
    becomes a row with its error. Exit status: 0 all scored, 1 some have errors, 2 usage error or nothing to do.
    """
    from aigciqa.cli.inputs import Inputs
    from aigciqa.cli.score_run import ScoreRun
    from aigciqa.scoring.maps import MapFolder, lies_in
    from aigciqa.scoring.scores_in_files import ScoresInFiles
    from aigciqa.scoring.sources import describe_skipped
    from aigciqa.scoring.summary import percentile_lines

    if not images:
        raise click.UsageError("nothing to score: name at least one image, folder, pattern, manifest or -")
    check_there(images)
    if output is None and report is None and maps is None and sys.stdout.name == os.devnull:
        raise click.UsageError("standard output is closed: name a file with -o")
    if resume and output is None:
        raise click.UsageError("--resume goes on with a file: name it with -o")
    if engine == "ray" and output is None:
        raise click.UsageError("--engine ray writes a folder of parts: name it with -o, as in -o scores.parquet")
    if engine == "ray" and (maps is not None or decoder != "pillow" or uncertainty or percentiles):
        raise click.UsageError("--maps, --decoder, --uncertainty and --percentiles go with --engine local")
    if engine == "ray" and (write_metadata or write_sidecars):
        raise click.UsageError("--write-metadata and --write-sidecars go with --engine local")
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite: give one of them")
    check_output("-o", output, [*images, reference], is_folder=engine == "ray")
    if output is not None and engine == "local":
        check_output("-o", journal_of(output))
    check_output("--maps", maps, is_folder=True)
    check_report(report, [*images, reference])
    check_metrics(names, weights)
    is_a_map = partial(lies_in, folder=maps) if maps is not None else lambda _: False
    inputs = Inputs(images, reference, group_by, is_a_map)
    if inputs.first is None:
        raise click.UsageError("; ".join([f"no images in {', '.join(images)}", *describe_skipped(inputs.skipped)]))
    names = names or (unnamed_metric("fr" if inputs.bring_references(reference) else "nr", weights, quiet),)
    check_references(names, reference, inputs.first, images)

    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads
    if engine == "ray":
        from aigciqa.integrations.ray import Setup

        metrics = load_metrics(names, weights, None, "float32" if dtype == "auto" else dtype, dimension)
    else:
        metrics = load_metrics(names, weights, device, dtype, dimension)
    dimensions = dimensions_of(metrics, dimension)
    folder = MapFolder(maps, metrics) if maps is not None else None
    in_files = None
    if write_metadata or write_sidecars:
        in_files = ScoresInFiles(metrics, dimensions, into_files=write_metadata, sidecars=write_sidecars)
    scored = scored_columns(dimensions, uncertainty, percentiles)
    carried = inputs.carry(columns_of(scored))
    columns = columns_of(scored, carried)
    kept = output if engine == "ray" or output is None else journal_of(output)
    page = None
    if report is not None:
        from aigciqa.report import Report

        known = {metric.name: metric.config.facts for metric in metrics}
        page = Report(report, columns_of(scored_columns(dimensions, uncertainty, False), carried), metrics=known)
    score_ranges = {name: each.config.score_ranges[name] for each in metrics for name in each.dimensions}
    score_ranges = {name: score_ranges[name] for name in dimensions}
    run = ScoreRun(
        [metric.name for metric in metrics],
        score_ranges,
        columns,
        output,
        kept,
        page,
        folder,
        in_files,
        group_by,
        quiet,
    )
    options = {"reference": reference, "group-by": group_by}
    if output is not None:
        from aigciqa.scoring.to_file import folder_of_paths

        options["folder"] = folder_of_paths([*images, reference], output)  # any of them may be relative
    items = inputs.items() if folder is None else folder.watch(inputs.items())
    items = items if in_files is None else in_files.watch(items)
    scoring: dict[str, Any] = {
        "metric": metrics, "batch_size": batch_size, "workers": workers, "strict": strict, "decoder": decoder,
        "uncertainty": uncertainty, "percentiles": percentiles,
        "maps": "dense" if maps is not None else "coarse" if report is not None else None,
    }  # fmt: skip
    if output is None:
        score: Callable[[], object] = partial(_print_scores, run, items, scoring)
    elif engine == "ray":
        setup = Setup(metrics, dtype == "auto", device, batch_size, workers, strict=strict)
        score = partial(_score_on_ray, run, inputs, setup, output, options, part_size, resume)
    else:
        from aigciqa.scoring.to_file import score_to_file

        if resume and (left := begun(output)) is not None:
            files = [file for source in inputs.sources for file in source.files]  # Parquet files that hold images
            refuse_changed(output, files, left.stat().st_mtime)
        score = partial(
            score_to_file, items, output, dimension=dimension, resume=resume, overwrite=True, extra_columns=carried,
            options=options, on_record=run.take, **scoring,
        )  # fmt: skip
    signal.signal(signal.SIGTERM, terminate)
    if inputs.can_be_listed_again:
        run.count_ahead(inputs.listed)
    said = percentile_lines(metrics, dimensions) if percentiles else []
    sys.exit(run.carry_out(score, lambda: [*said, *describe_skipped(inputs.skipped)]))


def _print_scores(run: ScoreRun, items: Iterator[Item], scoring: dict[str, Any]) -> None:
    from aigciqa.scoring.engine import score_files

    with closing(score_files(items, **scoring)) as records:
        print_row = row_printer(run.columns, run.names)
        for record in records:
            run.take(record)
            with run.bar.external_write_mode():
                print_row(to_row(record, run.columns))


def _score_on_ray(
    run: ScoreRun, inputs: Inputs, setup: Setup, output: str, options: Mapping[str, Any], part_size: int, resume: bool
) -> None:
    from aigciqa.integrations.shards import score_shards
    from aigciqa.scoring.to_file import describe

    options = {**options, "decoder": "pillow"}
    made_by = describe(setup.metrics, tuple(run.score_ranges), "auto" if setup.fast else None, options)
    parts = Parts(output, run.columns, made_by)
    records = score_shards(inputs.found, inputs.to_item, setup, parts, part_size, resume)
    with locked(output), closing(records):
        for record in records:
            run.take(record)
