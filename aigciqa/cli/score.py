"""`aigciqa score`: scores of files, folders, manifests, as a table."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from aigciqa.cli.common import (
    EXIT_INTERRUPTED,
    EXIT_TERMINATED,
    Terminated,
    check_metrics,
    check_output,
    check_references,
    checked,
    command,
    computing_options,
    load_metrics,
    reference_option,
    report_option,
    say,
    terminate,
)
from aigciqa.errors import ImageError, InputError, LockedError, MissingExtraError
from aigciqa.registry import METRICS, SCORE_RANGES, default_metric
from aigciqa.scoring.resume import refuse_changed
from aigciqa.scoring.sinks import LostError, begun, journal_of
from aigciqa.tables.columns import columns_of, dimensions_of, scores_of, to_row
from aigciqa.tables.text import printable
from aigciqa.utils.files import locked
from aigciqa.utils.object_stores import is_url

if TYPE_CHECKING:
    from aigciqa.cli.inputs import Inputs
    from aigciqa.integrations.ray import Setup
    from aigciqa.metric import Metric
    from aigciqa.records import Item, Record
    from aigciqa.report import Report
    from aigciqa.scoring.decoding import Decoder
    from aigciqa.scoring.maps import MapFolder

EXIT_SCORED, EXIT_ERRORS = 0, 1


def _list_metrics(context: click.Context, _parameter: click.Parameter, asked: bool) -> None:
    if not asked:
        return
    click.echo(f"{'metric':<16}{'reference':<11}{'input':<26}{'dimensions':<50}weights")
    for spec in METRICS.values():
        crop = "whole image" if spec.input_size is None else f"centre {spec.input_size} x {spec.input_size}"
        weights = "in the package" if spec.embedded else "Hugging Face Hub"
        reference = "needed" if spec.requires_reference else "none"
        size = f"{spec.preprocess.resize} px, {crop}"
        click.echo(f"{spec.name:<16}{reference:<11}{size:<26}{', '.join(spec.dimensions):<50}{weights}")
    context.exit(EXIT_SCORED)


@command("score")
@click.argument("images", nargs=-1, metavar="IMAGE...")
@click.option(
    "-m", "--metric", "names", multiple=True, metavar="METRIC",
    help="Metric to use; may be given more than once. [default: nr-lite, or fr-lite where there is a reference]",
)  # fmt: skip
@reference_option
@click.option("-o", "--output", metavar="FILE", help="Write a table: .csv, .json, .jsonl or .parquet.")
@report_option
@click.option("--maps", metavar="DIR", help="Write quality maps: where in each image the score comes from.")
@computing_options
@click.option(
    "--decoder", type=click.Choice(["pillow", "draft", "nvjpeg"]), default="pillow", show_default=True,
    help="What decodes JPEG files; draft: large ones smaller; nvjpeg: on the GPU. These two move scores slightly.",
)  # fmt: skip
@click.option("--resume", is_flag=True, help="Go on with what an interrupted run of the same command left in FILE.")
@click.option("--strict", is_flag=True, help="Stop at the first image that can't be scored.")
@click.option(
    "--group-by", metavar="parent|REGEX",
    help="Group of an image: its folder's name, or what the expression finds in its path.",
)  # fmt: skip
@click.option(
    "--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
    help="What runs the scoring: this process, or a Ray cluster, which writes FILE.parquet as a folder of parts.",
)  # fmt: skip
@click.option(
    "--part-size", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N",
    help="Images in a part, with --engine ray.",
)  # fmt: skip
@click.option("--weights", default="default", metavar="W", help="Variant, folder or Hub repo of the weights.")
@click.option("--dimension", metavar="D", help=f"Write this dimension only, such as {', '.join(SCORE_RANGES)}.")
@click.option("--quiet", is_flag=True, help="No progress and no summary.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list_metrics, help="List metrics.")
def main(
    images: tuple[str, ...],
    names: tuple[str, ...],
    reference: str | None,
    output: str | None,
    report: str | None,
    maps: str | None,
    device: str | None,
    dtype: str,
    batch_size: int | None,
    workers: int | None,
    decoder: Decoder,
    resume: bool,
    strict: bool,
    group_by: str | None,
    engine: str,
    part_size: int,
    weights: str,
    dimension: str | None,
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
    from aigciqa.scoring.maps import MapFolder, lies_in
    from aigciqa.scoring.sources import describe_skipped

    if not images:
        raise click.UsageError("nothing to score: name at least one image, folder, pattern, manifest or -")
    if output is None and report is None and maps is None and sys.stdout.name == os.devnull:
        raise click.UsageError("standard output is closed: name a file with -o")
    if resume and output is None:
        raise click.UsageError("--resume goes on with a file: name it with -o")
    if engine == "ray" and output is None:
        raise click.UsageError("--engine ray writes a folder of parts: name it with -o, as in -o scores.parquet")
    if engine == "ray" and (maps is not None or decoder != "pillow"):
        raise click.UsageError("--maps and --decoder go with --engine local")
    check_output("-o", output, [*images, reference])
    check_output("--report", report, [*images, reference])
    if report is not None:
        from aigciqa.report import check_target

        checked(check_target, report)
    check_metrics(names, weights)
    is_a_map = partial(lies_in, folder=maps) if maps is not None else lambda _: False
    inputs = checked(Inputs, images, reference, group_by, is_a_map)
    if inputs.first is None:
        raise click.UsageError("; ".join([f"no images in {', '.join(images)}", *describe_skipped(inputs.skipped)]))
    names = names or (default_metric("fr" if inputs.bring_references(reference) else "nr"),)
    check_references(names, reference, inputs.first, images)

    warnings.filterwarnings("ignore", module="PIL")  # oddities of files that Pillow copes with
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads
    if engine == "ray":
        checked(importlib.import_module, "aigciqa.integrations.ray")  # says what to install
        metrics = checked(load_metrics, names, weights, None, "float32" if dtype == "auto" else dtype, dimension)
    else:
        metrics = checked(load_metrics, names, weights, device, dtype, dimension)
    dimensions = checked(dimensions_of, metrics, dimension)
    folder = checked(MapFolder, maps, metrics, resume) if maps is not None else None
    carried = inputs.carry(columns_of(dimensions))
    columns = columns_of(dimensions, carried)
    kept = output if engine == "ray" or output is None else journal_of(output)
    run = _Run(metrics, columns, output, kept, report, folder, quiet)
    options = {"reference": reference, "group-by": group_by}
    items = inputs.items() if folder is None else folder.watch(inputs.items())
    scoring: dict[str, Any] = {
        "metric": metrics, "batch_size": batch_size, "workers": workers, "strict": strict, "decoder": decoder,
        "maps": "dense" if maps is not None else "coarse" if report is not None else None,
    }  # fmt: skip
    score: Callable[[], object]
    if output is None:
        score = partial(_print_scores, run, items, scoring)
    elif engine == "ray":
        from aigciqa.integrations.ray import Setup

        setup = Setup(metrics, dtype == "auto", device, batch_size, workers, strict=strict)
        score = partial(_score_on_ray, run, inputs, setup, output, options, part_size, resume)
    else:
        from aigciqa.scoring.to_file import score_to_file

        if resume and (left := begun(output)) is not None:
            checked(refuse_changed, output, inputs.files, left.stat().st_mtime)
        score = partial(
            score_to_file, items, output, dimension=dimension, resume=resume, overwrite=True, extra_columns=carried,
            options=options, on_record=run.take, **scoring,
        )  # fmt: skip
    signal.signal(signal.SIGTERM, terminate)
    if inputs.can_be_listed_again:
        run.count_ahead(inputs.listed)
    sys.exit(run.carry_out(score, lambda: describe_skipped(inputs.skipped)))


def _print_scores(run: _Run, items: Iterator[Item], scoring: dict[str, Any]) -> None:
    from aigciqa.cli.standard_output import row_printer
    from aigciqa.scoring.engine import score_files

    with closing(score_files(items, **scoring)) as records:
        print_row = row_printer(run.columns, run.names)
        for record in records:
            run.take(record)
            with run.bar.external_write_mode():
                print_row(to_row(record, run.columns))


def _score_on_ray(
    run: _Run,
    inputs: Inputs,
    setup: Setup,
    output: str,
    options: Mapping[str, Any],
    part_size: int,
    resume: bool,
) -> None:
    from aigciqa.integrations.shards import score_shards
    from aigciqa.scoring.parts import Parts
    from aigciqa.scoring.to_file import describe, folder_of_paths

    options = {**options, "decoder": "pillow", "folder": folder_of_paths(inputs.first, output)}
    made_by = describe(setup.metrics, scores_of(run.columns), "auto" if setup.fast else None, options)
    parts = Parts(output, run.columns, made_by)
    with ExitStack() as last:
        if not is_url(output):
            last.enter_context(locked(output))
        records = score_shards(inputs.found, inputs.to_item, setup, parts, part_size, resume)
        for record in last.enter_context(closing(records)):
            run.take(record)


class _Run:
    """One run of the command: from records to a summary, a report, maps and an exit status.

    Args:
        metrics: in order.
        columns: of the table.
        output: the table; None: standard output.
        kept: where its rows are if the run is stopped.
        report: the report to be made, if any.
        maps: where maps go, if anywhere.
        quiet: no progress and no summary.
    """

    def __init__(
        self,
        metrics: Sequence[Metric],
        columns: Sequence[str],
        output: str | None,
        kept: str | os.PathLike[str] | None,
        report: str | None,
        maps: MapFolder | None,
        quiet: bool,
    ) -> None:
        from tqdm import tqdm

        from aigciqa.scoring.summary import Summary

        self.names = [metric.name for metric in metrics]
        self.columns = columns
        self.output = output
        self.kept = kept
        self.report: Report | None = None
        if report is not None:
            from aigciqa.report import Report

            self.report = Report(report, self.columns)
        self.maps = maps
        self.quiet = quiet
        self.summary = Summary(scores_of(columns))
        self.taken = self.resumed = 0
        self.bar = tqdm(unit="score", disable=quiet or None, dynamic_ncols=True, leave=False)

    def take(self, record: Record, is_new: bool = True) -> None:
        """Take a record before its row is written; those of an earlier run come first and are not new."""
        if is_new and self.taken == self.resumed > 0:
            self._say_resumed()
        self.taken += 1
        self.resumed += not is_new
        if self.maps is not None:  # first: a row that is written is never scored again
            self.maps.write(record)
        row = to_row(record, self.columns)
        self.summary.add([row])
        if self.report is not None:
            self.report.add(row, record.quality_map)
        self.bar.update()

    def carry_out(self, score: Callable[[], object], notes: Callable[[], Iterable[str]]) -> int:
        """Score, and say what came of it, with notes; returns the exit status."""
        try:
            score()
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return self._stopped("the output was closed", EXIT_ERRORS)
        except ImageError as error:
            return self._stopped(f"--strict: {error}", EXIT_ERRORS)
        except (InputError, LockedError, MissingExtraError) as error:
            raise click.UsageError(str(error)) from None
        except LostError as error:
            self.kept = None
            return self._stopped(f"can't write the scores: {error}", EXIT_ERRORS)
        except OSError as error:
            return self._stopped(f"can't write the scores: {error}", EXIT_ERRORS)
        except KeyboardInterrupt:
            return self._stopped("interrupted", EXIT_INTERRUPTED)
        except Terminated:
            return self._stopped("terminated", EXIT_TERMINATED)
        finally:
            self.bar.close()
        if self.taken == self.resumed > 0:
            self._say_resumed()
        self._say(*self.summary.lines(), *notes())
        if self.output is not None:
            self._say(f"{self.taken} rows in {self.output}")
        failed = self.summary.failed + self._failed_maps()
        return self._write_report() or (EXIT_ERRORS if failed else EXIT_SCORED)

    def count_ahead(self, listed: Callable[[], Iterable[Any]]) -> None:
        """Find the progress bar's total without holding up the scoring."""
        if self.bar.disable:
            return

        def count() -> None:
            self.bar.total = len(self.names) * sum(1 for _ in listed())

        threading.Thread(target=count, daemon=True).start()

    def _failed_maps(self) -> int:
        """How many maps could not be written; says so, and where the others are."""
        if self.maps is None:
            return 0
        self._say(f"maps in {self.maps.folder}")
        if self.maps.failed:
            failures = f"{self.maps.failed} maps could not be written, but all scores have been"
            say(f"aigciqa score: {failures}; the first: {self.maps.first_failure}")
        return self.maps.failed

    def _write_report(self) -> int:
        """Write the report if one is asked for, when all scores have been written; returns the exit status."""
        if self.report is None:
            return EXIT_SCORED
        try:
            self.report.write()
            self._say(f"report in {self.report.path}")
            return EXIT_SCORED
        except OSError as error:
            why, status = str(error), EXIT_ERRORS
        except KeyboardInterrupt:
            why, status = "interrupted", EXIT_INTERRUPTED
        except Terminated:
            why, status = "terminated", EXIT_TERMINATED
        say(f"aigciqa score: no report, but all scores have been written: {why}")
        return status

    def _stopped(self, why: str, status: int) -> int:
        hint = ""
        if self.taken and self.kept is not None and (is_url(os.fspath(self.kept)) or os.path.exists(self.kept)):
            hint = f"; the rows so far are in {self.kept}, and --resume goes on from there"
        say(f"aigciqa score: {why}{hint}")
        return status

    def _say_resumed(self) -> None:
        self._say(f"resuming after {self.resumed} rows in {self.output}")

    def _say(self, *lines: str) -> None:
        if not self.quiet:
            for line in lines:
                self.bar.write(printable(line), file=sys.stderr)
