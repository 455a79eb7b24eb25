"""`aigciqa score`: scores of files, folders, manifests, as a table."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    check_metric_names,
    check_name,
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
from aigciqa.cli.score_watch import WatchRun, check_watched
from aigciqa.records import Item
from aigciqa.registry import SCORE_RANGES
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.resume import refuse_changed
from aigciqa.scoring.sinks import begun, journal_of
from aigciqa.tables import provenance
from aigciqa.tables.columns import columns_of, dimensions_of, scored_columns
from aigciqa.utils.files import locked

if TYPE_CHECKING:
    from aigciqa.cli.inputs import Inputs
    from aigciqa.cli.score_run import ScoreRun
    from aigciqa.integrations.ray import Setup
    from aigciqa.metric import Metric
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
@click.option("--watch", is_flag=True, help="Go on with what comes into the folders, until Ctrl-C or SIGTERM.")
@click.option("--strict", is_flag=True, help="Stop at the first image that can't be scored.")
@click.option(
    "--group-by", metavar="parent|FIELD|REGEX",
    help="Group of an image: its folder's name; a generation parameter, as for --columns, or a manifest's column; or "
    "what the expression finds in its path.",
)  # fmt: skip
@click.option(
    "--columns", metavar="FIELD,...",
    help="Generation parameters to write, as the images' files say them: prompt, seed, model and others, or all.",
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
    watch: bool,
    strict: bool,
    group_by: str | None,
    columns: str | None,
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
    from aigciqa.cli.generation import fields_of, ungrouped_note, wanted_of
    from aigciqa.cli.inputs import Inputs
    from aigciqa.cli.score_run import ScoreRun
    from aigciqa.scoring.maps import MapFolder, lies_in
    from aigciqa.scoring.scores_in_files import ScoresInFiles
    from aigciqa.scoring.sources import describe_skipped
    from aigciqa.scoring.summary import percentile_lines
    from aigciqa.scoring.watching import Watch

    _check(SimpleNamespace(**click.get_current_context().params))
    fields = fields_of(columns)
    is_a_map = partial(lies_in, folder=maps) if maps is not None else lambda _: False
    inputs = Inputs(images, reference, group_by, is_a_map, watch)
    if inputs.first is None and not watch:
        raise click.UsageError("; ".join([f"no images in {', '.join(images)}", *describe_skipped(inputs.skipped)]))
    names = names or (unnamed_metric("fr" if inputs.bring_references(reference) else "nr", weights, quiet),)
    check_references(names, reference, inputs.first or Item(""), images)

    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads
    if engine == "ray":
        from aigciqa.integrations.ray import Setup  # before metrics are loaded: the extra may be missing
        from aigciqa.utils.hardware import check_device

        if device is not None:
            check_device(device, is_here=False)
        metrics = load_metrics(names, weights, None, "float32" if dtype == "auto" else dtype, dimension)
    else:
        metrics = load_metrics(names, weights, device, dtype, dimension)
    dimensions = dimensions_of(metrics, dimension)
    scored = scored_columns(dimensions, uncertainty, percentiles)
    carried = inputs.carry(columns_of(scored))
    carried += [name for name in fields if name not in carried]
    wanted = wanted_of(fields, group_by)

    folder = MapFolder(maps, metrics) if maps is not None else None
    in_files = page = None
    if write_metadata or write_sidecars:
        in_files = ScoresInFiles(metrics, dimensions, into_files=write_metadata, sidecars=write_sidecars)
    if report is not None:
        from aigciqa.report import Report

        known = {metric.name: metric.config.facts for metric in metrics}
        page = Report(report, columns_of(scored_columns(dimensions, uncertainty, False), carried), metrics=known)
    ranges = {name: each.config.score_ranges[name] for each in metrics for name in each.dimensions}
    run = ScoreRun(
        names=[metric.name for metric in metrics], score_ranges={name: ranges[name] for name in dimensions},
        columns=columns_of(scored, carried), output=output,
        kept=journal_of(output) if output is not None and engine == "local" else output,
        report=page, maps=folder, in_files=in_files,
        ungrouped_note=partial(ungrouped_note, group_by, inputs.columns), quiet=quiet,
    )  # fmt: skip

    from aigciqa.scoring.to_file import folder_of_paths, score_to_file

    options = {**wanted.options(), "reference": reference, "group-by": group_by}
    if output is not None:
        options["folder"] = folder_of_paths([*images, reference], output)  # any of them may be relative
    note_file = in_files.note if in_files is not None else lambda item: item
    items = map(note_file, inputs.items() if folder is None else folder.watch(inputs.items()))
    scoring: dict[str, Any] = {
        "batch_size": batch_size, "workers": workers, "decoder": decoder,
        "uncertainty": uncertainty, "percentiles": percentiles,
        "generation": wanted.columns, "group_by": wanted.group_by,
        "maps": "dense" if maps is not None else "coarse" if report is not None else None,
    }  # fmt: skip
    watched = None
    if watch:
        watching = Watch(images, inputs.listed, lambda found: note_file(inputs.to_item(found)), strict)
        if in_files is not None:
            watching.on_retry = in_files.forget
        watched = WatchRun(run, watching)
        score: Callable[[], object] = partial(watched.score, metrics, scoring, options, resume)
    elif output is None:
        score = partial(_print_scores, run, items, metrics, strict, scoring)
    elif engine == "ray":
        setup = Setup(metrics, dtype == "auto", device, batch_size, workers, strict=strict, generation=wanted)
        score = partial(_score_on_ray, run, inputs, setup, output, options, part_size, resume)
    else:
        if resume and (left := begun(output)) is not None:
            files = [file for source in inputs.sources for file in source.files]  # Parquet files that hold images
            refuse_changed(output, files, left.stat().st_mtime)
        score = partial(
            score_to_file, items, output, dimension=dimension, resume=resume, overwrite=True, extra_columns=carried,
            options=options, on_record=run.take, metric=metrics, strict=strict, **scoring,
        )  # fmt: skip

    def notes() -> Iterator[str]:
        if percentiles:
            yield from percentile_lines(metrics, dimensions)
        yield from describe_skipped(inputs.skipped)
        if watched is not None:
            yield from watched.notes()

    signal.signal(signal.SIGTERM, terminate)
    if inputs.are_known_ahead:
        run.count_ahead(inputs.listed)
    sys.exit(run.carry_out(score, notes))


def _check(given: SimpleNamespace) -> None:
    """Refuse options that do not go together, and outputs that would overwrite what is there."""
    if not given.images:
        raise click.UsageError("nothing to score: name at least one image, folder, pattern, manifest or -")
    if given.watch:
        check_watched(given.images, given.engine)
    check_there(given.images)
    if given.output is None and given.report is None and given.maps is None and sys.stdout.name == os.devnull:
        raise click.UsageError("standard output is closed: name a file with -o")
    if given.resume and given.output is None:
        raise click.UsageError("--resume goes on with a file: name it with -o")
    if given.engine == "ray":
        if given.output is None:
            raise click.UsageError("--engine ray writes a folder of parts: name it with -o, as in -o scores.parquet")
        if given.maps is not None or given.decoder != "pillow" or given.uncertainty or given.percentiles:
            raise click.UsageError("--maps, --decoder, --uncertainty and --percentiles go with --engine local")
        if given.write_metadata or given.write_sidecars:
            raise click.UsageError("--write-metadata and --write-sidecars go with --engine local")
    if given.resume and given.overwrite:
        raise click.UsageError("--resume and --overwrite: give one of them")
    is_on_ray = given.engine == "ray"
    inputs = [*given.images, given.reference]
    check_output("-o", given.output, inputs, is_folder=is_on_ray, may_be_url=is_on_ray)
    if given.output is not None and given.engine == "local":
        check_output("-o", journal_of(given.output))
        check_name("-o", given.output, behind=provenance.SUFFIX)
    check_output("--maps", given.maps, is_folder=True)
    check_report(given.report, inputs)
    check_metric_names(given.names, given.weights)


def _print_scores(
    run: ScoreRun, items: Iterator[Item], metrics: Sequence[Metric], strict: bool, scoring: dict[str, Any]
) -> None:
    from aigciqa.scoring.engine import score_files

    run.print_scores(score_files(items, metric=metrics, strict=strict, **scoring), run.take)


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
