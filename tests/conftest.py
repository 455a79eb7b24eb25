"""What the tests share: images drawn in code, metrics built once, checkpoints, the command, calls that are watched."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
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
from aigciqa import backbones, heads, registry
from aigciqa.cli.main import main
from aigciqa.scoring import decoding
from tests.hub_server import Hub, serve

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
    """What a command sets for its process, and what a test registers, ends with the test."""
    with contextlib.ExitStack() as stack:
        for each in (os.environ, registry._METRICS, backbones._REGISTERED, heads._REGISTERED):
            stack.enter_context(mock.patch.dict(each))  # type: ignore[arg-type]
        yield


Watch = Callable[..., list[Any]]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """`watch(owner, name)` returns the calls of a function from then on, as `mock.call`.

    What comes third is raised by each call, if it is an error; else it is called with the same arguments before.
    """

    def start(owner: Any, name: str, first: Callable[..., object] | BaseException | None = None) -> list[Any]:
        calls, function = [], getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments: Any, **options: Any) -> Any:
            calls.append(mock.call(*arguments, **options))
            if isinstance(first, BaseException):
                raise first
            if first is not None:
                first(*arguments, **options)
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)
        return calls

    return start


@pytest.fixture
def decode_seconds(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets after how many seconds decoding an image times out."""

    def limit(seconds: float) -> None:
        for name, value in (("DECODE_SECONDS", seconds), ("TICK_SECONDS", 0.01), ("CLOSE_SECONDS", 0.3)):
            monkeypatch.setattr(decoding, name, value)

    return limit


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback."""
    with serve() as (endpoint, running):
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        yield running


def draw(height: int, width: int, seed: int = 0) -> np.ndarray:
    """An image (height, width, 3), uint8: smooth waves, edges and some noise, different for every seed."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40.0
    phase = rng.uniform(0, 6, (2, 3))
    waves = np.sin(x[..., None] * rng.uniform(0.5, 2, 3) + phase[0]) + np.cos(y[..., None] + phase[1])
    edges = 40.0 * ((x + y * rng.uniform(-1, 1)).astype(int) % 2)[..., None]
    noise = rng.normal(0, 8, (height, width, 3))
    return (90 + 35 * waves + edges + noise).clip(0, 255).astype(np.uint8)


def png(seed: int, height: int = 70, width: int = 80) -> bytes:
    """A drawn image as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(draw(height, width, seed)).save(buffer, "PNG")
    return buffer.getvalue()


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


class Tiny(backbones.Backbone):
    """Convolution and batch normalisation of images of 16 pixels."""

    feature_dim = 8

    def __init__(self, name: str) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 4), torch.nn.BatchNorm2d(8), torch.nn.ReLU())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps: torch.Tensor = self.layers(images)
        return maps


def register_tiny() -> None:
    """Register a metric of a few kilobytes, `nr-tiny`."""
    backbones.register_backbone("tiny", Tiny)
    spec = aigciqa.metric_info("nr-resnet18")
    small = dataclasses.replace(spec.preprocess, resize=16, crop=16)
    registry.register_metric(dataclasses.replace(spec, name="nr-tiny", backbone="tiny", preprocess=small))


@pytest.fixture
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Registers `nr-tiny` for one test; the folder of its untrained checkpoint."""
    register_tiny()
    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    untrained("nr-tiny").save_pretrained(folder)
    return folder


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing sleeps: neither huggingface_hub between its attempts, nor the Hub on loopback."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


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


def call_command(*arguments: str, cwd: Path | None = None, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """`aigciqa score` within this process."""
    with pytest.MonkeyPatch.context() as patch:
        if cwd is not None:
            patch.chdir(cwd)
        done = CliRunner().invoke(main, ["score", *arguments], input=stdin, prog_name="aigciqa")
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


@pytest.fixture
def own_metric() -> None:
    """A registered metric with a dimension of its own, for one test."""
    ranges = {"aesthetics": (1, 10), "quality": (0, 5)}
    registry.register_metric(
        dataclasses.replace(aigciqa.metric_info("nr-resnet18"), name="nr-mine", score_ranges=ranges)
    )
