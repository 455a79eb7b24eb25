"""What `--maps` costs: whole runs of `aigciqa score DIR --report r.html` with and without it, interleaved.

    python benchmarks/maps.py [--images 145] [--rounds 3] [METRIC ...]

METRIC is nr-lite, fr-lite or another with weights; these two by default. Images are crops of scikit-image's
photographs, 512 x 512, PNG; with fr-lite, the prompt of each is itself before its brightness was changed. Printed are
the medians of the seconds, start of Python included, and their ratio, which is to stay below 3.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from interleaved import medians
from PIL import Image, ImageEnhance
from skimage import data

SIDE = 512
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket", "retina")
MOST = 3.0


def main() -> None:
    """Print a line for each metric."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", default=("nr-lite", "fr-lite"), metavar="METRIC")
    parser.add_argument("--images", type=int, default=145)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, options.images)
        for metric in options.metrics:
            cases = {
                "without": lambda metric=metric: score(folder, metric, with_maps=False),
                "with": lambda metric=metric: score(folder, metric, with_maps=True),
            }
            spent = medians(cases, options.rounds)
            print(
                f"{metric}, {options.images} images: scores and report {spent['without']:.1f} s, with maps "
                f"{spent['with']:.1f} s; ratio {spent['with'] / spent['without']:.2f} (at most {MOST:g})",
                flush=True,
            )


def draw(folder: Path, images: int) -> None:
    """Square crops in `outputs`, and what they were made from in `prompts`."""
    rng = np.random.default_rng(0)
    for name in ("outputs", "prompts"):
        (folder / name).mkdir()
    for number in range(images):
        whole = Image.fromarray(getattr(data, PHOTOGRAPHS[number % len(PHOTOGRAPHS)])())
        side = int(rng.integers(min(whole.size) // 2, min(whole.size)))
        left, top = (int(rng.integers(0, length - side)) for length in whole.size)
        image = whole.resize((SIDE, SIDE), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
        image.save(folder / "prompts" / f"{number:04}.png")
        ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.2)).save(folder / "outputs" / f"{number:04}.png")


def score(folder: Path, metric: str, *, with_maps: bool) -> None:
    """One run of the command."""
    with tempfile.TemporaryDirectory() as out:
        arguments = ["outputs", "-m", metric, "--report", f"{out}/r.html", "--quiet"]
        arguments += ["-r", "prompts"] if metric.startswith("fr-") else []
        arguments += ["--maps", f"{out}/maps"] if with_maps else []
        command = [sys.executable, "-c", "from aigciqa.cli.main import main; main()", "score", *arguments]
        subprocess.run(command, cwd=folder, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    main()
