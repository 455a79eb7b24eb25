"""What loading a cached checkpoint costs.

    python benchmarks/load_checkpoint.py [METRIC ...]

Time is compared with building the module and reading the file, memory with the file's size. For each metric an
untrained checkpoint is put into the cache of a temporary folder as a pinned commit. Times are medians of interleaved
cases in one process; memory is a process's peak above what it had after its imports.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import safetensors.torch
from interleaved import Case, medians

import aigciqa
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import WEIGHTS_FILE
from aigciqa.metric import Metric

DEFAULTS = ("nr-resnet18", "fr-resnet50", "nr-vgg16")
COMMIT = hashlib.sha1(b"a commit").hexdigest()
REPO = "org/name"


def main() -> None:
    """Print a table: metric, megabytes, seconds of both, their ratio, peak memory over the file's size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", nargs="*", default=DEFAULTS, metavar="METRIC")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(peak(options.metrics[0], options.peak))
        return
    print(f"{'metric':16}{'MB':>7}{'cached s':>10}{'plain s':>9}{'ratio':>7}{'memory':>8}")
    for name in options.metrics:
        with tempfile.TemporaryDirectory() as cache:
            weights = fill_cache(name, Path(cache)) / WEIGHTS_FILE
            cases: dict[str, Case] = {
                "cached": partial(aigciqa.create_metric, name, weights=f"{REPO}@{COMMIT}", cache_dir=cache),
                "plain": partial(build_and_read, name, weights),
            }
            cached, plain = medians(cases, options.repeats).values()
            size = weights.stat().st_size
            command = [sys.executable, __file__, name, "--peak", cache]
            grown = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            print(f"{name:16}{size / 1e6:7.1f}{cached:10.3f}{plain:9.3f}{cached / plain:7.2f}{grown / size:8.2f}")


def fill_cache(name: str, cache: Path) -> Path:
    """Put an untrained checkpoint where huggingface_hub keeps a commit; returns its folder."""
    folder = cache / f"models--{REPO.replace('/', '--')}" / "snapshots" / COMMIT
    aigciqa.create_metric(name, weights=None).save_pretrained(folder)
    return folder


def build_and_read(name: str, weights: Path) -> object:
    """What can't be left out: a module with its weights, and the file's tensors."""
    return Metric(MetricConfig.from_spec(aigciqa.metric_info(name))), safetensors.torch.load_file(weights)


def peak(name: str, cache: str) -> int:
    """Bytes by which loading raises the peak memory of a process that has imported what it needs (Linux)."""
    for module in ("huggingface_hub.file_download", "torchvision.models", "pretrainedmodels.models.inceptionv4"):
        importlib.import_module(module)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = status("VmRSS")
    metric = aigciqa.create_metric(name, weights=f"{REPO}@{COMMIT}", cache_dir=cache)
    grown = status("VmHWM") - before
    del metric
    return grown


def status(key: str) -> int:
    """A figure of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
