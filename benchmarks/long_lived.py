"""Memory, open files and threads of one process that scores again and again.

    python benchmarks/long_lived.py [--metric nr-lite] [--runs 1000] [--calls 20000] [--side 96]

A line for each fifth of the runs of `score_files`, on four files each, then of the calls of a metric with a tensor. The
first fifth loads what loads once; from there on all should stay flat.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

import aigciqa

FILES = 4
LINES = 5
#: How much more memory is taken for flat.
TOLERANCE = 1.05


def watch(name: str, times: int, work: Callable[[], object]) -> bool:
    """Do something many times; print what the process holds on the way, and return whether that stayed flat."""
    process = psutil.Process()
    trim_heap = getattr(ctypes.CDLL(None), "malloc_trim", id) if sys.platform == "linux" else id
    held = []
    for line in range(LINES):
        for _ in range(times // LINES):
            work()
        gc.collect()
        trim_heap(0)  # else what glibc keeps of freed memory, a few hundred MB more or less, hides what is held
        held.append((process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()))
        memory, files, threads = held[-1]
        done = (line + 1) * (times // LINES)
        print(f"{name:<14}{done:>8}{memory:>10.1f} MB{files:>6} open files{threads:>6} threads", flush=True)
    (memory, *others), (memory_then, *others_then) = held[0], held[-1]
    return memory_then <= TOLERANCE * memory and others_then <= others


def main() -> None:
    """Print a table, and whether all stayed flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", default="nr-lite")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--side", type=int, default=96, help="of the images, in pixels")
    options = parser.parse_args()
    is_lite = options.metric == "nr-lite"
    metric = aigciqa.create_metric(options.metric, weights="native" if is_lite else None)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        paths = [str(Path(folder) / f"{number}.png") for number in range(FILES)]
        for path in paths:
            Image.fromarray(random.integers(0, 256, (options.side, options.side, 3), dtype=np.uint8)).save(path)
        image = torch.from_numpy(np.array(Image.open(paths[0]))).permute(2, 0, 1)
        flat = [
            watch("score_files", options.runs, lambda: list(aigciqa.score_files(paths, metric=metric))),
            watch("calls", options.calls, lambda: metric(image)),
        ]
    print(f"{options.metric}: {'flat' if all(flat) else 'NOT flat'}")


if __name__ == "__main__":
    main()
