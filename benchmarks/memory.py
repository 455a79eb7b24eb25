"""Peak memory of scoring N files against ten times as many, each in a process of its own.

python benchmarks/memory.py --metric nr-lite --images 500
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

DISTINCT = 25
SIDE = 512


def write_pictures(folder: Path, count: int) -> None:
    """`count` JPEG files: 25 distinct pictures and links to them."""
    rng = np.random.default_rng(0)
    for index in range(DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{index:06}.jpg", quality=92)
    for index in range(DISTINCT, count):
        (folder / f"{index:06}.jpg").hardlink_to(folder / f"{index % DISTINCT:06}.jpg")


def peak(metric: str, folder: Path, count: int) -> float:
    """Megabytes of a process that scores the first `count` pictures of a folder."""
    code = f"""
import itertools, pathlib, aigciqa
paths = itertools.islice((path for path in sorted(pathlib.Path({str(folder)!r}).iterdir())), {count})
metric = aigciqa.create_metric({metric!r}, weights={"'default'" if "lite" in metric else None})
assert sum(record.error is None for record in aigciqa.score_files(paths, metric=metric, batch_size=16)) == {count}
import resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    kilobytes = int(done.stdout)
    return kilobytes / (1e6 if sys.platform == "darwin" else 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metric", default="nr-lite")
    parser.add_argument("--images", type=int, default=500)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_pictures(folder, 10 * arguments.images)
        few = peak(arguments.metric, folder, arguments.images)
        many = peak(arguments.metric, folder, 10 * arguments.images)
    print(f"{arguments.metric}: {arguments.images} images {few:.0f} MB, {10 * arguments.images} images {many:.0f} MB")
    print(f"ratio {many / few:.3f} (at most 1.10)")


if __name__ == "__main__":
    main()
