"""Metrics in forked processes, where torch's threads are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from aigciqa.backbones.scene_statistics import BLOCK, STATISTICS, block_statistics
from tests.conftest import draw_tensor

CODE = """
import multiprocessing, sys
import torch
import aigciqa

path, head = sys.argv[1:]
context = multiprocessing.get_context("fork")

def scores(metric):
    files = [list(aigciqa.score_files([path] * 2, metric=metric, workers=workers)) for workers in (0, 2)]
    return [float(metric(path)), *(record.scores[metric.dimension] for records in files for record in records)]

def in_child(function, *arguments):
    ours, theirs = context.Pipe()
    child = context.Process(target=lambda: theirs.send(function(*arguments)))
    child.start()
    found = ours.recv() if ours.poll(60) else "hangs"
    child.kill()
    return found

def made(name):
    return aigciqa.create_metric(name, weights=head if name == "nr-resnet18" else "default")

for name in ("nr-lite", "nr-resnet18"):
    metric = made(name)
    unused = in_child(scores, metric)
    expected = scores(metric)
    torch.rand(1 << 22).sum()  # by all of torch's threads
    for found in (unused, in_child(scores, metric), in_child(lambda: scores(made(name)))):
        assert found != "hangs", name
        assert all(abs(one - right) < 1e-5 for one, right in zip(found, expected, strict=True)), (found, expected)
    assert torch.get_num_threads() == 2
print("done")
"""


if hasattr(os, "fork"):

    @pytest.mark.slow
    def test_a_metric_scores_in_a_forked_process(
        write_images: Callable[..., list[str]], checkpoints: dict[str, str]
    ) -> None:
        path = write_images("images", "a.png", size=(300, 300))[0]
        done = subprocess.run(
            [sys.executable, "-c", CODE, path, checkpoints["nr-resnet18"]],
            env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.stdout == "done\n", done.stderr


def test_lite_knows_how_many_statistics_there_are() -> None:
    assert block_statistics(draw_tensor(1, BLOCK, BLOCK)).shape == (1, STATISTICS)
