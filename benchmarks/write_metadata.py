"""What `--write-metadata` and `--write-sidecars` cost: images scored, and written into, given sidecars, and copied.

    python benchmarks/write_metadata.py [--images 48] [--rounds 5] [--folder DIR] [METRIC ...]

METRIC is nr-efficientnet-lite2, nr-lite or another with weights. Images are crops of scikit-image's photographs with a
little noise, PNG, 1024 x 1024 pixels and 1.6 MB. They lie in DIR, whose disk is the one that counts; each run begins
with images without scores. A round has each case twice, in one order and back, since a run slows down the next. Copied
is the least that a file takes to be replaced: its bytes are read, written beside it and on the disk, and renamed.
Printed is what each adds to the seconds, which for writing is to stay below 3%, and to the time of all processors: the
mean of the rounds and its standard error.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image
from skimage import data

import aigciqa
from aigciqa.scoring.scores_in_files import ScoresInFiles

SIZE = (1024, 1024)
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
#: Scores images, and does what else is timed.
Case: TypeAlias = "Callable[[list[Path], aigciqa.Metric], None]"


def main() -> None:
    """Print what each case adds, for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", default=("nr-efficientnet-lite2", "nr-lite"), metavar="METRIC")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5, help="2 or more")
    parser.add_argument("--folder", help="where the images lie; the system's folder for such files if absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = draw(Path(folder), options.images)
        megabytes = sum(map(len, images.values())) / len(images) / 1e6
        for name in options.metrics:
            metric = aigciqa.create_metric(name)
            cases: dict[str, Case] = {
                "scored": score,
                "written into": partial(score_and_write, sidecars=False),
                "given sidecars": partial(score_and_write, sidecars=True),
                "copied": score_and_copy,
            }
            rounds = []
            for _ in range(options.rounds + 1):
                there = [timed(case, images, metric) for case in cases.values()]
                back = [timed(case, images, metric) for case in reversed(cases.values())]
                rounds.append(np.add(there, back[::-1]) / 2)
            spent = np.array(rounds[1:])  # (rounds, cases, 2); the first round does not count
            print(f"{name}, {len(images)} PNGs of {megabytes:.2f} MB: {spent[:, 0, 0].mean():.2f} s", flush=True)
            for number, case in list(enumerate(cases))[1:]:
                seconds, cpu = (described(spent[:, number, kind] / spent[:, 0, kind] - 1) for kind in (0, 1))
                print(f"  and {case}: {seconds}; of CPU time {cpu}", flush=True)


def described(added: np.ndarray) -> str:
    """The mean and its standard error."""
    return f"{added.mean():+.1%} ± {added.std(ddof=1) / math.sqrt(len(added)):.1%}"


def draw(folder: Path, count: int) -> dict[Path, bytes]:
    """Files and what is in them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        whole = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])())
        pixels = np.asarray(whole.resize(SIZE, Image.Resampling.BICUBIC)) + rng.normal(0, 2, (*SIZE[::-1], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.png")
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def timed(case: Case, images: dict[Path, bytes], metric: aigciqa.Metric) -> tuple[float, float]:
    """Seconds, and those of all processors, that a case takes from images without scores."""
    for path, content in images.items():
        path.write_bytes(content)
        path.with_name(f"{path.name}.xmp").unlink(missing_ok=True)
    if hasattr(os, "sync"):  # else the first file that is written takes all these to the disk, too
        os.sync()
    start, start_cpu = time.perf_counter(), time.process_time()
    case(list(images), metric)
    return time.perf_counter() - start, time.process_time() - start_cpu


def score(images: list[Path], metric: aigciqa.Metric) -> None:
    """Score them."""
    for _ in aigciqa.score_files(images, metric=metric):
        pass


def score_and_write(images: list[Path], metric: aigciqa.Metric, *, sidecars: bool) -> None:
    """Score them, and write into each or beside it, as `--write-metadata` and `--write-sidecars` do."""
    writer = ScoresInFiles([metric], metric.dimensions, into_files=not sidecars, sidecars=sidecars)
    items = (aigciqa.Item(str(path)) for path in images)
    for record in aigciqa.score_files(map(writer.note, items), metric=metric):
        writer.take(record, is_new=True)
    if writer.written.total() != len(images):
        raise SystemExit(f"not all were written: {writer.first_failure or writer.left_alone}")


def score_and_copy(images: list[Path], metric: aigciqa.Metric) -> None:
    """Score them, and put a copy in the place of each."""
    for record in aigciqa.score_files(images, metric=metric):
        copy = f"{record.image}.part"
        with open(copy, "wb") as stream:
            stream.write(Path(record.image).read_bytes())
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(copy, record.image)


if __name__ == "__main__":
    main()
