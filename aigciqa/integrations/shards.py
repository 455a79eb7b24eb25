"""The engine of `aigciqa score --engine ray`: numbered shards of the input, scored by actors and written as parts."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, islice
from typing import Any

import pyarrow
import ray.data

from aigciqa.errors import ImageError, SourceError
from aigciqa.integrations.ray import Setup
from aigciqa.records import Item, Record
from aigciqa.scoring import archives
from aigciqa.scoring.generation import Wanted
from aigciqa.scoring.items import Found
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.resume import is_same, of_another_run, refuse_changed
from aigciqa.scoring.sources import opened
from aigciqa.tables.columns import rows_ahead, to_record, to_row
from aigciqa.tables.parquet import utf8
from aigciqa.utils.standard_error import standard_error_to

#: A network on a CPU gains little from more threads than this.
MAX_CPUS = 8


def score_shards(
    found: Iterable[Found],
    give: Callable[[Found], Item],
    setup: Setup,
    parts: Parts,
    size: int,
    resume: bool = False,
) -> Generator[Record, None, None]:
    """Score what sources found, on the Ray cluster that is at hand, or one that is started for it, in input order.

    Args:
        found: what to score; all of it is listed before the first is scored.
        give: makes items of it.
        setup: of the actors; how many CPUs they have is up to the cluster.
        parts: where they write.
        size: images in a part; an archive, or a Parquet file with images in it, is a part, whatever it holds.
        resume: read parts that are in the folder instead of scoring them again; else they are removed.
    """
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    with _cluster():
        actors, cpus, gpus = _actors(setup.device or "cpu")
        setup = replace(setup, device="cuda" if gpus else setup.device, cpus=cpus)
        rows = [row(number, shard) for number, shard in enumerate(shards(found, size))]
        parts.begin(keep=resume)
        parts.check(len(rows))
        results = ray.data.from_arrow(rows).map_batches(
            _ShardScorer,
            fn_constructor_args=(setup, parts, ray.cloudpickle.dumps(give)),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(rows))),
            num_cpus=cpus,
            num_gpus=gpus,
        )
        for batch in results.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            result: _Result = pickle.loads(batch["content"][0].as_py())
            yield from result.records
            if result.problem is not None:
                raise result.problem
        parts.finish(len(rows))


@contextmanager
def _cluster() -> Iterator[None]:
    """Ray, quiet, and ended if it was started here."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    handler = signal.getsignal(signal.SIGTERM)
    with open(os.devnull, "wb") as nowhere, standard_error_to(nowhere):  # Ray prints that it was told to be quiet
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError) as error:
            raise SourceError(f"Ray can't be reached or started: {error}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)  # Ray has put its own in place
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def _actors(device: str) -> tuple[int, int, int]:
    """How many actors a cluster has room for, and the CPUs and GPUs of each."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if device.startswith("cuda"):
        sizes = [(int(node["GPU"]), int(node.get("CPU", 0))) for node in nodes if node.get("GPU", 0) >= 1]
        if not sizes:
            raise SourceError(f"--device {device}: no node of the Ray cluster has a GPU")
        return sum(gpus for gpus, _ in sizes), max(1, min(cpus // gpus for gpus, cpus in sizes)), 1
    counts = [int(node["CPU"]) for node in nodes if node.get("CPU", 0) >= 1]
    if not counts:
        raise SourceError("no node of the Ray cluster has a CPU to offer")
    cpus = min(MAX_CPUS, *counts)
    return sum(count // cpus for count in counts), cpus, 0


def shards(found: Iterable[Found], size: int) -> Iterator[list[Found]]:
    """What was found in input order: an archive alone, anything else with its neighbours."""
    for is_archive, neighbours in groupby(found, lambda each: each.is_archive):
        while shard := list(islice(neighbours, 1 if is_archive else size)):
            yield shard


def row(number: int, content: Any) -> pyarrow.Table:
    """A shard, or what came of it, as Ray Data passes it on."""
    return pyarrow.table({"number": [number], "content": [pickle.dumps(content)]})


@dataclass(frozen=True)
class _Result:
    """What came of a shard: its records, up to what stopped it."""

    records: list[Record]
    problem: Exception | None = None


class _ShardScorer:
    """An actor that scores shards and writes their parts."""

    def __init__(self, setup: Setup, parts: Parts, give: bytes) -> None:
        self.engine = setup.engine()
        self.names = [metric.name for metric in setup.metrics]
        self.parts = parts
        self.read = setup.generation or Wanted()
        self.give: Callable[[Found], Item] = ray.cloudpickle.loads(give)

    def __call__(self, shard: pyarrow.Table) -> pyarrow.Table:
        number, content = shard["number"][0].as_py(), shard["content"][0].as_py()
        return row(number, self._result(number, pickle.loads(content)))

    def _result(self, number: int, found: Sequence[Found]) -> _Result:
        records: list[Record] = []
        try:
            written = self._written(number, found)
            if written is not None:
                return _Result(written)
            records.extend(self.engine.run(self.give(item) for each in found for item in opened(each)))
            self.parts.write(number, [to_row(record, self.parts.columns) for record in records])
        except (SourceError, ImageError, OSError) as error:
            return _Result(records, error)
        return _Result(records)

    def _written(self, number: int, found: Sequence[Found]) -> list[Record] | None:
        """Records of the shard's part; None if it is not there, or has fewer images than the shard."""
        rows = self.parts.read(number)
        if rows is None:
            return None
        columns = self.parts.columns
        if found[0].item.image.lower().endswith(archives.SUFFIX):  # read once: its images are not known before that
            path = utf8(found[0].item.image)
            images = [row["image"] for row in rows[:: len(self.names)]]
            known = images if all(image.startswith(path) for image in images) else [path]
            wanted = [{**row, "image": image} for image, row in zip(known, rows[:: len(self.names)], strict=False)]
            wanted = [{**row, "metric": name} for row in wanted for name in self.names]
        else:
            items = (self.give(item) for each in found for item in opened(each))
            items = (self.read.complete(item) for item in items)
            wanted = [row for item in items for row in rows_ahead(item, self.names, columns, self.read.filled)]
        if len(rows) > len(wanted) or not all(map(partial(is_same, columns=columns), rows, wanted)):
            raise of_another_run(self.parts.path, f"part {number} holds other images or metrics, references or groups")
        written = self.parts.written(number)
        for each in (*rows, {"image": found[0].item.image, "reference": None}):
            refuse_changed(self.parts.path, (each["image"], each["reference"]), written)
        return [to_record(row, columns) for row in rows] if len(rows) == len(wanted) else None
