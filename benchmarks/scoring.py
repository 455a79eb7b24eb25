"""The scoring engine against straightforward loops and against the bare network, side by side in one run.

    python benchmarks/scoring.py [--metric resnet50] [--threads 2] [--images 96] [--repeats 5] [PART ...]

PART is one or more of nr, fr, lite, profile, deviation; all of them by default. Files are JPEG, 512 x 512, quality 92.
The engine is timed in steady state: from the end of its first batch. It is compared with three loops:

- as the paper authors test: Pillow decodes in the main process, float32, default memory format, batches of 20, both
  pictures of every pair through the network, one model for each target;
- one picture at a time, as command lines of metric libraries do it;
- the bare network, folded and channels last, on tensors that are in memory: the limit.

Weights are random; what is timed does not depend on them.
"""

from __future__ import annotations

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from aigciqa.cli import ENVIRONMENT

os.environ.update({**ENVIRONMENT, **os.environ})  # as the command does; before torch is loaded

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor
from torchvision import transforms

import aigciqa
from aigciqa.decode import load_image
from aigciqa.metric import Metric
from aigciqa.preprocess import present_image
from aigciqa.scoring.encoder import Encoder

PARTS = ("nr", "fr", "lite", "profile", "deviation")
PER_PROMPT = 8
LOOP_BATCH, LIMIT_BATCH = 20, 8
TARGETS = 4


