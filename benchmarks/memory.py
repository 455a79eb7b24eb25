"""Peak memory and time per image of scoring N files against twenty times as many, each in a process of its own.

    python benchmarks/memory.py [--metric nr-lite] [--images 1000] [--times 20]

The short run is made before and after the long one, so that a machine that slows down shows. Each is timed from its
first image to its last, after a run on a hundred that loads what loads once: a clock started on the way
would miss what had been decoded ahead by then. CPU time does not count what other guests of a shared machine take.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

DISTINCT = 25
SIDE = 512
WARM_UP = 100
CODE = """
import itertools, pathlib, resource, sys, time
import aigciqa
metric, folder, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
metric = aigciqa.create_metric(metric, weights="default" if "lite" in metric else None)
def score(count):
    paths = map(str, itertools.islice(sorted(pathlib.Path(folder).iterdir()), count))
    assert sum(record.error is None for record in aigciqa.score_files(paths, metric=metric)) == count
score({warm_up})
wall, cpu = time.perf_counter(), time.process_time()
score(count)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
print(wall / count, cpu / count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_images(folder: Path, count: int) -> None:
    """`count` JPEG files: 25 distinct images and links to them."""
    rng = np.random.default_rng(0)
    for index in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:06}.jpg", quality=92)
    for index in range(DISTINCT, count):
        (folder / f"{index:06}.jpg").hardlink_to(folder / f"{index % DISTINCT:06}.jpg")


class Run(NamedTuple):
    """What a process took: milliseconds per image by the clock and of its CPUs, and peak megabytes."""

    wall: float
    cpu: float
    memory: float


def run(metric: str, folder: Path, count: int) -> Run:
    """Score the first `count` images of a folder."""
    code = CODE.format(warm_up=WARM_UP)
    command = [sys.executable, "-c", code, metric, str(folder), str(count)]
    wall, cpu, kilobytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Run(1000 * float(wall), 1000 * float(cpu), int(kilobytes) / (1e6 if sys.platform == "darwin" else 1e3))


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="nr-lite")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--times", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, options.times * options.images)
        counts = (options.images, options.times * options.images, options.images)
        before, long, after = (run(options.metric, folder, count) for count in counts)
    peak = max(before.memory, after.memory)
    print(f"{options.metric}: {counts[0]} images {peak:.0f} MB, {counts[1]} images {long.memory:.0f} MB")
    print(f"memory ratio {long.memory / peak:.3f} (at most 1.05)")
    for name, field in (("clock", "wall"), ("CPU", "cpu")):
        first, middle, last = (getattr(each, field) for each in (before, long, after))
        print(f"{name}, ms per image: {first:.2f} before, {middle:.2f}, {last:.2f} after", end="; ")
        print(f"ratio {2 * middle / (first + last):.3f} (at most 1.05)")


if __name__ == "__main__":
    main()
