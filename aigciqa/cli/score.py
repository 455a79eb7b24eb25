"""`aigciqa score`: scores of files, folders, manifests, as a table."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
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
from aigciqa.errors import InputError, LockedError
from aigciqa.records import Item, Record
from aigciqa.registry import METRICS, SCORE_RANGES, default_metric
from aigciqa.tables.text import printable
from aigciqa.utils.files import locked
from aigciqa.utils.object_stores import is_url

if TYPE_CHECKING:
    from aigciqa.metric import Metric
    from aigciqa.report import Report
    from aigciqa.scoring.decoding import Decoder
    from aigciqa.scoring.encoder import Maps
    from aigciqa.scoring.maps import MapFolder
    from aigciqa.scoring.parts import PartsSink
    from aigciqa.scoring.sinks import FileSink, Sink
    from aigciqa.scoring.sources import Found, Skipped

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
@click.option("--dimension", type=click.Choice(list(SCORE_RANGES)), help="Write this dimension only.")
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
    from aigciqa.scoring import provenance, sources
    from aigciqa.scoring.maps import MapFolder, lies_in
    from aigciqa.scoring.parts import PartsSink
    from aigciqa.scoring.sinks import carried_names, columns_of, dimensions_of

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
    skipped: sources.Skipped = {}
    openers = checked(sources.open_sources, images, sys.stdin.buffer, skipped)
    references = checked(sources.references_from, reference) if reference is not None else None
    twice = None if "-" in images else (each for opener in openers for each in opener())
    pair = references(twice) if references is not None else lambda found: found.item
    group = checked(sources.group_by, group_by) if group_by is not None else lambda item: item
    carried: dict[str, str] = {}

    def give(each: Found) -> Item:
        item: Item = group(pair(each))
        extra = {carried.get(name, name): cell for name, cell in item.extra.items()}
        return replace(item, extra=extra) if extra else item

    listed = (each for opener in openers for each in opener() if maps is None or not lies_in(each.item.image, maps))
    taken: list[Found] = []
    first = None
    while first is None and (head := next(listed, None)) is not None:
        taken.append(head)
        first = next((item for item in map(give, sources.opened(head)) if item.error is None), None)
    if not taken:
        raise click.UsageError("; ".join([f"no images in {', '.join(images)}", *sources.told(skipped)]))
    first = first or give(taken[0])
    found = itertools.chain(taken, listed)
    has_reference = reference is not None or first.reference is not None
    if not (names or has_reference):  # of an archive they may come later, and its images must not get another metric
        has_reference = sources.brings_references(taken[-1])
    names = names or (default_metric("fr" if has_reference else "nr"),)
    check_references(names, reference, first, images)

    warnings.filterwarnings("ignore", module="PIL")  # oddities of files that Pillow copes with
    if quiet:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of downloads
    if engine == "ray":
        checked(importlib.import_module, "aigciqa.integrations.ray")  # says what to install
        metrics = checked(load_metrics, names, weights, None, "float32" if dtype == "auto" else dtype, dimension)
    else:
        metrics = checked(load_metrics, names, weights, device, dtype, dimension)
    dimensions = [dimension] if dimension else dimensions_of(metrics)
    folder = checked(MapFolder, maps, metrics, resume) if maps is not None else None
    carried |= carried_names([name for opener in openers for name in opener.columns], columns_of(dimensions))
    made_by = None
    if output is not None:
        folder_of_paths = _folder_of_paths([*images, *([reference] if reference is not None else [])], output)
        options = {"reference": reference, "group-by": group_by, "decoder": decoder, "folder": folder_of_paths}
        deferred = "auto" if engine == "ray" and dtype == "auto" else None
        made_by = provenance.describe(metrics, dimensions, deferred, options)
    run = _Run(metrics, dimensions, carried.values(), made_by, output, report, folder, engine, quiet, skipped)
    if output is not None and not is_url(output):
        _lock(output)
    signal.signal(signal.SIGTERM, terminate)
    run.count_ahead([] if "-" in images else openers)
    items: Iterator[Item] = (give(item) for each in found for item in sources.opened(each))
    if engine == "ray":
        from aigciqa.integrations.ray import Setup
        from aigciqa.integrations.shards import score_shards

        assert isinstance(run.file, PartsSink)
        setup = Setup(metrics, dtype == "auto", device, batch_size, workers, strict=strict)
        records = score_shards(found, give, setup, run.file.parts, part_size, resume)
    else:
        from aigciqa.scoring.engine import score_files

        watched = items if folder is None else folder.watch(items)
        drawn: Maps | None = "dense" if maps is not None else "coarse" if report is not None else None
        records = checked(
            partial(
                score_files, watched, metric=metrics, batch_size=batch_size, workers=workers, strict=strict, maps=drawn,
                decoder=decoder,
            )
        )  # fmt: skip
    files = [file for opener in openers for file in opener.files]
    sys.exit(run.score(records, items, files if resume else None))


class _Run:
    """One run of the command: from items to rows, a summary and an exit status."""

    def __init__(
        self,
        metrics: list[Metric],
        dimensions: list[str],
        carried: Iterable[str],
        made_by: Mapping[str, Any] | None,
        output: str | None,
        report: str | None,
        maps: MapFolder | None,
        engine: str,
        quiet: bool,
        skipped: Skipped,
    ) -> None:
        from tqdm import tqdm

        from aigciqa.scoring import sinks
        from aigciqa.scoring.parts import PartsSink
        from aigciqa.scoring.summary import Summary

        self.names = [metric.name for metric in metrics]
        self.columns = sinks.columns_of(dimensions, carried)
        sink = PartsSink if engine == "ray" else sinks.FileSink
        self.file: FileSink | PartsSink | None = None
        if output is not None:
            self.file = checked(sink, output, self.columns, made_by)
        self.summary = Summary(dimensions)
        self.report = _report(report, self.columns) if report is not None else None
        self.maps = maps
        self.quiet = quiet
        self.skipped = skipped
        self.bar = tqdm(unit="score", disable=quiet or None, dynamic_ncols=True, leave=False)

    def score(
        self, records: Generator[Record, None, None], items: Iterator[Item], resumed: Sequence[str] | None
    ) -> int:
        """Take the records of the items; returns the exit status.

        Args:
            records: of the items.
            items: in order.
            resumed: files that hold images, if an earlier run is gone on with; else None.
        """
        from aigciqa.errors import ImageError
        from aigciqa.scoring import sinks
        from aigciqa.scoring.sources import SourceError, told

        try:
            sink = self._open(items, resumed)
            for record in records:
                row = sinks.to_row(record, self.columns)
                if self.maps is not None:  # first: a row that is written is never scored again
                    self.maps.write(record)
                with self.bar.external_write_mode() if self.file is None else nullcontext():
                    sink.write([row])
                self.summary.add([row])
                if self.report is not None:
                    self.report.add(row, record.quality_map)
                self.bar.update()
            sink.close()
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return self._stopped("the output was closed", EXIT_ERRORS)
        except ImageError as error:
            return self._stopped(f"--strict: {error}", EXIT_ERRORS)
        except SourceError as error:
            raise click.UsageError(str(error)) from None
        except OSError as error:
            return self._stopped(f"can't write the scores: {error}", EXIT_ERRORS)
        except KeyboardInterrupt:
            return self._stopped("interrupted", EXIT_INTERRUPTED)
        except Terminated:
            return self._stopped("terminated", EXIT_TERMINATED)
        finally:
            records.close()
            self.bar.close()
        self._say(
            *self.summary.lines(),
            *told(self.skipped),
            *([f"{self.summary.rows} rows in {self.file.path}"] if self.file else []),
        )
        failed = self.summary.failed + self._failed_maps()
        return self._write_report() or (EXIT_ERRORS if failed else EXIT_SCORED)

    def count_ahead(self, openers: Sequence[Callable[[], Iterator[Any]]]) -> None:
        """Find the progress bar's total without holding up the scoring."""
        if self.bar.disable or not openers:
            return

        def count() -> None:
            self.bar.total = len(self.names) * sum(1 for opener in openers for _ in opener())

        threading.Thread(target=count, daemon=True).start()

    def _open(self, items: Iterator[Item], resumed: Sequence[str] | None) -> Sink:
        from aigciqa.scoring import sinks

        if self.file is None:
            return sinks.standard_output(self.columns, self.names)
        if resumed is None:
            self.file.start()
            return self.file
        expected = (row for item in items for row in sinks.rows_ahead(item, self.names, self.columns))
        for row in _checked_rows(self.file.recover(expected, len(self.names), resumed)):
            self.summary.add([row])
            if self.report is not None:
                self.report.add(row)
            self.bar.update()
        if self.summary.rows:
            self._say(f"resuming after {self.summary.rows} rows in {self.file.path}")
        return self.file

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
        except OSError as error:
            return self._without_report(str(error), EXIT_ERRORS)
        except KeyboardInterrupt:
            return self._without_report("interrupted", EXIT_INTERRUPTED)
        except Terminated:
            return self._without_report("terminated", EXIT_TERMINATED)
        self._say(f"report in {self.report.path}")
        return EXIT_SCORED

    def _without_report(self, why: str, status: int) -> int:
        say(f"aigciqa score: no report, but all scores have been written: {why}")
        return status

    def _stopped(self, why: str, status: int) -> int:
        self.bar.close()
        kept = ""
        if self.file is not None:
            if self.file.is_there:
                kept = f"; the rows so far are in {self.file.journal}, and --resume goes on from there"
            self.file.abandon()
        say(f"aigciqa score: {why}{kept}")
        return status

    def _say(self, *lines: str) -> None:
        if not self.quiet:
            for line in lines:
                self.bar.write(printable(line), file=sys.stderr)


def _folder_of_paths(paths: Iterable[str], output: str) -> str | None:
    """The folder that relative paths begin in, from the table's, since both may move; None if all are absolute."""
    if all(os.path.isabs(path) or is_url(path) for path in paths):
        return None
    if is_url(output):
        return os.getcwd()
    try:
        return os.path.relpath(os.getcwd(), os.path.dirname(os.path.realpath(output)))
    except ValueError:  # on another drive of Windows
        return os.getcwd()


def _lock(output: str) -> None:
    """Keep other runs from writing the table until this command ends."""
    try:
        click.get_current_context().with_resource(locked(output))
    except LockedError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"can't write the scores: {error}") from None


def _report(path: str, columns: Sequence[str]) -> Report:
    from aigciqa.report import Report

    return Report(path, columns)


def _checked_rows(rows: Iterable[Any]) -> Iterator[Any]:
    try:
        yield from rows
    except InputError as error:
        raise click.UsageError(str(error)) from None
