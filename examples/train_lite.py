"""Train the embedded metrics from photographs: makes the data, fits, validates, writes weights and cards.

    python examples/train_lite.py --photos DIR [--out DIR] [--validation DIR]

No human labels and no pretrained weights go in. A run that is broken off goes on where it stopped; the same photographs
and seed give the same weights, by hash. Needs `pip install aigciqa[train]`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from aigciqa.metric import Metric
from aigciqa.training import recipe, validation
from aigciqa.training.cards import Tables, card, results
from aigciqa.training.pictures import Photo, Sample, find_photos, ladder_plan, split_photos

VARIANTS = ("nr-lite", "nr-lite-native", "fr-lite")
PUBLISHED = ("MS-SSIM", "VIF", "PSNR", "hyperIQA")
CONTROLS = {
    "picture height": validation.picture_height,
    "smaller picture": validation.smaller_picture,
    "file size": validation.file_size,
    "sharpness ratio": validation.sharpness_ratio,
}
GAN_TITLES = {
    "srcc": "SRCC with Bradley-Terry scores",
    "pairs": "pairs whose majority agrees",
    "votes": "single votes that agree",
}
RESOLUTION_TITLES = {"srcc": "SRCC with mean opinion scores", "partial": "partial SRCC given the height"}
WANTED = {
    ("fr-lite", "srcc"): 0.85,
    ("fr-lite", "pairs"): 0.85,
    ("nr-lite-native", "srcc"): 0.38,
    ("nr-lite", "resolution srcc"): 0.85,
    ("nr-lite", "resolution partial"): 0.30,
}
Figures = dict[str, dict[str, validation.Figure]]
Task = tuple[Photo, Sequence[Sample], Path, bool]


def main() -> None:
    """Run the recipe."""
    options = arguments()
    torch.set_num_threads(1)
    cache = options.cache or options.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    training, held_out = split_photos(find_photos(options.photos))
    settings = [recipe.Settings(seed=seed) for seed in range(options.seeds)]
    tasks = [(photo, recipe.photo_plan(photo, settings[0]), cache, True) for photo in training]
    data = recipe.assemble(features(tasks, "pictures to train on", options.workers))
    ladders = [(photo, ladder_plan(photo, 0), cache, False) for photo in held_out]
    held_features = features(ladders, "held-out pictures", options.workers)
    patches = [patch for photo in tqdm(held_out, desc="patched photos") for patch in validation.patch_photo(photo)]
    controls = None if options.validation is None else judged_controls(options.validation)
    tables = {variant: Tables() for variant in VARIANTS}
    for setting in tqdm(settings, desc="fits, one per seed", unit="seed"):
        fitted = recipe.fit_all(data, setting)
        if setting.seed == 0:
            shipped = fitted
        folder = cache / f"seed-{setting.seed}"
        for variant in VARIANTS:
            recipe.write_variant(folder, variant, fitted, {}, {}, "")
        measure(tables, fitted, held_features, patches)
        if controls is not None:
            metrics = {variant: Metric.from_pretrained(folder / variant) for variant in VARIANTS}
            measure_judged(tables, metrics, options.validation, controls)
    pictures = data.orders.targets.numel()
    facts = {
        "recipe": "examples/train_lite.py",
        "photographs": len(training),
        "held_out": len(held_out),
        "pictures": pictures,
        "seed": 0,
    }
    for variant in VARIANTS:
        text = card(variant, list(tables[variant].tables.values()), (len(training), len(held_out)), pictures)
        recipe.write_variant(options.out, variant, shipped, facts, results(tables[variant].tables), text)
        digest = hashlib.sha256((options.out / variant / "model.safetensors").read_bytes()).hexdigest()
        print(f"{options.out / variant}: sha256 {digest}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs, by subject")
    parser.add_argument("--out", type=Path, default=Path("lite"), help="where weights and cards go")
    parser.add_argument("--cache", type=Path, help="where features are kept (default: OUT/cache)")
    parser.add_argument("--validation", type=Path, help="folder that holds gan-compression and resolution-compression")
    parser.add_argument("--seeds", type=int, default=3, help="how many fits; the first is shipped")
    parser.add_argument("--workers", type=int, default=2, help="processes that make pictures")
    return parser.parse_args()


def features(tasks: Sequence[Task], label: str, workers: int) -> list[recipe.PhotoFeatures]:
    """Features of photographs, made by several processes."""
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        return list(tqdm(pool.map(_features, tasks), total=len(tasks), desc=label, unit="photo"))


def _features(task: Task) -> recipe.PhotoFeatures:
    photo, plan, cache, scored = task
    return recipe.photo_features(photo, plan, cache, scored=scored)


def measure(
    tables: dict[str, Tables],
    fitted: recipe.Fitted,
    held_features: Sequence[recipe.PhotoFeatures],
    patches: Sequence[validation.Patched],
) -> None:
    """Add a seed's figures on held-out photographs to the tables."""
    contrast = {"log contrast": validation.sharpness_monotonicity(held_features)}
    title = "Adjacent strengths ordered right, held-out photographs, pristine included"
    for variant in VARIANTS:
        rows = validation.monotonicity(held_features, fitted, variant)
        tables[variant].add("monotone", title, rows, 0.975 if variant == "fr-lite" else 0.88, contrast)
        pristine, worst = validation.calibration(held_features, fitted, variant)
        rows = {"pristine": pristine, "greatest strength": worst}
        tables[variant].add("calibration", "Mean scores of held-out photographs", rows)
    rows = validation.map_areas(patches, fitted)
    beside = {"local contrast": rows.pop("sharpness")}
    title = "Quality map: area under the ROC curve for the degraded square of a pristine photograph"
    tables["nr-lite"].add("map", title, rows, 0.93, beside)
    rows = {"share": validation.identity_is_best(held_features, fitted)}
    tables["fr-lite"].add("identity", "Degraded pictures that score no higher than the reference itself", rows, 0.99)
    rows = validation.other_reference(held_features, fitted)
    if rows:
        beside = {"log contrast": rows.pop("sharpness"), "nr-lite": rows.pop("nr-lite")}
        title = "Pristine over moderately degraded, reference another photograph of the subject"
        tables["fr-lite"].add("other_reference", title, rows, 0.92, beside)


