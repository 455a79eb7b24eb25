"""Train the embedded metrics from photographs: makes the data, fits, validates, writes weights and cards.

    python examples/train_lite.py --photos DIR [--out DIR] [--validation DIR]

No human labels and no pretrained weights go in. A run that is broken off goes on where it stopped; the same photographs
and seed give the same weights, by hash. Needs `pip install aigciqa[train]`.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from aigciqa.metric import Metric
from aigciqa.training import recipe, validation
from aigciqa.training.cards import Table, card, results
from aigciqa.training.pictures import Photo, Sample, find_photos, ladder_plan, split_photos

VARIANTS = ("nr-lite", "nr-lite-native", "fr-lite")
Task = tuple[Photo, Sequence[Sample], Path, bool]


def main() -> None:
    """Run the recipe."""
    options = arguments()
    torch.set_num_threads(1)
    cache = options.cache or options.out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    training, held_out = split_photos(find_photos(options.photos))
    settings = [recipe.Settings(seed=seed) for seed in range(options.seeds)]
    plans = [(photo, plan) for photo in training for plan in recipe.photo_plans(photo, settings[0])]
    data = recipe.assemble(features([(*pair, cache, True) for pair in plans], "pictures to train on", options.workers))
    ladders = [(photo, ladder_plan(photo, 0), cache, False) for photo in held_out]
    held_features = features(ladders, "held-out pictures", options.workers)
    tables: dict[str, dict[str, Table]] = {variant: {} for variant in VARIANTS}
    for setting in tqdm(settings, desc="fits, one per seed", unit="seed"):
        fitted = recipe.fit_all(data, setting)
        if setting.seed == 0:
            shipped = fitted
        folder = cache / f"seed-{setting.seed}"
        for variant in VARIANTS:
            recipe.write_variant(folder, variant, fitted, {}, {}, "")
        measure(tables, fitted, held_features, folder, held_out, options.validation)
    facts = {
        "recipe": "examples/train_lite.py",
        "photographs": len(training),
        "held_out": len(held_out),
        "pictures": data.orders.targets.numel(),
        "seed": 0,
    }
    for variant in VARIANTS:
        text = card(variant, list(tables[variant].values()), (len(training), len(held_out)), facts["pictures"])
        recipe.write_variant(options.out, variant, shipped, facts, results(tables[variant]), text)
        digest = hashlib.sha256((options.out / variant / "model.safetensors").read_bytes()).hexdigest()
        print(f"{options.out / variant}: sha256 {digest}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs; a folder below it is a subject")
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
    tables: dict[str, dict[str, Table]],
    fitted: recipe.Fitted,
    held_features: Sequence[recipe.PhotoFeatures],
    folder: Path,
    held_out: Sequence[Photo],
    judged: Path | None,
) -> None:
    """Add a seed's figures to the tables."""
    metrics = {variant: Metric.from_pretrained(folder / variant) for variant in VARIANTS}
    for variant in VARIANTS:
        add = adder(tables[variant])
        wanted = 0.975 if variant == "fr-lite" else 0.88
        rows = validation.monotonicity(held_features, fitted, variant)
        control = {"log contrast": validation.sharpness_monotonicity(held_features)}
        add("monotone", "Adjacent strengths ordered right, held-out photographs, pristine included", rows, wanted, control)
        pristine, worst = validation.calibration(held_features, fitted, variant)
        rows = {"pristine": pristine, "greatest strength": worst}
        add("calibration", "Mean scores of held-out photographs", rows)
    rows = validation.map_areas(held_out, metrics["nr-lite"])
    control = {"local contrast": rows.pop("sharpness")}
    adder(tables["nr-lite"])("map", "Quality map: area under the ROC curve for the degraded square", rows, 0.93, control)
    add = adder(tables["fr-lite"])
    add("identity", "Degraded pictures that score no higher than the reference itself",
        {"share": validation.identity_is_best(held_features, fitted)}, 0.99)
    rows = validation.other_reference(held_features, fitted)
    if rows:
        control = {"log contrast": rows.pop("sharpness"), "nr-lite": rows.pop("nr-lite")}
        add("other_reference", "Pristine over moderately degraded, reference another photograph of the subject",
            rows, 0.92, control)
    if judged is not None:
        measure_judged(tables, metrics, judged)


def measure_judged(tables: dict[str, dict[str, Table]], metrics: dict[str, Metric], judged: Path) -> None:
    """Add the figures on the two sets that people judged."""
    gan, resolution = judged / "gan-compression", judged / "resolution-compression"
    published = {name: validation.published_agreement(gan, name) for name in ("MS-SSIM", "VIF", "PSNR", "hyperIQA")}
    controls: dict[str, Callable[[Path], float]] = {
        "picture height": validation.picture_height,
        "smaller picture": validation.smaller_picture,
        "file size": validation.file_size,
        "sharpness ratio": validation.sharpness_ratio,
    }
    fixed = {name: validation.gan_compression(gan, lambda a, b, f=f: f(a)) for name, f in controls.items() if "pic" not in name}
    height = {name: validation.resolution_compression(resolution, f) for name, f in controls.items()}
    for variant, metric in metrics.items():
        add = adder(tables[variant])
        full = metric.requires_reference
        rows = validation.gan_compression(gan, lambda a, b: float(metric(a, b) if full else metric(a)))
        targets = {"fr-lite": (0.85, 0.85), "nr-lite-native": (0.38, None)}.get(variant, (None, None))
        for key, title, wanted in (
            ("srcc", "SRCC with Bradley-Terry scores", targets[0]),
            ("pairs", "pairs whose majority agrees", targets[1]),
            ("votes", "single votes that agree", None),
        ):
            beside = {name: values[key] for name, values in (published | fixed).items()}
            add(f"gan_compression_{key}", f"gan-compression: {title}", {variant: rows[key]}, wanted, beside)
        if not full:
            rows = validation.resolution_compression(resolution, lambda path: float(metric(path)))
            targets = (0.85, 0.30) if variant == "nr-lite" else (None, None)
            for key, title, wanted in (("srcc", "SRCC", targets[0]), ("partial", "the same given the height", targets[1])):
                beside = {name: values[key] for name, values in height.items() if key in values}
                add(f"resolution_compression_{key}", f"resolution-compression: {title}", {variant: rows[key]}, wanted, beside)


def adder(tables: dict[str, Table]) -> Callable[..., None]:
    """A function that adds one seed's rows to the table of a key, made if new."""

    def add(
        key: str,
        title: str,
        rows: dict[str, validation.Figure],
        wanted: float | None = None,
        controls: dict[str, validation.Figure] | None = None,
    ) -> None:
        table = tables.setdefault(key, Table(title, {}, controls or {}, wanted))
        for name, figure in rows.items():
            table.rows.setdefault(name, []).append(figure)

    return add


if __name__ == "__main__":
    main()
