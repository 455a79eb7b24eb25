"""What a caller has set for torch does not reach a metric: scores are the same to the bit."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import aigciqa
from aigciqa import backbones, create, registry
from aigciqa.backbones import Backbone, register_backbone
from aigciqa.databases import Sample
from aigciqa.evaluation import evaluate, predict
from aigciqa.integrations.ray import score_dataset
from aigciqa.integrations.torchmetrics import MeanScore
from aigciqa.registry import register_metric
from tests.conftest import Watch, draw, draw_tensor, untrained


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "autocast-float16": lambda: torch.autocast("cpu", dtype=torch.float16),
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "meta": lambda: default_device("meta"),
    "with-meta": lambda: torch.device("meta"),
    "deterministic": deterministic,
}
METRICS = [("nr-lite", None), ("fr-lite", None), ("nr-resnet18", None), ("fr-resnet18", "bfloat16")]


class Small(Backbone):
    """Everything that scoring rearranges, on few pixels."""

    feature_dim = 8

    def __init__(self, name: str) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 8, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(8), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        return self.relu(self.norm(self.conv(maps)) + maps) / 2


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for seed in range(2):
        Image.fromarray(draw(240, 230 + seed, seed)).save(folder / f"{seed}.png")
    return sorted(map(str, folder.iterdir()))


def created(name: str, dtype: str | None, checkpoints: dict[str, str], **options: Any) -> aigciqa.Metric:
    return aigciqa.create_metric(name, weights=checkpoints.get(name, "default"), dtype=dtype, **options)


def everything(metric: aigciqa.Metric, paths: list[str]) -> list[Tensor]:
    """What all the ways to score say of two images."""
    references = [paths[0]] if metric.requires_reference else []
    columns = [paths[::-1]] if references else []
    tensors = torch.stack([torch.from_numpy(draw(240, 250, seed)) for seed in range(2)]).permute(0, 3, 1, 2)
    said = [metric(paths, *columns), *metric.predict(paths, *columns).values(), metric.encode(paths)]
    said.append(metric(tensors, *[tensors.flip(0) for _ in references]))
    said.append(metric.quality_map(paths[1], *references))
    if references:
        said.append(metric(paths, reference_features=metric.encode(references)))
    for workers in (0, 2):
        options: dict[str, Any] = {"references": paths[0]} if references else {}
        for record in aigciqa.score_files(paths, metric=metric, workers=workers, maps="coarse", **options):
            assert record.error is None
            said.append(torch.tensor([*record.scores.values()], dtype=torch.float64, device="cpu"))
            said.append(torch.from_numpy(record.quality_map))
    mean = MeanScore(metric)
    mean.update(paths, *columns)
    mean.update(paths[:1], *[column[:1] for column in columns])
    said.append(mean.compute())  # type: ignore[arg-type]
    return said


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Folders of checkpoints on a small backbone: name -> folder."""
    folder = tmp_path_factory.mktemp("small")
    register_backbone("small", Small)
    for name in ("nr-small", "fr-small"):
        like = aigciqa.metric_info(name.replace("small", "resnet18"))
        register_metric(dataclasses.replace(like, name=name, backbone="small"))
        aigciqa.create_metric(name, weights=None).save_pretrained(folder / name)
    yield {name: str(folder / name) for name in ("nr-small", "fr-small")}
    del backbones._REGISTERED["small"], registry._METRICS["nr-small"], registry._METRICS["fr-small"]


def check(create: Callable[[], aigciqa.Metric], surroundings: Sequence[str], paths: list[str]) -> None:
    """Compare what a metric says, made before or within some surroundings, with what it says without them."""
    before = create()
    expected = everything(before, paths)
    with ExitStack() as stack:
        for each in surroundings:
            stack.enter_context(SURROUNDINGS[each]())
        found = everything(create(), paths)
        assert torch.equal(before(paths, *[paths[::-1]] * before.requires_reference), expected[0])
    assert len(found) == len(expected)
    for one, right in zip(found, expected, strict=True):
        assert one.dtype == right.dtype
        assert torch.equal(one, right)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize(("name", "dtype"), [("nr-small", None), ("fr-small", "bfloat16")])
def test_scores_are_the_same(
    name: str, dtype: str | None, surroundings: str, small: dict[str, str], paths: list[str]
) -> None:
    check(lambda: created(name, dtype, small), [surroundings], paths)


@pytest.mark.parametrize(("name", "dtype"), METRICS)
def test_scores_are_the_same_with_everything_around(
    name: str, dtype: str | None, checkpoints: dict[str, str], paths: list[str]
) -> None:
    check(lambda: created(name, dtype, checkpoints), ["autocast", "inference_mode", "float64", "meta"], paths)


