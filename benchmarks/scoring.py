"""The scoring engine against straightforward loops and against the bare network, side by side in one run.

    python benchmarks/scoring.py [--metric resnet50] [--threads 2] [--images 96] [--repeats 5] [PART ...]

PART is one or more of nr, fr, all, lite, draft, profile, deviation; all of them by default. Files are JPEG, 512 x 512,
quality 92 (`draft`: 2048 x 2048). The engine is timed in steady state: from the end of its first batch. It is compared
with:

- loop: as the paper authors test: Pillow decodes in the main process, float32, default memory format, batches of 20,
  both images of every pair through the network, one model for each target;
- one by one: one image at a time, as command lines of metric libraries do it;
- limit: the bare network, batch normalisation folded, channels last, on tensors that are in memory.

Each is a process of its own, and they are interleaved. The first two run without the huge pages that `import aigciqa`
asks for, and so does "small pages": the engine in a process whose torch made a tensor before that import.
Weights are random, since what is timed does not depend on them; where scores are compared, a short training came first.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from interleaved import Case, medians_of_processes, serve
from lightning_fabric import Fabric
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse
from torchvision import transforms

import aigciqa
from aigciqa.databases.sample import Sample
from aigciqa.images.decode import load_image
from aigciqa.metric import Metric
from aigciqa.scoring.encoder import Encoder
from aigciqa.training.image_cache import build_cache
from aigciqa.training.learner import Learner
from aigciqa.training.settings import Settings

PARTS = ("nr", "fr", "all", "lite", "draft", "profile", "deviation")
PER_PROMPT = 8
LOOP_BATCH, BATCH = 20, 8
TARGETS = 4
DEVIATION_IMAGES = 500
TRAINING_IMAGES, EPOCHS = 160, 8
BY_HAND = ("loop", "one by one")
SMALL_PAGES = ("pillow small pages float32", "pillow small pages auto")


def main() -> None:
    """Print a few lines for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART")
    parser.add_argument("--metric", default="resnet50", help="trunk of the paper's metrics")
    parser.add_argument("--pattern", default="*", help="of the metrics that `all` and `deviation` go through")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS, metavar=("WAY", "METRIC", "FOLDER"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.case:
        way, name, folder = options.case
        serve(case_of(way, name, items_of(Path(folder)), options.threads))
        return
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            globals()["compare_" + part](options, Path(folder))


def draw(folder: Path, images: int, side: int = 512, seed: int = 0) -> None:
    """Textured images with noise of random strength, and a prompt for every eight."""
    y, x = np.mgrid[0:side, 0:side] / 40.0

    def save(name: str, strength: float, rng: np.random.Generator) -> None:
        waves = sum(rng.uniform(5, 40) * np.sin(rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y) for _ in range(6))
        levels = 128 + np.stack([waves * rng.uniform(0.5, 1) for _ in range(3)], axis=2)
        noisy = levels + rng.normal(0, 1 + strength, (side, side, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name, quality=92)

    folder.mkdir(exist_ok=True)
    for number in range(len(items_of(folder)), images):
        rng = np.random.default_rng([seed, number])
        if number % PER_PROMPT == 0:
            save(f"prompt{number // PER_PROMPT:03}.jpg", 0, rng)
        strength = rng.uniform(0, 20)
        save(f"{number:04}-{strength:.3f}.jpg", strength, rng)


def items_of(folder: Path) -> list[aigciqa.Item]:
    """The images drawn, with their prompts."""
    images = sorted(folder.glob("[0-9]*.jpg"))
    return [
        aigciqa.Item(str(image), str(folder / f"prompt{number // PER_PROMPT:03}.jpg"))
        for number, image in enumerate(images)
    ]


def noise(item: aigciqa.Item) -> float:
    """How strong the noise in an image drawn is, 0 to 20."""
    return float(Path(item.image).stem.split("-")[1])


def rates(options: argparse.Namespace, folder: Path, cases: dict[str, tuple[str, str]]) -> dict[str, float]:
    """Median images per second of cases: name -> (way, metric)."""
    draw(folder, options.images)
    common = ["--threads", str(options.threads)]
    calls = {name: [*common, "--case", *way, str(folder)] for name, way in cases.items()}
    found = medians_of_processes(__file__, calls, (*BY_HAND, *SMALL_PAGES), options.repeats)
    per_second = {name: options.images / seconds for name, seconds in found.items()}
    print("images/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in per_second.items()), flush=True)
    return per_second


def case_of(way: str, name: str, items: list[aigciqa.Item], threads: int) -> Case:
    """What a case's process does once it is asked to."""
    metric = aigciqa.create_metric(
        name, weights="default" if name.endswith("lite") else None, dtype="auto" if way.endswith("auto") else "float32"
    )
    paths = [item.image for item in items]
    if way == "loop":
        return functools.partial(Loop(metric).run, items)
    if way == "one by one":
        return lambda: [metric(path) for path in paths]
    if way.startswith("limit"):
        return limit(metric, len(items))
    if way == "tensors":
        return tensors(metric, paths)
    if way == "decoding":
        if metric.requires_reference:
            paths += sorted({str(item.reference) for item in items})
        return lambda: decode(paths)
    return functools.partial(engine, metric, items, way.split()[0])


class Loop:
    """Testing as the paper authors' script does it, for one target."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        spec = metric.config.preprocess
        assert spec.resize is not None
        assert spec.crop is not None
        self.transform = transforms.Compose(
            [
                transforms.Resize(spec.resize),
                transforms.CenterCrop(spec.crop),
                transforms.ToTensor(),
                transforms.Normalize(spec.mean, spec.std),
            ]
        )

    def batch(self, paths: Sequence[str | None]) -> Tensor:
        """Preprocessed images."""
        return torch.stack([self.transform(Image.open(str(path)).convert("RGB")) for path in paths])

    @torch.no_grad()
    def run(self, items: Sequence[aigciqa.Item]) -> None:
        """Scores of all."""
        for start in range(0, len(items), LOOP_BATCH):
            part = items[start : start + LOOP_BATCH]
            columns = [[item.image for item in part]]
            if self.metric.requires_reference:
                columns.append([str(item.reference) for item in part])
            features = [self.metric.backbone.pool(self.metric.backbone(self.batch(column))) for column in columns]
            self.metric.head(torch.cat(features, dim=1))


def engine(
    metric: Metric, items: Sequence[aigciqa.Item], decoder: str, batch: int = BATCH, workers: int | None = None
) -> float:
    """Seconds in which the engine scores so many images once it runs."""
    records = aigciqa.score_files(
        items, metric=metric, batch_size=batch, workers=workers, decoder=decoder  # type: ignore[arg-type]
    )  # fmt: skip
    started = [next(records) for _ in range(batch)]
    start = time.perf_counter()
    rest = list(records)
    seconds = time.perf_counter() - start
    assert all(record.error is None for record in [*started, *rest])
    return seconds * len(items) / len(rest)


def limit(metric: Metric, images: int) -> Case:
    """The bare network on images in memory: batch normalisation folded, channels last, no more."""
    dtype = metric.autocast_dtype or torch.float32
    network = fuse(metric.backbone).to(dtype=dtype).to(memory_format=torch.channels_last)
    side = metric.config.preprocess.crop or 0
    pixels = torch.randn(BATCH, 3, side, side).to(dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> None:
        for _ in range(images // BATCH):
            network(pixels)

    return run


def tensors(metric: Metric, paths: Sequence[str]) -> Case:
    """Score batches in memory, each with one prompt if the metric needs it."""
    batch = torch.stack([metric.preprocessor.image(load_image(path)) for path in paths[:BATCH]]).contiguous()
    parts = (batch, batch[:1]) if metric.requires_reference else (batch,)

    def run() -> None:
        for _ in range(len(paths) // BATCH):
            features, *prompt = (metric.backbone.pool(metric.feature_maps(part)) for part in parts)
            metric.regress(features, *prompt)

    return run


def decode(paths: Sequence[str]) -> None:
    """Decode with Pillow, in one thread."""
    for path in paths:
        np.asarray(Image.open(path).convert("RGB"))


def compare_nr(options: argparse.Namespace, folder: Path) -> None:
    """No reference: against the authors' loop, one by one, and the limit."""
    name = f"nr-{options.metric}"
    ways = (*BY_HAND, "pillow float32", "pillow auto", *SMALL_PAGES, "limit float32", "limit auto")
    found = rates(options, folder, {way: (way, name) for way in ways})
    for other in BY_HAND:
        plain, auto = (found[f"pillow {dtype}"] / found[other] for dtype in ("float32", "auto"))
        print(f"{name}: {plain:.2f}x {other}, {auto:.2f}x auto")
    for dtype in ("float32", "auto"):
        large, small = (found[f"pillow {pages}{dtype}"] / found[f"limit {dtype}"] for pages in ("", "small pages "))
        print(f"{name}: {large:.2f} of the bare network, {small:.2f} in small pages, {dtype}")


def compare_fr(options: argparse.Namespace, folder: Path) -> None:
    """Full reference: against the authors' loop."""
    name = f"fr-{options.metric}"
    found = rates(options, folder, {way: (way, name) for way in ("loop", "pillow float32", "pillow auto")})
    one, auto = (found[f"pillow {dtype}"] / found["loop"] for dtype in ("float32", "auto"))
    print(f"{name}, {PER_PROMPT} images per prompt: {one:.2f}x the authors' loop, {auto:.2f}x auto")
    print(f"{name}, {TARGETS} targets: {TARGETS * one:.1f}x the authors' {TARGETS} loops, {TARGETS * auto:.1f}x auto")


def compare_all(options: argparse.Namespace, folder: Path) -> None:
    """Each of the paper's metrics against the authors' loop, in float32."""
    for name in aigciqa.list_metrics(options.pattern):
        if not name.endswith("lite"):
            found = rates(options, folder, {way: (way, name) for way in ("loop", "pillow float32")})
            print(f"{name}: {found['pillow float32'] / found['loop']:.2f}x the authors' loop", flush=True)


def compare_lite(options: argparse.Namespace, folder: Path) -> None:
    """The embedded metrics: against decoding with Pillow and then scoring pixels in memory."""
    for name in ("nr-lite", "fr-lite"):
        found = rates(options, folder, {way: (way, name) for way in ("pillow float32", "tensors", "decoding")})
        together = 1 / (1 / found["tensors"] + 1 / (options.threads * found["decoding"]))
        print(f"{name}: {found['pillow float32'] / together:.2f} of what tensors and Pillow's decoding allow together")


def compare_draft(options: argparse.Namespace, folder: Path) -> None:
    """Scaled decoding of large images: how much faster, and how far scores move."""
    large = folder / "large"
    draw(large, options.images, side=2048)
    for name in ("nr-resnet18", f"nr-{options.metric}", "nr-lite"):
        found = rates(options, large, {way: (way, name) for way in ("pillow auto", "draft auto")})
        metric = trained(name, folder / "training")
        exact, draft = (scores(metric, items_of(large), decoder) for decoder in ("pillow", "draft"))
        faster = found["draft auto"] / found["pillow auto"]
        print(f"{name}, 2048 x 2048: {faster:.2f}x with draft; {deviation(exact, draft)}")


def compare_profile(options: argparse.Namespace, folder: Path) -> None:
    """Where the time goes: milliseconds per image of decoding and resizing in one thread, of the network in all."""
    draw(folder, options.images)
    for dtype in ("float32", "auto"):
        profile(
            options, aigciqa.create_metric(f"nr-{options.metric}", weights=None, dtype=dtype), items_of(folder), dtype
        )


def profile(options: argparse.Namespace, metric: Metric, items: list[aigciqa.Item], dtype: str) -> None:
    """One metric's stages."""
    encoder = Encoder(metric)
    images = [load_image(item.image) for item in items]
    batch = torch.stack([metric.preprocessor.image(image) for image in images[:BATCH]])
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: [load_image(item.image) for item in items],
        "resize": lambda: [metric.preprocessor.image(image) for image in images],
        "network": lambda: [encoder.encode(batch) for _ in range(len(items) // BATCH)],
        "all": lambda: engine(metric, items, "pillow"),
    }
    spent = {stage: 1000 * seconds / len(items) for stage, seconds in in_turns(stages, options.repeats).items()}
    shared = (spent["decode"] + spent["resize"]) / options.threads + spent["network"]
    parts = ", ".join(f"{stage} {milliseconds:.2f}" for stage, milliseconds in spent.items())
    print(f"{metric.name} {dtype}, ms per image: {parts}, rest {spent['all'] - shared:.2f}", flush=True)


def in_turns(stages: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in this process."""
    times: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(repeats + 1):
        for name, stage in stages.items():
            start = time.perf_counter()
            measured = stage()
            times[name].append(measured if isinstance(measured, float) else time.perf_counter() - start)
    return {name: float(np.median(spent[1:])) for name, spent in times.items()}


def compare_deviation(options: argparse.Namespace, folder: Path) -> None:
    """How far the engine's scores are from the plain network's, on 500 images that no metric has learnt from."""
    draw(folder, DEVIATION_IMAGES)
    items = items_of(folder)
    for name in aigciqa.list_metrics(options.pattern):
        metric = trained(name, folder / "training")
        pairs = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        plain = torch.cat([metric(*columns(metric, part)) for part in pairs]).numpy()
        lines = [f"folded {deviation(plain, scores(metric, items))}"]
        lines.append(f"bfloat16 {deviation(plain, scores(converted(metric), items))}")
        print(f"{name} on {len(items)} images: {'; '.join(lines)}", flush=True)


def trained(
    name: str, folder: Path, device: str = "cpu", images: int = TRAINING_IMAGES, epochs: int = EPOCHS
) -> Metric:
    """A metric that has learnt from random weights how strong the noise in some images is.

    `lite` is as it ships, and VGG random. With batch normalisation random weights would not do: a deep network rounds
    away what little of an image reaches its end.
    """
    torch.manual_seed(0)
    metric = aigciqa.create_metric(name, weights="default" if name.endswith("lite") else None)
    if not any(isinstance(module, nn.BatchNorm2d) for module in metric.modules()):
        return metric
    draw(folder, images, seed=1)
    samples = [
        Sample(item.image, item.reference, None, None, "", dict.fromkeys(metric.dimensions, 5 - noise(item) / 5), "")
        for item in items_of(folder)
    ]
    settings = Settings(name, metric.dimensions, dtype="bfloat16", start="none")
    paths = [path for item in items_of(folder) for path in (item.image, str(item.reference))]
    cache = build_cache(paths, metric.config.preprocess, folder, workers=2, progress=False)
    fabric = Fabric(accelerator=device, devices=1, precision="bf16-mixed")
    learner = Learner(fabric, metric, settings, samples, cache)
    for epoch in range(1, epochs + 1):
        if epoch == epochs:
            learner.optimizer.param_groups[0]["lr"] /= 10
        for _ in learner.steps(epoch):
            pass
    metric.load_state_dict(learner.weights())
    metric.eval()
    return metric


def converted(metric: Metric, dtype: str = "bfloat16", device: str = "cpu", *, as_loss: bool = False) -> Metric:
    """The same metric, computing in another dtype or elsewhere."""
    other = aigciqa.create_metric(metric.name, weights=None, dtype=dtype, device=device, as_loss=as_loss)
    other.load_state_dict(metric.state_dict())
    return other


def columns(metric: Metric, items: Sequence[aigciqa.Item]) -> list[list[str]]:
    """Images, and references where the metric takes them."""
    images, references = [item.image for item in items], [str(item.reference) for item in items]
    return [images, references] if metric.requires_reference else [images]


def scores(metric: Metric, items: Sequence[aigciqa.Item], decoder: str = "pillow") -> np.ndarray:
    """The main dimension by the engine."""
    records = aigciqa.score_files(items, metric=metric, decoder=decoder)  # type: ignore[arg-type]
    return np.array([record.scores[metric.dimension] for record in records])


def deviation(plain: np.ndarray, other: np.ndarray) -> str:
    """Rank correlation, and the largest difference as a share of the range."""
    srcc, share = deviations(plain, other)
    return f"SRCC {srcc:.5f}, largest difference {share:.1e} of the scores' range"


def deviations(plain: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The two figures."""
    return float(spearmanr(plain, other)[0]), float(np.abs(plain - other).max() / np.ptp(plain))


if __name__ == "__main__":
    main()
