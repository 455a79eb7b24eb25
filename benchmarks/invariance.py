"""How much scores change with the batch size and the number of workers: the largest difference, per metric.

python benchmarks/invariance.py
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import torch

import aigciqa

IMAGES = Path(__file__).parent.parent / "examples" / "images"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="of metric names, such as '*-lite'")
    pattern = parser.parse_args().pattern
    images = sorted((IMAGES / "generated").rglob("*.jpg"))
    prompts = [IMAGES / "prompts" / image.name for image in images]
    for name in aigciqa.list_metrics(pattern):
        torch.manual_seed(0)
        metric = aigciqa.create_metric(name, weights="default" if "lite" in name else None)
        runs = []
        for batch_size, workers in itertools.product((1, 3, 16), (0, 1, 4)):
            records = aigciqa.score_files(
                images,
                metric=metric,
                references=prompts if metric.requires_reference else None,
                batch_size=batch_size,
                workers=workers,
            )
            runs.append([list(record.scores.values()) for record in records])
        scores = torch.tensor(runs)
        difference = (scores.amax(0) - scores.amin(0)).max().item()
        print(f"{name:<16}batches of 1, 3, 16, workers 0, 1, 4: largest difference {difference:.1e} (at most 1e-05)")


if __name__ == "__main__":
    main()
