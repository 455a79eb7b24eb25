"""Training and evaluation against a straightforward loop, side by side in one run.

    python benchmarks/training.py [--metric fr-resnet50] [--threads 2] [--steps 8] [--images 400] [PART ...]

PART is one or more of steps, targets, evaluation, frozen, memory; all of them by default. The loop works as the paper
authors' training script does: all images decoded in memory, transforms per item in the main process, float32, default
memory format, batch 8, one model for each target. Images of 512 x 512 are drawn for the purpose.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from interleaved import Case, CaseProcess, medians, medians_of_processes, serve
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor
from torchvision import transforms

import aigciqa
from aigciqa.databases.sample import Sample
from aigciqa.evaluation import predict
from aigciqa.metric import Metric
from aigciqa.training.image_cache import build_cache
from aigciqa.training.learner import Learner
from aigciqa.training.settings import PRECISIONS, Settings
from aigciqa.utils.hardware import keep_memory

PARTS = ("steps", "targets", "evaluation", "frozen", "memory")
DIMENSIONS = ("quality", "authenticity", "correspondence", "overall")
#: Ways of training whose memory is compared with the loop's.
WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, checkpointing": {"activation_checkpointing": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, checkpointing": {"dtype": "bfloat16", "activation_checkpointing": True},
}
PER_PROMPT = 8
BATCH = 8


def main() -> None:
    """Print a ratio for each part."""
    options = arguments()
    torch.set_num_threads(options.threads)
    if options.way:
        serve(stepping(options))
        return
    with tempfile.TemporaryDirectory() as folder:
        samples = draw_database(Path(folder), options.images)
        for part in options.parts:
            print(f"{part}: {globals()['compare_' + part](options, samples, Path(folder))}", flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=PARTS, metavar="PART")
    parser.add_argument("--metric", default="fr-resnet50")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of each kind")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--way", choices=("loop", *WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def draw_database(folder: Path, images: int) -> list[Sample]:
    """Noise of random strength on smooth images, as JPEG files."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:512, 0:512] / 60.0

    def save(name: str, strength: float) -> str:
        image = 128 + 60 * np.sin(x * rng.uniform(0.5, 2) + y * rng.uniform(0.5, 2))[..., None]
        image = image + rng.normal(0, 1 + strength, (512, 512, 3))
        path = folder / name
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(path, quality=92)
        return str(path)

    samples = []
    for number in range(images):
        if number % PER_PROMPT == 0:
            prompt = save(f"prompt{number // PER_PROMPT}.jpg", 0.0)
        strength = rng.uniform(0, 40)
        scores = dict.fromkeys(DIMENSIONS, 5 - strength / 10)
        samples.append(Sample(save(f"{number}.jpg", strength), prompt, None, None, prompt, scores, str(number)))
    return samples


class Loop:
    """Training as the paper authors' script does it: one metric on one target."""

    def __init__(self, metric: str, samples: list[Sample], device: str = "cpu") -> None:
        self.model = aigciqa.create_metric(metric, weights=None, device=device)
        spec = self.model.config.preprocess
        assert spec.resize is not None
        assert spec.crop is not None
        self.transform = transforms.Compose(
            [
                transforms.Resize(spec.resize),
                transforms.RandomCrop(spec.crop),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(spec.mean, spec.std),
            ]
        )
        self.pairs = [
            (Image.open(s.image).convert("RGB"), Image.open(str(s.reference)).convert("RGB")) for s in samples
        ]
        self.targets = torch.tensor([s.scores["quality"] for s in samples])
        self.model.backbone.train()
        parameters = [*self.model.backbone.parameters(), *self.model.head.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-4, weight_decay=1e-5)

    def batch(self, start: int) -> tuple[Tensor, Tensor, Tensor]:
        """Images, prompts and targets."""
        chosen = [number % len(self.pairs) for number in range(start, start + BATCH)]
        parts = [torch.stack([self.transform(self.pairs[i][side]) for i in chosen]) for side in (0, 1)]
        images, prompts, targets = (part.to(self.model.device) for part in (*parts, self.targets[chosen]))
        return images, prompts, targets

    def scores(self, images: Tensor, prompts: Tensor) -> Tensor:
        """One target's scores (B,)."""
        parts = [images, prompts] if self.model.requires_reference else [images]
        features = torch.cat([self.model.backbone.pool(self.model.backbone(part)) for part in parts], dim=1)
        scores: Tensor = self.model.head(features)[:, 0]
        return scores

    def steps(self) -> Iterator[None]:
        """A step of training each time."""
        start = 0
        while True:
            images, prompts, targets = self.batch(start)
            start += BATCH
            self.optimizer.zero_grad()
            (self.scores(images, prompts) - targets).square().mean().backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            yield

    @torch.no_grad()
    def evaluate(self, count: int) -> None:
        """Scores of `count` images, the prompt of each encoded with it."""
        self.model.backbone.eval()
        for start in range(0, count, BATCH):
            images, prompts, _ = self.batch(start)
            self.scores(images, prompts)


