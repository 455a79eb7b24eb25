"""The mean score as a torchmetrics metric: batches, processes, details, errors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchmetrics import MetricCollection

from aigciqa.integrations.torchmetrics import MeanScore
from tests.conftest import draw, draw_tensor, inputs, untrained


def test_the_mean_of_batches_is_the_mean_of_all() -> None:
    scores = untrained("nr-resnet18")(draw_tensor(5, 80, 90))
    mean = MeanScore(untrained("nr-resnet18"))
    assert mean.higher_is_better
    for batch in draw_tensor(5, 80, 90).split(2):
        mean.update(batch)
    assert mean.compute().item() == pytest.approx(scores.mean().item(), abs=1e-5)
    mean.reset()
    mean.update([draw(80, 90)])
    assert mean.compute().item() == pytest.approx(scores[0].item(), abs=1e-3)


def test_details_are_means_and_deviations_of_every_dimension_and_the_count() -> None:
    metric = untrained("fr-resnet18")
    images, prompts = inputs(metric, batch=4)
    table = metric.predict(images, prompts)
    mean = MeanScore(metric, details=True)
    mean.update(images[:3], prompts[:3])
    mean.update(images[3:], prompts[3:])
    found = mean.compute()
    assert list(found) == [*table, *(f"{dimension}_std" for dimension in table), "count"]
    assert found["count"] == 4
    for dimension, scores in table.items():
        assert found[dimension].item() == pytest.approx(scores.mean().item(), abs=1e-5)
        assert found[f"{dimension}_std"].item() == pytest.approx(scores.std().item(), rel=1e-3)


def test_a_name_will_do_and_forward_gives_the_score_of_the_batch() -> None:
    mean = MeanScore("nr-lite")
    first, second = draw_tensor(1, 100, 100), draw_tensor(1, 100, 100, seed=9)
    assert mean(first).item() == pytest.approx(mean.metric(first).item(), abs=1e-5)
    assert mean(second).item() == pytest.approx(mean.metric(second).item(), abs=1e-5)
    both = (mean.metric(first) + mean.metric(second)) / 2
    assert mean.compute().item() == pytest.approx(both.item(), abs=1e-5)


def test_it_goes_into_a_collection_and_its_state_never_grows() -> None:
    collection = MetricCollection({"quality": MeanScore(untrained("nr-resnet18"))})
    for seed in range(3):
        collection.update(draw_tensor(2, 70, 70, seed=seed))
        assert collection["quality"].moments.shape == (3, 4)
    assert set(collection.compute()) == {"quality"}


def test_a_small_deviation_far_from_zero_is_not_lost() -> None:
    mean = MeanScore(untrained("nr-resnet18"), details=True)
    scores = 10_000 + torch.randn(400, generator=torch.Generator().manual_seed(0)).double() / 8
    for batch in scores.float().split(8):
        values = batch.expand(4, -1)
        mean.metric = _Fixed(values)
        mean.update(None)
    found = mean.compute()
    assert found["quality_std"].item() == pytest.approx(scores.std().item(), rel=0.01)


class _Fixed(torch.nn.Module):
    """Stands in for a metric whose scores are known."""

    dimensions = untrained("nr-resnet18").dimensions

    def __init__(self, values: torch.Tensor) -> None:
        super().__init__()
        self.values = values

    def predict(self, images: object, reference: object) -> dict[str, torch.Tensor]:
        return dict(zip(self.dimensions, self.values, strict=True))


def test_nothing_scored_has_no_mean() -> None:
    mean = MeanScore(untrained("nr-resnet18"), details=True)
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        found = mean.compute()
    assert found["count"] == 0
    assert found["quality"].isnan()
    assert found["quality_std"].isnan()


def test_a_loss_keeps_no_graph() -> None:
    mean = MeanScore(untrained("nr-resnet18", as_loss=True))
    mean.update(draw_tensor(1, 70, 70).requires_grad_())
    assert not mean.compute().requires_grad


@pytest.mark.slow
def test_two_processes_agree_on_the_mean_of_both(checkpoints: dict[str, str], tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "store"), checkpoints["nr-resnet18"]],
            cwd=Path(__file__).parent.parent,
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = [worker.communicate(timeout=120)[0].split() for worker in workers]
    scores = untrained("nr-resnet18")(draw_tensor(5, 80, 90))
    for quality, deviation, count in printed:
        assert float(quality) == pytest.approx(scores.mean().item(), abs=1e-5)
        assert float(deviation) == pytest.approx(scores.std().item(), rel=1e-3)
        assert count == "5"


#: Scores three images in one process and two in the other, and prints what both make of it.
WORKER = """
import sys
import torch
from torch import distributed
import aigciqa
from aigciqa.integrations.torchmetrics import MeanScore
from tests.conftest import draw_tensor

rank, store, weights = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mean = MeanScore(aigciqa.create_metric("nr-resnet18", weights=weights), details=True)
images = draw_tensor(5, 80, 90)
mean.update(images[:3] if rank == 0 else images[3:])
found = mean.compute()
print(found["quality"].item(), found["quality_std"].item(), found["count"].item())
distributed.destroy_process_group()
"""
