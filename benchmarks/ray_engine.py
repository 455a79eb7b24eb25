"""The scoring engine on Ray against the same engine in this process, interleaved, start-up excluded.

    python benchmarks/ray_engine.py [--metric nr-resnet50] [--dtype auto] [--threads 2] [--images 288] [--repeats 3]

Files are JPEG, 512 x 512, quality 92. Both are timed from the end of a first part of the images to the end of the
last; on Ray, that is when the parts are written, so a cluster's start and its actor's do not count. A cluster of its
own is started each time, with as many CPUs as there are threads, and runs only then. Weights are random.

It also prints what a plan of a large run needs: what a decoding thread does, how fast the driver lists a manifest and
takes in records, and bytes per image.
"""

from __future__ import annotations

import argparse
import os
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle, islice
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before ray is loaded

import numpy as np
import torch
from scoring import draw, items_of

import aigciqa
from aigciqa.images.decode import load_image
from aigciqa.integrations.ray import Setup
from aigciqa.integrations.shards import row, score_shards, shards
from aigciqa.metric import Metric
from aigciqa.scoring.items import Found
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.sources import open_sources
from aigciqa.scoring.summary import Summary
from aigciqa.tables.columns import columns_of, to_row

LISTED, PART = 96_000, 1000


def main() -> None:
    """Print images per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="nr-resnet50")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=288)
    parser.add_argument("--part-size", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "images", options.images)
        items = items_of(folder / "images")
        embedded = aigciqa.metric_info(options.metric).embedded
        checkpoint = folder / "checkpoint"
        aigciqa.create_metric(options.metric, weights="default" if embedded else None).save_pretrained(checkpoint)
        metric = aigciqa.create_metric(options.metric, weights=str(checkpoint), dtype=options.dtype)
        parts = Parts(str(folder / "scores.parquet"), columns_of(metric.dimensions), {"format": 1})
        ways: dict[str, Callable[[], float]] = {
            "local": lambda: local_rate(items, metric, options.part_size),
            "ray": lambda: ray_rate(items, metric, parts, options.part_size),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, run in ways.items():
                rates[way].append(run())
        print_costs(items, metric, folder)
    local, ray = (statistics.median(rates[way]) for way in ways)
    print(
        f"{options.metric} {options.dtype}, images/s: local {local:.1f}, Ray {ray:.1f}; Ray / local {ray / local:.2f}"
    )


def local_rate(items: Sequence[aigciqa.Item], metric: Metric, part_size: int) -> float:
    """Images per second from the end of the first part on."""
    times = []
    for record in aigciqa.score_files(items, metric=metric):
        assert record.error is None, record.error
        times.append(time.time())
    return (len(times) - part_size) / (times[-1] - times[part_size - 1])


def ray_rate(items: Sequence[aigciqa.Item], metric: Metric, parts: Parts, part_size: int) -> float:
    """Images per second from the time the first part was written."""
    parts.begin(keep=False)
    found = (Found(item, item.image) for item in items)
    for record in score_shards(
        found, lambda each: each.item, Setup([metric], fast=False, device=None), parts, part_size
    ):
        assert record.error is None, record.error
    times = [part.stat().st_mtime for part in Path(parts.path).iterdir()]
    return (len(items) - part_size) / (max(times) - min(times))


def print_costs(items: Sequence[aigciqa.Item], metric: Metric, folder: Path) -> None:
    """What a plan of a large run needs to know: a decoding thread, the driver, the bytes."""
    start = time.perf_counter()
    for item in items:
        metric.preprocessor.image(load_image(item.image))
    decoded = len(items) / (time.perf_counter() - start)

    manifest = folder / "manifest.csv"
    manifest.write_text("".join(["image\n", *(f"{item.image}\n" for item in islice(cycle(items), LISTED))]))
    start = time.perf_counter()
    found = (each for opener in open_sources([str(manifest)], sys.stdin.buffer, {}) for each in opener())
    bytes_listed = sum(row(number, shard).nbytes for number, shard in enumerate(shards(found, PART)))
    listed = LISTED / (time.perf_counter() - start)

    draws = np.random.default_rng(0).normal(2.5, 1, (PART, len(metric.dimensions)))
    records = [
        aigciqa.Record(
            f"{item.image}-{number}", None, None, metric.name, dict(zip(metric.dimensions, scores, strict=True))
        )
        for number, (item, scores) in enumerate(zip(cycle(items), draws.tolist(), strict=False))
    ]
    columns = columns_of(metric.dimensions)
    summary, pickled = Summary(metric.config.score_ranges), pickle.dumps(records)
    start = time.perf_counter()
    for _ in range(LISTED // PART):
        summary.add([to_row(record, columns) for record in pickle.loads(pickled)])
    taken = LISTED / (time.perf_counter() - start)

    parts = Parts(str(folder / "sizes.parquet"), columns, {"format": 1})
    parts.begin(keep=False)
    parts.write(0, [to_row(record, columns) for record in records])
    written = sum(part.stat().st_size for part in Path(parts.path).iterdir()) / PART
    read = statistics.mean(Path(item.image).stat().st_size for item in items)
    print(
        f"a thread decodes and resizes {decoded:.0f} images/s; the driver lists {listed:,.0f}/s, takes {taken:,.0f}/s"
    )
    print(f"bytes per image: {read:,.0f} read, {bytes_listed / LISTED:.0f} listed, {written:.0f} written")


if __name__ == "__main__":
    main()
