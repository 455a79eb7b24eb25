"""What the tests share: images drawn in code, metrics built once, checkpoints, the command as a real process."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import aigciqa
from aigciqa import registry
from aigciqa.cli.main import main

# One test worker a core, one thread a worker; the processes that tests start read the variable.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"
# Read when huggingface_hub is imported; the Hub on loopback speaks plain HTTP.
os.environ.update(HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_test", NO_PROXY="127.0.0.1")
# A job in the background ignores it, and so would the processes that tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

COMMAND = (sys.executable, "-m", "aigciqa.cli", "score")


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """What a command sets for its process ends with the test that ran it."""
    with mock.patch.dict(os.environ):
        yield


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image (height, width, 3), uint8: smooth waves, edges and some noise, different for every seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40.0
    phase = rng.uniform(0, 6, (2, 3))
    waves = np.sin(x[..., None] * rng.uniform(0.5, 2, 3) + phase[0]) + np.cos(y[..., None] + phase[1])
    edges = 40.0 * ((x + y * rng.uniform(-1, 1)).astype(int) % 2)[..., None]
    noise = rng.normal(0, 8, (height, width, 3))
    return (90 + 35 * waves + edges + noise).clip(0, 255).astype(np.uint8)


def draw_tensor(batch: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Images (batch, 3, height, width), float32 in [0, 1]."""
    images = [torch.from_numpy(draw(height, width, seed + index)) for index in range(batch)]
    return torch.stack(images).permute(0, 3, 1, 2).float() / 255.0


def with_slow_ones(names: Iterable[str]) -> list[Any]:
    """Names of metrics or backbones as parameters of a test; the two that take longest are run with the slow tests."""
    slow = ("vgg19", "inceptionv4")
    return [pytest.param(name, marks=pytest.mark.slow) if name.endswith(slow) else name for name in names]


@functools.cache
def untrained(name: str, as_loss: bool = False) -> aigciqa.Metric:
    """A metric with seeded random weights, built once."""
    torch.manual_seed(sum(name.encode()))
    return aigciqa.create_metric(name, weights=None, as_loss=as_loss)


def inputs(metric: aigciqa.Metric, batch: int = 2, height: int = 240, width: int = 260) -> tuple[torch.Tensor, ...]:
    """Images, and references of another size where the metric takes them."""
    images = draw_tensor(batch, height, width)
    return (images, draw_tensor(batch, height + 30, width - 40, seed=50)) if metric.requires_reference else (images,)


def plain_features(metric: aigciqa.Metric, pixels: torch.Tensor) -> torch.Tensor:
    """Features (B, D) of preprocessed images, uint8 (B, 3, h, w), by the network as it is, not rearranged."""
    return metric.backbone.pool(metric.feature_maps(pixels))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of untrained checkpoints: a small one of each kind."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for name in ("nr-resnet18", "fr-resnet18"):
        untrained(name).save_pretrained(folder / name)
    return {name: str(folder / name) for name in ("nr-resnet18", "fr-resnet18")}


@pytest.fixture
def write_images(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes images below a folder of `tmp_path`; returns their paths, sorted."""

    def write(folder: str, *names: str, size: tuple[int, int] = (70, 80)) -> list[str]:
        for name in names:
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(*size, seed=sum(name.encode()))).save(path)
        return sorted(str(tmp_path / folder / name) for name in names)

    return write


def run_command(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """`aigciqa score` as a process of its own."""
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    return subprocess.CompletedProcess(done.args, done.returncode, os.fsdecode(done.stdout), os.fsdecode(done.stderr))


def call_command(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """`aigciqa score` within this process: as `run_command`, without the seconds that loading torch takes."""
    with pytest.MonkeyPatch.context() as patch:
        if cwd is not None:
            patch.chdir(cwd)
        done = CliRunner().invoke(main, ["score", *arguments], input=stdin, prog_name="aigciqa")
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def own_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered metric with a dimension of its own, for one test."""
    monkeypatch.setattr(registry, "_METRICS", dict(registry.METRICS))
    monkeypatch.setattr(registry, "METRICS", registry._METRICS)
    ranges = {"aesthetics": (1, 10), "quality": (0, 5)}
    registry.register_metric(
        dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-mine", score_ranges=ranges)
    )
