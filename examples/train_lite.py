"""Train the embedded metrics from photographs: makes the data, fits, validates, writes weights and cards.

    python examples/train_lite.py --photos DIR [--out DIR] [--validation DIR]

No human labels and no pretrained weights go in. A run that is broken off goes on where it stopped; on one machine the
same photographs and seed give the same weights, by hash. Needs `pip install aigciqa[train]`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from aigciqa.training.lite import recipe, training_data
from aigciqa.training.lite.cards import card, results
from aigciqa.training.lite.held_out import draw_held_out
from aigciqa.training.lite.photos import find_photos, split_photos
from aigciqa.training.lite.validation import Validation


def main() -> None:
    """Run the recipe."""
    options = arguments()
    torch.set_num_threads(1)
    cache = options.cache or options.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    settings = training_data.Settings(steps=options.steps)
    training, held_out = split_photos(find_photos(options.photos))
    data = training_data.training_data(training, settings, cache, options.workers, "photos to train on")
    validation = Validation(draw_held_out(held_out, settings, cache, options.workers), options.validation)
    tasks = [(data, replace(settings, seed=seed)) for seed in range(options.seeds)]
    fits = training_data.in_processes(recipe.fit_all, tasks, "fits, one per seed", options.workers, "seed")
    for seed, fitted in enumerate(tqdm(fits, desc="measuring", unit="seed")):
        for variant in recipe.VARIANTS:
            recipe.write_variant(cache / f"seed-{seed}", variant, fitted)
        validation.measure(fitted, cache / f"seed-{seed}")
    metadata = training_data.metadata(data, len(training), len(held_out))
    for variant in recipe.VARIANTS:
        tables = validation.tables[variant]
        digest = recipe.write_variant(
            options.out, variant, fits[0], metadata, results(tables), card(variant, tables, metadata)
        )
        print(f"{options.out / variant}: sha256 {digest}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, by subject")
    parser.add_argument("--out", type=Path, default=Path("lite"), help="where weights and cards go")
    parser.add_argument("--cache", type=Path, help="where features are kept (default: OUT/cache)")
    parser.add_argument("--validation", type=Path, help="folder that holds gan-compression and resolution-compression")
    parser.add_argument("--seeds", type=int, default=3, help="how many fits; the first is shipped")
    parser.add_argument("--steps", type=int, default=1500, help="of fitting the perceptrons")
    parser.add_argument("--workers", type=int, default=2, help="processes that make images")
    return parser.parse_args()


if __name__ == "__main__":
    main()
