"""Scripts of `benchmarks/` that have to run where no test does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Each in one or more rows of the GPU's table.
CHECKS = [
    "nr-lite native", "resized tensors", "coarse maps", "dense maps", "gradients", "memory that runs out", "nvJPEG",
    "copies from pinned memory", "a stream of the caller's", "two threads", "aigciqa train nr-resnet18",
    "torch.compile", "four targets", "JPEG files", "batches of 8, loop",
]  # fmt: skip
GPU_ALONE = ["memory that runs out", "nvJPEG"]


@pytest.mark.slow
def test_what_checks_a_gpu_runs_on_a_cpu() -> None:
    call = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--tiny"]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    lines = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert done.returncode == 0, done.stdout + done.stderr
    assert lines.pop(0) == ["check", "wanted", "found", "ok"]
    rows = {check: found for check, _, found, *_ in lines}
    missing = [name for name in [*CHECKS, "nr-resnet18", "nr-lite", "fr-lite"] if not any(name in row for row in rows)]
    assert missing == []
    assert [check for check, found in rows.items() if "left out" in found] == GPU_ALONE