@pytest.mark.parametrize("surroundings", SURROUNDINGS)
@pytest.mark.parametrize("name", ["nr-lite", "nr-small"])
def test_random_weights_are_the_same(name: str, surroundings: str, small: dict[str, str]) -> None:
    torch.manual_seed(0)
    expected = aigciqa.create_metric(name, weights=None).state_dict()
    with SURROUNDINGS[surroundings]():
        torch.manual_seed(0)
        found = aigciqa.create_metric(name, weights=None).state_dict()
    assert all(torch.equal(found[key], value) and found[key].dtype == value.dtype for key, value in expected.items())


def test_the_caller_s_settings_stay(paths: list[str]) -> None:
    with default_dtype(torch.float64), torch.device("meta"), torch.autocast("cpu", dtype=torch.bfloat16):
        list(aigciqa.score_files(paths, metric="nr-lite"))
        aigciqa.create_metric("nr-lite")(paths)
        assert torch.zeros(1).dtype == torch.float64
        assert torch.zeros(1).device.type == "meta"
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(("name", "dtype"), METRICS)
def test_gradients_are_the_same_within_autocast(name: str, dtype: str | None, checkpoints: dict[str, str]) -> None:
    metric = created(name, dtype, checkpoints, as_loss=True)

    def gradient(surroundings: AbstractContextManager[Any]) -> Tensor:
        images = draw_tensor(1, 240, 240).requires_grad_()
        with surroundings:  # torch wants the call alone in it, not the way back
            loss = metric(images, *[draw_tensor(1, 240, 240, seed=9)] * metric.requires_reference)
        loss.backward()
        assert images.grad is not None
        return images.grad

    expected = gradient(contextlib.nullcontext())
    found = gradient(torch.autocast("cpu", dtype=torch.bfloat16))
    assert torch.equal(found, expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize(("name", "dtype"), METRICS)
def test_what_comes_out_of_inference_mode_goes_into_a_loss(
    name: str, dtype: str | None, checkpoints: dict[str, str]
) -> None:
    with torch.inference_mode():
        metric = created(name, dtype, checkpoints, as_loss=True)
        reference = draw_tensor(1, 240, 240, seed=9)
        features = metric.encode(reference)
    images = draw_tensor(1, 240, 240).requires_grad_()
    if metric.requires_reference:
        (metric(images, reference) + metric(images, reference_features=features)).backward()
    else:
        metric(images).backward()
    assert images.grad is not None
    assert images.grad.abs().max() > 0


@pytest.mark.parametrize("without", [torch.no_grad, torch.inference_mode])
def test_a_loss_without_gradients_is_a_number(without: Callable[[], AbstractContextManager[Any]]) -> None:
    metric = untrained("nr-lite", as_loss=True)
    images = draw_tensor(1, 240, 240).requires_grad_()
    expected = metric(images)
    with without():
        found = metric(images)
    assert torch.equal(found, expected)
    assert not found.requires_grad


def test_weights_changed_within_autocast_count() -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None, dtype="bfloat16", as_loss=True)
    metric.requires_grad_(True)  # autocast keeps what it casts of such weights
    image = draw_tensor(1, 240, 240)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric(image)
        with torch.no_grad():
            metric.backbone.conv1.weight.mul_(-1)  # type: ignore[operator, union-attr]
        found = metric(image)
    assert torch.equal(found, metric(image))


@pytest.mark.parametrize("option", [{"dtype": "bfloat16"}, {"dtype": "float32"}, {"device": "cpu"}])
@pytest.mark.parametrize("others", [[], ["fr-lite"]])
def test_options_that_a_metric_would_ignore_are_refused(
    option: dict[str, str], others: list[str], paths: list[str]
) -> None:
    metric = untrained("nr-resnet18")
    sample = Sample(paths[0], None, None, None, "", {"quality": 1.0}, "")
    for score in (
        lambda: aigciqa.score_files(paths, metric=[*others, metric], **option),  # type: ignore[arg-type]
        lambda: predict({"a": metric, **dict.fromkeys(others, "fr-lite")}, [sample], **option),  # type: ignore[arg-type]
        lambda: evaluate([*others, metric], [sample], **option),  # type: ignore[arg-type]
    ):
        name, value = next(iter(option.items()))
        with pytest.raises(ValueError, match=f"{name}='{value}': .* nr-resnet18 is a Metric already"):
            score()


@pytest.mark.parametrize("option", [{"dtype": "bfloat16"}, {"weights": "native"}, {"weights": None}])
def test_options_that_a_metric_would_ignore_are_refused_on_ray(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="nr-lite is a Metric already; give its name, or leave that out"):
        score_dataset(None, aigciqa.create_metric("nr-lite"), **option)  # type: ignore[arg-type]


def test_options_go_to_metrics_given_by_name(paths: list[str], watch: Watch) -> None:
    made = watch(create, "create_metric")
    list(aigciqa.score_files(paths, metric="nr-lite", dtype="bfloat16", device="cpu"))
    list(aigciqa.score_files(paths, metric="nr-lite"))
    assert [call.kwargs for call in made] == [{"device": "cpu", "dtype": "bfloat16"}, {}]