def ours(
    name: str, samples: list[Sample], folder: Path, count: int = 1, device: str = "cpu", **settings: Any
) -> Learner:
    """This library's training on the first `count` targets, its cache of images filled."""
    chosen = Settings(name, DIMENSIONS[:count], batch_size=BATCH, **settings)
    given = aigciqa.create_metric(name, weights=None)
    ranges = {name: given.config.score_ranges[name] for name in chosen.dimensions}
    metric = Metric(dataclasses.replace(given.config, score_ranges=ranges))
    paths = [path for sample in samples for path in (sample.image, str(sample.reference))]
    images = build_cache(paths, metric.config.preprocess, folder / "cache", workers=2, progress=False)
    fabric = Fabric(accelerator=device, devices=1, precision=PRECISIONS[chosen.dtype])  # type: ignore[arg-type]
    return Learner(fabric, metric, chosen, samples, images)


def endless(learner: Learner) -> Iterator[object]:
    """Steps of epoch after epoch."""
    for epoch in itertools.count(1):
        yield from learner.steps(epoch)


def compare_steps(options: argparse.Namespace, samples: list[Sample], folder: Path) -> str:
    """Steps a second, each way in a process of its own."""
    ours(options.metric, samples, folder)  # fills the cache of images
    ways = ("loop", "float32", "bfloat16")
    calls = {way: arguments_of(options, folder, way) for way in ways}
    found = medians_of_processes(__file__, calls, ways, options.steps)
    ratios = ", ".join(f"{name} {found['loop'] / found[name]:.2f}x" for name in ways[1:])
    return f"{ratios} the loop's steps per second (wanted 1.35x, and 2.4x in bfloat16)"


def compare_targets(options: argparse.Namespace, samples: list[Sample], folder: Path) -> str:
    """Four targets at once against one."""
    one, four = (endless(ours(options.metric, samples, folder, count)) for count in (1, 4))
    found = medians({"one": one.__next__, "four": four.__next__}, options.steps)
    return f"training four targets jointly costs {found['four'] / found['one']:.2f}x that of one (wanted at most 1.1x)"


def compare_evaluation(options: argparse.Namespace, samples: list[Sample], folder: Path) -> str:
    """Four targets of the same images: the loop's four models against one."""
    loop = Loop(options.metric, samples)
    count = min(len(samples), 32 * PER_PROMPT)
    metrics = {
        dtype: aigciqa.create_metric(options.metric, weights=None, dtype=dtype) for dtype in ("float32", "bfloat16")
    }
    cases: dict[str, Case] = {"loop": lambda: loop.evaluate(count)}
    for dtype, metric in metrics.items():
        cases[dtype] = lambda metric=metric: predict({"ours": metric}, samples[:count])  # type: ignore[misc]
    found = medians(cases, options.steps)
    ratios = ", ".join(f"{dtype} {4 * found['loop'] / found[dtype]:.1f}x" for dtype in metrics)
    return f"{ratios} the loop's four evaluations, {count} images, {PER_PROMPT} per prompt (wanted 15x in bfloat16)"


def compare_frozen(options: argparse.Namespace, samples: list[Sample], folder: Path) -> str:
    """An epoch after the first with a frozen backbone, against the loop's epoch."""
    learner = ours(options.metric, samples, folder, frozen=True)
    list(learner.steps(1))
    start = time.perf_counter()
    list(learner.steps(2))
    frozen = time.perf_counter() - start
    steps = Loop(options.metric, samples).steps()
    found = medians({"loop": steps.__next__}, options.steps)["loop"] * len(samples) / BATCH
    return f"{found / frozen:.0f}x the loop's epoch, the loop's taken from its steps (wanted 50x)"


def compare_memory(options: argparse.Namespace, samples: list[Sample], folder: Path) -> str:
    """Peak memory of a process with its images, after five steps."""
    ours(options.metric, samples, folder)  # fills the cache of images
    peaks = {}
    for way in ("loop", *WAYS):
        with CaseProcess(__file__, arguments_of(options, folder, way), is_plain=True) as process:
            process.wait_until_ready()
            for _ in range(5):
                process.run()
            peaks[way] = process.peak()
    loop = peaks.pop("loop")
    shares = ", ".join(f"{way} {each / loop:.1%} ({each / 1e6:.0f} MB)" for way, each in peaks.items())
    return f"{shares} of the loop's {loop / 1e6:.0f} MB; {options.images} images (wanted at most 15% at 4,000)"


def arguments_of(options: argparse.Namespace, folder: Path, way: str) -> list[str]:
    """The call of this script that trains in one way."""
    line = ["--metric", options.metric, "--images", str(options.images), "--threads", str(options.threads)]
    return [*line, "--folder", str(folder), "--way", way]


def stepping(options: argparse.Namespace) -> Case:
    """Training, a step at a time, on the images that were drawn."""
    pairs = [(f"{number}.jpg", f"prompt{number // PER_PROMPT}.jpg") for number in range(options.images)]
    samples = [
        Sample(
            str(options.folder / image), str(options.folder / prompt), None, None, "", dict.fromkeys(DIMENSIONS, mos)
        )
        for mos, (image, prompt) in enumerate(pairs)
    ]
    if options.way == "loop":
        return Loop(options.metric, samples).steps().__next__
    keep_memory("activation_checkpointing" not in WAYS[options.way])  # as `aigciqa train` does
    return endless(ours(options.metric, samples, options.folder, **WAYS[options.way])).__next__


if __name__ == "__main__":
    main()
