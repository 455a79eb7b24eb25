"""What `--write-metadata` costs: images scored, and scored and written into, interleaved.

    python benchmarks/write_metadata.py [--images 48] [--rounds 5] [--folder DIR] [METRIC ...]

METRIC is nr-efficientnet-lite2, nr-lite or another with weights. Images are crops of scikit-image's photographs with a
little noise, PNG, 1024 x 1024 pixels and 1.6 MB. They lie in DIR, whose disk is the one that counts; each run begins
with images without scores, and a round is scored, written, written, scored, since a run slows down the next. Printed
are the medians of the seconds and what writing adds to them, which is to stay below 3%; and what it adds to the time of
all processors.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

import aigciqa
from aigciqa.scoring.scores_in_files import ScoresInFiles

SIZE = (1024, 1024)
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "retina")


def main() -> None:
    """Print a line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", default=("nr-efficientnet-lite2", "nr-lite"), metavar="METRIC")
    parser.add_argument("--images", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where the images lie; the system's folder for such files if absent")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        images = draw(Path(folder), options.images)
        megabytes = sum(map(len, images.values())) / len(images) / 1e6
        for name in options.metrics:
            metric = aigciqa.create_metric(name)
            spent: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
            for number in range(options.rounds + 1):
                for write in (False, True, True, False):
                    seconds = score(images, metric, write=write)
                    if number:  # the first round does not count
                        spent[write].append(seconds)
            (scored, scored_cpu), (written, written_cpu) = (
                map(statistics.median, zip(*spent[write], strict=True)) for write in (False, True)
            )
            print(
                f"{name}, {len(images)} PNGs of {megabytes:.2f} MB: scored {scored:.2f} s, scored and written into "
                f"{written:.2f} s: {written / scored - 1:+.1%}; of CPU time {written_cpu / scored_cpu - 1:+.1%}",
                flush=True,
            )


def draw(folder: Path, count: int) -> dict[Path, bytes]:
    """Files and what is in them."""
    rng = np.random.default_rng(0)
    for number in range(count):
        whole = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])())
        pixels = np.asarray(whole.resize(SIZE, Image.Resampling.BICUBIC)) + rng.normal(0, 2, (*SIZE[::-1], 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.png")
    return {path: path.read_bytes() for path in sorted(folder.iterdir())}


def score(images: dict[Path, bytes], metric: aigciqa.Metric, *, write: bool) -> tuple[float, float]:
    """Seconds, and those of all processors, to score them, and to write into them."""
    for path, content in images.items():
        path.write_bytes(content)
    if hasattr(os, "sync"):  # else the first file that is written takes all these to the disk, too
        os.sync()
    items = (aigciqa.Item(str(path)) for path in images)
    start, start_cpu = time.perf_counter(), time.process_time()
    writer = ScoresInFiles([metric], metric.dimensions, into_files=True, sidecars=False)
    for record in aigciqa.score_files(map(writer.note, items) if write else items, metric=metric):
        if write:
            writer.take(record, is_new=True)
    spent = time.perf_counter() - start, time.process_time() - start_cpu
    if write and writer.written["file"] != len(images):
        raise SystemExit(f"not all were written into: {writer.first_failure or writer.left_alone}")
    return spent


if __name__ == "__main__":
    main()
