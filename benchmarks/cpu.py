"""What `aigciqa/cpu` gains over plain torch and `torch.compile`, on the CPU.

    python benchmarks/cpu.py --metric resnet50

Inference: feature maps of a batch by the plain network, by the fused one (`cpu/fusion.py`, as `Encoder` builds it)
and by `torch.compile`. Training: a step of the full-reference metric. The plain way makes its two passes after each
other, in torch's layout; then come `torch.compile`, oneDNN's layout (`cpu/__init__.py`, float32) and both passes at the
same time (`cpu/parallel_passes.py`). Cases are interleaved: ratios hold on a busy machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from interleaved import Case, medians
from torch import Tensor

import aigciqa
from aigciqa.scoring.encoder import Encoder
from aigciqa.training.learner import Trainee
from aigciqa.training.settings import Settings

DTYPES = ("float32", "bfloat16")
COMPILED = "torch.compile"


def inference(backbone: str, dtype: str, batch: int) -> dict[str, Case]:
    """Ways to make feature maps of a batch of preprocessed images."""
    metric = aigciqa.create_metric(f"nr-{backbone}", weights=None, dtype=dtype)
    side = metric.config.preprocess.crop or 224
    pixels = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8)
    encoder = Encoder(metric)
    plain = metric.backbone.to(memory_format=torch.channels_last)
    compiled = torch.compile(plain)

    @torch.inference_mode()
    def run(network: Callable[[Tensor], Tensor]) -> Tensor:
        images = metric.preprocessor.normalize(pixels).contiguous(memory_format=torch.channels_last)
        with metric.autocast(metric.autocast_dtype):
            return network(images)

    return {
        "plain torch": lambda: run(plain),
        COMPILED: lambda: run(compiled),
        "fused": lambda: encoder.encode(pixels),
    }


def training(backbone: str, dtype: str, batch: int) -> dict[str, Case]:
    """Ways to train a full-reference metric for a step."""
    side = aigciqa.metric_info(f"fr-{backbone}").preprocess.crop or 224
    parts = [torch.randint(256, (batch, 3, side, side), dtype=torch.uint8) for _ in range(2)]

    def step(layout: bool = False, parallel: bool = False, compile: bool = False) -> Case:
        metric = aigciqa.create_metric(f"fr-{backbone}", weights=None)
        trainee = Trainee(metric, Settings(metric.name, metric.dimensions, dtype=dtype), torch.device("cpu")).train()
        if not layout and trainee.blocked:
            trainee.blocked = False
            trainee.backbone.to(memory_format=torch.channels_last)
        if not parallel:
            trainee.passes = None
        optimizer = torch.optim.Adam(trainee.parameters(), lr=1e-4, fused=True)
        model = torch.compile(trainee) if compile else trainee

        def run() -> None:
            optimizer.zero_grad()
            with trainee.passes.running() if trainee.passes is not None else nullcontext():
                with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
                    scores = model(*parts)
                scores.float().square().mean().backward()
            optimizer.step()

        return run

    cases = {"plain torch": step(), COMPILED: step(compile=True)}
    if dtype == "float32":
        cases["oneDNN's layout"] = step(layout=True)
        cases["oneDNN's layout, parallel passes"] = step(layout=True, parallel=True)
    else:
        cases["parallel passes"] = step(parallel=True)
    return cases


def show(title: str, seconds: Mapping[str, float]) -> None:
    """Print how often each case runs in the time of the plain one."""
    plain = seconds["plain torch"]
    print(f"{title}: " + ", ".join(f"{name} {plain / spent:.2f}x" for name, spent in seconds.items()), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metric", nargs="*", default=["resnet50"], metavar="BACKBONE")
    parser.add_argument("--dtype", nargs="*", default=DTYPES, choices=DTYPES)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("parts", nargs="*", default=["inference", "training"], metavar="PART")
    options = parser.parse_args()
    for backbone in options.metric:
        for dtype in options.dtype:
            if "inference" in options.parts:
                cases = inference(backbone, dtype, options.batch)
                show(f"inference {backbone} {dtype}", medians(cases, options.rounds))
            if "training" in options.parts:
                cases = training(backbone, dtype, options.batch)
                show(f"training fr-{backbone} {dtype}", medians(cases, options.rounds))


if __name__ == "__main__":
    main()