def judged_controls(judged: Path) -> tuple[Figures, Figures]:
    """Published metrics and trivial controls on the two sets that people judged: control -> figures."""
    gan, resolution = judged / "gan-compression", judged / "resolution-compression"
    beside = {name: validation.published_agreement(gan, name) for name in PUBLISHED}
    for name in ("file size", "sharpness ratio"):
        beside[name] = validation.gan_compression(gan, without_reference(CONTROLS[name]))
    return beside, {name: validation.resolution_compression(resolution, f) for name, f in CONTROLS.items()}


def measure_judged(
    tables: dict[str, Tables], metrics: Mapping[str, Metric], judged: Path, controls: tuple[Figures, Figures]
) -> None:
    """Add a seed's figures on the two sets that people judged."""
    gan, resolution = judged / "gan-compression", judged / "resolution-compression"
    beside_gan, beside_resolution = controls
    for variant, metric in metrics.items():
        rows = validation.gan_compression(gan, scorer(metric))
        for key, title in GAN_TITLES.items():
            beside = {name: figures[key] for name, figures in beside_gan.items()}
            wanted = WANTED.get((variant, key))
            tables[variant].add(
                f"gan_compression_{key}", f"gan-compression: {title}", {variant: rows[key]}, wanted, beside
            )
        if metric.requires_reference:
            continue
        rows = validation.resolution_compression(resolution, lone_scorer(metric))
        for key, title in RESOLUTION_TITLES.items():
            beside = {name: figures[key] for name, figures in beside_resolution.items() if key in figures}
            wanted = WANTED.get((variant, f"resolution {key}"))
            title = f"resolution-compression: {title}"
            tables[variant].add(f"resolution_compression_{key}", title, {variant: rows[key]}, wanted, beside)


def scorer(metric: Metric) -> Callable[[Path, Path], float]:
    """A function of a picture and its original; a metric without reference ignores the latter."""
    if metric.requires_reference:
        return lambda picture, original: float(metric(picture, original))
    return without_reference(lone_scorer(metric))


def lone_scorer(metric: Metric) -> Callable[[Path], float]:
    """A function of a picture."""
    return lambda picture: float(metric(picture))


def without_reference(score: Callable[[Path], float]) -> Callable[[Path, Path], float]:
    """A function of a picture, as one of a picture and its original."""
    return lambda picture, original: score(picture)


if __name__ == "__main__":
    main()
