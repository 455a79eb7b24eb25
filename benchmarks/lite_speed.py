"""How much faster the embedded metrics are than ResNet-50: seconds per image, and their ratio, in one run.

python benchmarks/lite_speed.py [--threads 2] [--repeats 15]
"""

from __future__ import annotations

import argparse
from functools import partial

import torch
from interleaved import medians

import aigciqa

SIZES = (512, 1024)
WANTED = {512: 5.0, 1024: 2.5}


def main() -> None:
    """Print a table: metric, size, milliseconds of both, ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{'metric':8} {'size':>5} {'lite ms':>8} {'resnet50 ms':>12} {'ratio':>6} {'wanted':>7}")
    for kind in ("nr", "fr"):
        lite = aigciqa.create_metric(f"{kind}-lite")
        paper = aigciqa.create_metric(f"{kind}-resnet50", weights=None)
        for size in SIZES:
            images = [torch.rand(1, 3, size, size) for _ in range(2 if kind == "fr" else 1)]
            cases = {"lite": partial(lite, *images), "paper": partial(paper, *images)}
            fast, slow = (1e3 * seconds for seconds in medians(cases, options.repeats).values())
            print(f"{kind}-lite  {size:5} {fast:8.1f} {slow:12.1f} {slow / fast:6.1f} {WANTED[size]:7.1f}")


if __name__ == "__main__":
    main()
