"""`aigciqa fit`: seconds and memory of the command, first and again; then images a second of the fitted head.

    python benchmarks/fit.py [--ratings 100] [--images 128] [--rounds 5] [--threads 2]

The command is timed as a process, from its start to its end, with features kept in a folder that is empty at first. CPU
time does not count what others on the machine take. Scoring is interleaved with nr-resnet50, in float32 and in what
`--dtype auto` takes, by engines that are ready: from the files to the scores, in steady state.
"""

from __future__ import annotations

import argparse
import compileall
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from interleaved import medians
from PIL import Image, ImageFilter

import aigciqa
from aigciqa.scoring.engine import Engine
from aigciqa.utils.hardware import fast_dtype

SIDE = 512
WANTED = {"first": 90.0, "again": 3.0}
MEMORY = 1500
#: Runs a command; prints its seconds, CPU seconds and peak megabytes.
CODE = """
import resource, subprocess, sys, time
start = time.perf_counter()
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
unit = 1e6 if sys.platform == "darwin" else 1e3
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / unit)
"""


def draw(folder: Path, images: int, seed: int = 0) -> list[str]:
    """JPEG files, the more blurred the lower rated, and their table of ratings."""
    rng = np.random.default_rng(seed)
    paths, lines = [], ["image,quality"]
    for index in range(images):
        blur = rng.uniform(0, 4)
        coarse = Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        image = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(blur))
        paths.append(str(folder / f"{index:06}.jpg"))
        image.save(paths[-1], quality=92)
        lines.append(f"{index:06}.jpg,{5 - blur + rng.normal(0, 0.3):.2f}")
    (folder / "ratings.csv").write_text("\n".join(lines) + "\n")
    return paths


def fit(folder: Path) -> tuple[float, float, float]:
    """Run the command: seconds, CPU seconds, peak megabytes."""
    command = [
        sys.executable, "-m", "aigciqa.cli", "fit", str(folder / "ratings.csv"), "-o", str(folder / "metric"),
        "--overwrite", "--quiet", "--cache", str(folder / "cache"),
    ]  # fmt: skip
    printed = subprocess.run([sys.executable, "-c", CODE, *command], check=True, stdout=subprocess.PIPE, text=True)
    wall, cpu, memory = map(float, printed.stdout.split())
    return wall, cpu, memory


def score(engine: Engine, paths: list[str]) -> float:
    """Score files by an engine that has scored before; the seconds that it took."""
    start = time.perf_counter()
    assert all(record.error is None for record in engine.run(map(aigciqa.Item, paths)))
    return time.perf_counter() - start


def main() -> None:
    """Print the figures beside what is wanted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", type=int, default=100)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    compileall.compile_dir(Path(aigciqa.__file__).parent, quiet=1)  # as pip does when it installs
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = draw(folder, max(options.ratings, options.images))
        table = (folder / "ratings.csv").read_text().splitlines()
        (folder / "ratings.csv").write_text("\n".join(table[: options.ratings + 1]) + "\n")
        for which, wanted in WANTED.items():
            wall, cpu, memory = fit(folder)
            print(f"{which:6} {wall:6.1f} s (wanted {wanted:g}), CPU {cpu:5.1f} s, {memory:5.0f} MB (wanted {MEMORY})")
        dtypes = dict.fromkeys(("float32", str(fast_dtype("cpu")).removeprefix("torch.")))
        for dtype in dtypes:
            metrics = {
                "fitted head": aigciqa.Metric.from_pretrained(folder / "metric", dtype=dtype),
                "nr-resnet50": aigciqa.create_metric("nr-resnet50", weights=None, dtype=dtype),
            }
            engines = {each: Engine([metric], None, None) for each, metric in metrics.items()}
            cases = {each: partial(score, engine, paths[: options.images]) for each, engine in engines.items()}
            rates = {each: options.images / spent for each, spent in medians(cases, options.rounds).items()}
            for engine in engines.values():
                engine.close()
            print(f"{dtype}: " + ", ".join(f"{each} {rate:.1f} images/s" for each, rate in rates.items()), end="; ")
            fitted, resnet = rates.values()
            print(f"ratio {fitted / resnet:.2f} (at least 1)")


if __name__ == "__main__":
    main()
