"""The scoring engine on Ray against the same engine in this process, in turns, start-up excluded.

    python benchmarks/ray_engine.py [--metric nr-resnet50] [--dtype auto] [--threads 2] [--images 240] [--repeats 3]

Files are JPEG, 512 x 512, quality 92. Both are timed from the end of a first part of the pictures to the end of the
last; on Ray, that is when the parts are written, so a cluster's start and its actor's do not count. A cluster of its
own is started for each turn, with as many CPUs as there are threads, and runs only then. Weights are random.

It also prints what a plan of a large run needs: bytes read and written per picture, and pictures per second that the
driver lists from a manifest and cuts into parts.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aigciqa.cli import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ}, RAY_USAGE_STATS_ENABLED="0")  # before torch and ray are loaded

import torch
from scoring import draw, items_of

import aigciqa
from aigciqa.integrations.ray import Setup
from aigciqa.integrations.shards import row, score_shards, shards
from aigciqa.metric import Metric
from aigciqa.scoring.parts import Parts
from aigciqa.scoring.sinks import columns_of
from aigciqa.scoring.sources import Found, open_sources

LISTED = 100_000


def main() -> None:
    """Print images per second and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="nr-resnet50")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--part-size", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "images", options.images)
        items = items_of(folder / "images")
        embedded = aigciqa.metric_info(options.metric).embedded
        aigciqa.create_metric(options.metric, weights="default" if embedded else None).save_pretrained(folder / "head")
        metric = aigciqa.create_metric(options.metric, weights=str(folder / "head"), dtype=options.dtype)
        parts = Parts(str(folder / "scores.parquet"), columns_of(metric.dimensions))
        ways: dict[str, Callable[[], float]] = {
            "local": lambda: local_rate(items, metric, options.part_size),
            "ray": lambda: ray_rate(items, metric, parts, options.part_size),
        }
        rates: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(options.repeats):
            for way, run in ways.items():
                rates[way].append(run())
        print_costs(items, parts, folder / "manifest.csv", options.part_size)
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


def print_costs(items: Sequence[aigciqa.Item], parts: Parts, manifest: Path, part_size: int) -> None:
    """Bytes per picture, and how fast a driver lists them."""
    read = statistics.mean(Path(item.image).stat().st_size for item in items)
    written = sum(part.stat().st_size for part in Path(parts.path).iterdir()) / len(items)
    manifest.write_text("image\n" + "".join(f"{item.image}\n" for item in items) * (LISTED // len(items)))
    start = time.perf_counter()
    found = (each for opener in open_sources([str(manifest)], sys.stdin.buffer) for each in opener())
    listed = sum(part_size for shard in shards(found, part_size) if row(0, shard))
    rate = listed / (time.perf_counter() - start)
    print(f"bytes per picture: {read:,.0f} read, {written:.0f} written in parts of {part_size}; listed: {rate:,.0f}/s")


if __name__ == "__main__":
    main()