def main() -> None:
    """Print a few lines for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART")
    parser.add_argument("--metric", default="resnet50", help="trunk of the paper's metrics")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        items = draw(Path(folder), options.images)
        for part in options.parts:
            globals()["compare_" + part](options, items)


def draw(folder: Path, images: int) -> list[aigciqa.Item]:
    """Textured pictures with noise of random strength, and a prompt for every eight."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:512, 0:512] / 40.0

    def save(name: str, strength: float) -> str:
        waves = sum(rng.uniform(5, 40) * np.sin(rng.uniform(-3, 3) * x + rng.uniform(-3, 3) * y) for _ in range(6))
        levels = 128 + np.stack([waves * rng.uniform(0.5, 1) for _ in range(3)], axis=2)
        path = folder / name
        noisy = levels + rng.normal(0, 1 + strength, (512, 512, 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        return str(path)

    items = []
    for number in range(images):
        if number % PER_PROMPT == 0:
            prompt = save(f"prompt{number // PER_PROMPT}.jpg", 0)
        items.append(aigciqa.Item(save(f"{number}.jpg", rng.uniform(0, 20)), prompt))
    return items


def rates(options: argparse.Namespace, contestants: dict[str, Callable[[], object]], images: int) -> dict[str, float]:
    """Median images per second of each; they take turns, so that a busy machine slows all of them."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats + 1):
        for name, contestant in contestants.items():
            start = time.perf_counter()
            measured = contestant()
            times[name].append(measured if isinstance(measured, float) else time.perf_counter() - start)
    found = {name: images / statistics.median(spent[1:]) for name, spent in times.items()}
    print("images/s: " + ", ".join(f"{name} {rate:.1f}" for name, rate in found.items()))
    return found


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
        """Presented pictures."""
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


def engine(metric: Metric, items: Sequence[aigciqa.Item]) -> float:
    """Seconds in which the engine scores so many pictures once it runs."""
    records = aigciqa.score_files(items, metric=metric, batch_size=LIMIT_BATCH)
    started = [next(records) for _ in range(LIMIT_BATCH)]
    start = time.perf_counter()
    rest = [next(records), *records]
    assert all(record.error is None for record in [*started, *rest])
    return (time.perf_counter() - start) * len(items) / len(rest)


def limit(metric: Metric, images: int) -> Callable[[], None]:
    """The bare network on pictures in memory."""
    network = Encoder(metric).network
    assert network is not None
    side = metric.config.preprocess.crop or 0
    dtype = metric.autocast_dtype or torch.float32
    pixels = torch.randn(LIMIT_BATCH, 3, side, side).to(dtype).contiguous(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(images // LIMIT_BATCH):
                network(pixels)

    return run


def compare_nr(options: argparse.Namespace, items: list[aigciqa.Item]) -> None:
    """No reference: against the authors' loop, one by one, and the limit."""
    name = f"nr-{options.metric}"
    plain, fast = (aigciqa.create_metric(name, weights=None, dtype=dtype) for dtype in ("float32", "auto"))
    loop = Loop(plain)
    found = rates(
        options,
        {
            "loop": lambda: loop.run(items),
            "one by one": lambda: [plain(item.image) for item in items],
            "float32": lambda: engine(plain, items),
            "auto": lambda: engine(fast, items),
            "limit float32": limit(plain, len(items)),
            "limit auto": limit(fast, len(items)),
        },
        len(items),
    )
    print(
        f"{name}: {found['float32'] / found['loop']:.2f}x the authors' loop, {found['auto'] / found['loop']:.2f}x auto"
    )
    print(
        f"{name}: {found['float32'] / found['one by one']:.2f}x one by one, "
        f"{found['auto'] / found['one by one']:.2f}x auto"
    )
    for dtype in ("float32", "auto"):
        print(f"{name}: {found[dtype] / found[f'limit {dtype}']:.2f} of the bare network, {dtype}")


def compare_fr(options: argparse.Namespace, items: list[aigciqa.Item]) -> None:
    """Full reference: against the authors' loop."""
    name = f"fr-{options.metric}"
    plain, fast = (aigciqa.create_metric(name, weights=None, dtype=dtype) for dtype in ("float32", "auto"))
    loop = Loop(plain)
    contestants: dict[str, Callable[[], object]] = {
        "loop": lambda: loop.run(items),
        "float32": lambda: engine(plain, items),
        "auto": lambda: engine(fast, items),
    }
    found = rates(options, contestants, len(items))
    one, auto = (found[dtype] / found["loop"] for dtype in ("float32", "auto"))
    print(f"{name}, {PER_PROMPT} pictures per prompt: {one:.2f}x the authors' loop, {auto:.2f}x auto")
    print(f"{name}, {TARGETS} targets: {TARGETS * one:.1f}x the authors' {TARGETS} loops, {TARGETS * auto:.1f}x auto")


def compare_lite(options: argparse.Namespace, items: list[aigciqa.Item]) -> None:
    """The embedded metrics: against decoding with Pillow and then scoring pixels in memory."""
    for name in ("nr-lite", "fr-lite"):
        metric = aigciqa.create_metric(name)
        spec = metric.config.preprocess
        batch = torch.stack([present_image(load_image(item.image), spec) for item in items[:LIMIT_BATCH]]).contiguous()
        paths = [item.image for item in items]
        if metric.requires_reference:
            paths += sorted({str(item.reference) for item in items})
        contestants: dict[str, Callable[[], object]] = {
            "engine": functools.partial(engine, metric, items),
            "tensors": functools.partial(score_tensors, metric, batch, len(items) // LIMIT_BATCH),
            "decoding": functools.partial(decode, paths),
        }
        found = rates(options, contestants, len(items))
        together = 1 / (1 / found["tensors"] + 1 / (options.threads * found["decoding"]))
        print(f"{name}: {found['engine'] / together:.2f} of what tensors and Pillow's decoding allow together")


def score_tensors(metric: Metric, batch: Tensor, batches: int) -> None:
    """Score batches in memory, each with one prompt if the metric needs it."""
    for _ in range(batches):
        features = metric.encode_presented(batch)
        metric.regress(features, metric.encode_presented(batch[:1]) if metric.requires_reference else None)


def decode(paths: Sequence[str]) -> None:
    """Decode with Pillow."""
    for path in paths:
        np.asarray(Image.open(path).convert("RGB"))


def compare_profile(options: argparse.Namespace, items: list[aigciqa.Item]) -> None:
    """Where the time goes, in milliseconds per picture."""
    for dtype in ("float32", "auto"):
        metric = aigciqa.create_metric(f"nr-{options.metric}", weights=None, dtype=dtype)
        profile(options, items, metric, dtype)


def profile(options: argparse.Namespace, items: list[aigciqa.Item], metric: Metric, dtype: str) -> None:
    """Decoding and resizing are those of one thread, the network's of all threads."""
    spec, encoder = metric.config.preprocess, Encoder(metric)
    images = [load_image(item.image) for item in items]
    batch = torch.stack([present_image(image, spec) for image in images[:LIMIT_BATCH]])
    stages: dict[str, Callable[[], object]] = {
        "decode": lambda: [load_image(item.image) for item in items],
        "resize": lambda: [present_image(image, spec) for image in images],
        "network": lambda: [encoder.encode(batch) for _ in range(len(items) // LIMIT_BATCH)],
        "all": lambda: engine(metric, items),
    }
    found = rates(options, stages, len(items))
    parts = ", ".join(f"{stage} {1000 / rate:.2f}" for stage, rate in found.items())
    shared = (1000 / found["decode"] + 1000 / found["resize"]) / options.threads + 1000 / found["network"]
    print(f"{metric.name} {dtype}, ms per picture: {parts}, rest {1000 / found['all'] - shared:.2f}")


def compare_deviation(options: argparse.Namespace, items: list[aigciqa.Item]) -> None:
    """How far the engine's scores are from the plain network's, on the pictures drawn."""
    for name in aigciqa.list_metrics():
        scores = {}
        for way, dtype in (("plain", "float32"), ("folded", "float32"), ("bfloat16", "bfloat16")):
            torch.manual_seed(0)
            metric = aigciqa.create_metric(name, dtype=dtype, weights="default" if name.endswith("lite") else None)
            if way == "plain":
                pairs = [(i.image, i.reference) if metric.requires_reference else (i.image,) for i in items]
                scores[way] = [metric(*pair).item() for pair in pairs]
            else:
                records = aigciqa.score_files(items, metric=metric)
                scores[way] = [record.scores["quality"] for record in records]
        plain = np.array(scores["plain"])
        lines = [
            f"{way} SRCC {spearmanr(plain, scores[way])[0]:.5f}, largest difference "
            f"{np.abs(plain - scores[way]).max() / np.ptp(plain):.1e} of the scores' range"
            for way in ("folded", "bfloat16")
        ]
        print(f"{name} on {len(items)} pictures: {'; '.join(lines)}", flush=True)


if __name__ == "__main__":
    main()
