"""`score_to_file`: images in, a table of their scores on disk, which an interrupted run goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import torch

import aigciqa
from aigciqa.checkpoints.format import state_sha256
from aigciqa.create import as_metrics
from aigciqa.errors import InputError, OutputExistsError
from aigciqa.metric import Metric
from aigciqa.records import Item, Record
from aigciqa.scoring.decoding import Decoder
from aigciqa.scoring.encoder import Maps
from aigciqa.scoring.engine import score_files
from aigciqa.scoring.generation import Wanted, wanted
from aigciqa.scoring.items import PathLike, items_of
from aigciqa.scoring.sinks import FileSink, begun
from aigciqa.tables.columns import Row, columns_of, dimensions_of, rows_ahead, scored_columns, to_record, to_row
from aigciqa.tables.formats import format_of
from aigciqa.tables.provenance import FORMAT
from aigciqa.utils.files import locked
from aigciqa.utils.paths import is_absolute, real, relative


@dataclass(frozen=True)
class ScoredFile:
    """What `score_to_file` wrote.

    Attributes:
        path: the table.
        rows: how many rows it has, one per image and metric.
        failed: how many of them have an error instead of scores.
        resumed: how many of them are of an earlier run.

    Example:
        >>> from pathlib import Path
        >>> from aigciqa import ScoredFile
        >>> ScoredFile(Path("scores.csv"), rows=100, failed=2, resumed=40).failed
        2
    """

    path: Path
    rows: int
    failed: int
    resumed: int


def score_to_file(
    images: Iterable[PathLike | Item],
    output: PathLike,
    *,
    metric: str | Metric | Sequence[str | Metric],
    references: PathLike | Sequence[PathLike] | None = None,
    dimension: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    strict: bool = False,
    maps: Maps | None = None,
    decoder: Decoder = "pillow",
    uncertainty: bool = False,
    percentiles: bool = False,
    extra_columns: Sequence[str] = (),
    generation: Sequence[str] | None = None,
    group_by: str | None = None,
    options: Mapping[str, Any] | None = None,
    on_record: Callable[[Record, bool], None] | None = None,
) -> ScoredFile:
    """Score files into a table, which an interrupted run goes on with.

    The table has a row per image and metric, in input order: `image`, `reference`, `group`, `metric`, a column per
    dimension, `error`, the `extra_columns`, and the fields of `generation`. `aigciqa score -o` is this function. Each
    row is on disk before the next image is waited for: in the file itself for CSV and JSON lines, else in
    `FILE.partial`, which becomes the file at the end. `FILE.meta.json` says what made the table; no other run can write
    it meanwhile.

    Args:
        images, metric, references, batch_size, workers, dtype, device, strict, maps, decoder, uncertainty, percentiles:
            as `score_files` takes them; `<dimension>_std` and `<dimension>_percentile` are columns after the scores.
        output: the table; its suffix, `.csv`, `.json`, `.jsonl` or `.parquet`, is its format.
        dimension: the only one to write; all of the metrics' if absent.
        resume: go on with what an earlier run of the same call left in `output`; the table is then that of a run that
            nothing interrupted (scores in float32 to within 1e-5). A table that is not there is begun.
        overwrite: replace a table that is there.
        extra_columns: keys of `Item.extra` that are columns, too.
        generation, group_by: as `score_files` takes them; the fields named are columns after these. In rows of an
            earlier run they stay as they are.
        options: what else the rows depend on, such as how images were grouped: kept in `FILE.meta.json`. A run with
            others is refused when it is to be resumed.
        on_record: called with each record and whether it is new, just before its row is written. Those of an earlier
            run come first; they are not new.

    Raises:
        OutputExistsError: `output` is there already.
        InputError: unusable arguments, as for `score_files`; what is to be resumed was made of other images,
            references, weights or options, or its images were changed since.
        LockedError: another run writes the table.
        OSError: it can't be written. What was written stays, for `resume`.
        ImageError: an image can't be scored, and `strict` is set.

    Example:
        >>> import aigciqa, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = f"{folder}/scores.csv"
        ...     done = aigciqa.score_to_file(["missing.png"], table, metric="nr-lite")
        ...     again = aigciqa.score_to_file(["missing.png"], table, metric="nr-lite", resume=True)
        >>> done.rows, done.failed, again.resumed
        (1, 1, 1)
    """
    output = os.fspath(output)
    format_of(output)
    if not (resume or overwrite) and begun(output) is not None:
        raise OutputExistsError(
            f"{output!r} is there already: pass `resume=True` to go on with it, `overwrite=True` to replace it, or "
            "another output"
        )
    metrics = as_metrics(metric, device=device, dtype=dtype)
    dimensions = dimensions_of(metrics, dimension)
    columns = columns_of(scored_columns(dimensions, uncertainty, percentiles), extra_columns)
    to_read = wanted(generation, group_by) or Wanted()
    columns += tuple(name for name in to_read.columns if name not in extra_columns)
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InputError(f"extra_columns: the table would have two columns {twice!r}; rename one")
    items = items_of(images, references, metrics)
    first = next(items, None)
    items = items if first is None else chain([first], items)
    shared = os.fspath(references) if isinstance(references, (str, os.PathLike)) else None
    listed = items_of(images, references, metrics) if isinstance(images, Sequence) else [first] if first else []
    paths = (path for item in listed for path in (item.image, item.reference))  # of a stream, the first stand for all
    known = {"reference": shared, "decoder": decoder, "folder": folder_of_paths(paths, output)}
    made_by = describe(metrics, dimensions, None, known | to_read.options() | dict(options or {}))
    records = score_files(
        items,
        metric=metrics,
        batch_size=batch_size,
        workers=workers,
        strict=strict,
        maps=maps,
        decoder=decoder,
        uncertainty=uncertainty,
        percentiles=percentiles,
        generation=generation,
        group_by=group_by,
    )
    sink = FileSink(output, columns, made_by)
    names = [each.name for each in metrics]
    expected = (row for item in items for row in rows_ahead(to_read.complete(item), names, columns, to_read.filled))
    return write_records(records, sink, sink.recover(expected, len(metrics)) if resume else None, on_record)


def write_records(
    records: Generator[Record, None, None],
    sink: FileSink,
    earlier: Iterable[Row] | None,
    on_record: Callable[[Record, bool], None] | None,
) -> ScoredFile:
    """Write a table of records behind its `earlier` rows, as `FileSink.recover` gives them; without these, begin it.

    `on_record` and errors are those of `score_to_file`. The first record is asked for when all earlier rows are read.
    """
    rows = failed = resumed = 0
    with locked(sink.path), closing(records), ExitStack() as last:
        last.callback(sink.abandon)
        if earlier is None:
            sink.start()
        old = (to_record(row, sink.columns) for row in earlier or ())
        for record, is_new in chain(zip(old, repeat(False)), zip(records, repeat(True))):
            if on_record is not None:
                on_record(record, is_new)
            if is_new:
                sink.write([to_row(record, sink.columns)])
            rows += 1
            failed += record.error is not None
            resumed += not is_new
        sink.close()
    return ScoredFile(sink.path, rows, failed, resumed)


def describe(
    metrics: Sequence[Metric], dimensions: Sequence[str], dtype: str | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What makes a table: version, metrics with the sha256 of their weights, options that change its rows.

    It has the metrics' reference sets, too, so that whoever reads the table can tell percentiles.

    `dtype` is what the metrics compute in, where it is not up to each of them.
    """
    ranges = {name: list(metric.config.score_ranges[name]) for metric in metrics for name in metric.dimensions}
    made_by: dict[str, Any] = {
        "format": FORMAT,
        "version": aigciqa.__version__,
        "dimensions": {name: ranges[name] for name in dimensions},
        "metrics": [
            {
                "name": metric.name,
                "weights": state_sha256(metric.state_dict()),
                "dtype": dtype or str(metric.autocast_dtype or torch.float32).removeprefix("torch."),
                "backbone": {"name": metric.config.backbone, **metric.config.options},
                "preprocess": asdict(metric.config.preprocess),
                "reference_sets": list(map(asdict, metric.config.reference_sets)),
            }
            for metric in metrics
        ],
        "options": dict(options),
    }
    try:
        json.dumps(made_by, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(f"options: {error}; expected text, finite numbers and what else JSON can hold") from None
    return made_by


def folder_of_paths(paths: Iterable[str | None], output: str) -> str | None:
    """The folder that relative paths begin in, from the table's, since both may move; None if all are absolute."""
    if all(is_absolute(path) for path in paths if path):
        return None
    return relative(os.getcwd(), os.path.dirname(real(output)))
