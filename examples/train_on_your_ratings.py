"""Train a metric on ratings of your own: a CSV of images and mean opinion scores becomes a checkpoint.

    python examples/train_on_your_ratings.py ratings.csv --output checkpoint [--metric nr-resnet18] [--epochs 30]

`ratings.csv` has the columns `image` and one or more of `quality`, `authenticity`, `correspondence`, `overall`, and
optionally `reference` (the image prompt, which fr- metrics need), `prompt`, `generator` and `group`. Paths are relative
to the file. Needs `pip install aigciqa[train]`; without network add `--start none` or an ImageNet file you have.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import aigciqa
from aigciqa.errors import InputError, MissingExtraError, TrainingError, WeightsError
from aigciqa.training.settings import Settings
from aigciqa.training.trainer import train


def main() -> None:
    """Train, then show what the metric says of images it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path, help="the CSV file")
    parser.add_argument("--output", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--metric", default="nr-resnet18")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--start", default="imagenet", help="imagenet, none, a checkpoint or an ImageNet file")
    parser.add_argument("--frozen", action="store_true", help="train the head alone: fast, and enough for few ratings")
    options = parser.parse_args()

    database = aigciqa.load_database("folder", options.ratings.parent, manifest=options.ratings.name)
    print(database.info())
    split = database.split()  # no prompt in two parts
    settings = Settings(
        metric=options.metric,
        dimensions=database.dimensions,
        epochs=options.epochs,
        start=options.start,
        frozen=options.frozen,
        learning_rate=1e-3 if options.frozen else 1e-4,
        patience=10,
    )
    with tempfile.TemporaryDirectory() as cache:
        metric = train(database, split, settings, options.output, cache=cache)

    print(f"figures on {len(split.test)} images that were not trained on:")
    for dimension, figures in metric.config.results.items():
        print(f"  {dimension}: {figures}")
    for sample in split.test[:3]:
        inputs = [sample.image, sample.reference] if metric.requires_reference else [sample.image]
        score = metric.predict(*inputs)[database.dimensions[0]].item()
        print(f"  {Path(sample.image).name}: people {sample.scores[database.dimensions[0]]:.2f}, metric {score:.2f}")


if __name__ == "__main__":
    try:
        main()
    except (InputError, MissingExtraError, TrainingError, WeightsError, OSError) as error:  # what the library refuses
        raise SystemExit(f"error: {error}") from None
