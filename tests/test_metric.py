"""`Metric`: every metric of the table, then what all of them do."""

from __future__ import annotations

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import aigciqa
from aigciqa.backbones import Backbone
from aigciqa.registry import METRICS, SCORE_RANGES
from tests.conftest import draw, draw_tensor, inputs, untrained, with_slow_ones

EVERY_METRIC = pytest.mark.parametrize("name", with_slow_ones(METRICS))
FULL_REFERENCE = pytest.mark.parametrize("name", with_slow_ones(aigciqa.list_metrics("fr-*")))
PAPER = pytest.mark.parametrize("name", with_slow_ones(name for name in METRICS if "lite" not in name))


def scaled(metric: aigciqa.Metric, scores: torch.Tensor) -> float:
    """The tolerance of scores that must be equal: 1e-5, relative to their size."""
    return 1e-5 * max(1.0, scores.abs().max().item())


@functools.cache
def expected(name: str) -> torch.Tensor:
    """Scores of `inputs`, computed once."""
    metric = untrained(name)
    return metric(*inputs(metric))


@EVERY_METRIC
def test_scores_of_a_batch_are_those_of_its_images(name: str) -> None:
    metric = untrained(name)
    batch = inputs(metric, batch=3)
    scores = metric(*batch)
    assert scores.shape == (3,)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert not scores.requires_grad
    singles = torch.cat([metric(*(part[index] for part in batch)) for index in range(3)])
    assert (scores - singles).abs().max() <= scaled(metric, scores)
    assert scores.std() > 0


@EVERY_METRIC
def test_predict_gives_every_dimension_and_the_main_one_is_what_calling_gives(name: str) -> None:
    metric = untrained(name)
    table = metric.predict(*inputs(metric))
    assert tuple(table) == metric.dimensions == METRICS[name].dimensions
    assert torch.equal(table[metric.dimension], expected(name))


@EVERY_METRIC
def test_features_encoded_once_give_the_same_scores(name: str) -> None:
    metric = untrained(name)
    batch = inputs(metric)
    features = metric.encode(batch[-1])
    assert features.shape == (2, metric.feature_dim)
    if metric.requires_reference:
        scores = metric(batch[0], reference_features=features)
        torch.testing.assert_close(scores, expected(name))
        one_for_all = metric(batch[0], reference_features=features[:1])
        torch.testing.assert_close(one_for_all[:1], scores[:1])
        torch.testing.assert_close(one_for_all[1:], metric(batch[0][1:], batch[1][:1]))


@EVERY_METRIC
def test_the_quality_map_averages_to_the_score(name: str) -> None:
    metric = untrained(name)
    batch = inputs(metric)
    maps = metric.quality_map(*batch)
    assert maps.dim() == 3
    assert maps.shape[0] == 2
    assert min(maps.shape[1:]) >= 7
    assert maps.std() > 0
    assert (maps.mean((1, 2)) - expected(name)).abs().max() < 1e-4


@EVERY_METRIC
def test_as_loss_gives_gradients_that_lead_to_better_scores(name: str) -> None:
    metric = untrained(name, as_loss=True)
    images, *reference = inputs(metric)
    images.requires_grad_()
    loss = metric(images, *reference)
    assert loss.shape == ()
    torch.testing.assert_close(-loss.detach(), expected(name).mean())
    loss.backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
    assert all(gradient.abs().sum() > 0 for gradient in images.grad)
    assert all(parameter.grad is None for parameter in metric.parameters())


def test_a_loss_has_tangents_that_fit_its_gradients() -> None:
    loss = aigciqa.create_metric("nr-lite", as_loss=True)
    images, direction = draw_tensor(1, 100, 120).requires_grad_(), draw_tensor(1, 100, 120, seed=1)
    (gradient,) = torch.autograd.grad(loss(images), images)
    _, slope = torch.func.jvp(loss, (images.detach(),), (direction,))
    assert slope != 0
    torch.testing.assert_close(slope, (gradient * direction).sum(), rtol=1e-3, atol=1e-5)


@EVERY_METRIC
def test_the_file_and_the_tensor_of_an_image_score_alike(name: str, tmp_path: Path) -> None:
    metric = untrained(name)
    for size in ((300, 340), (180, 201)):
        image = draw(*size, seed=size[0])
        path = tmp_path / "image.png"
        Image.fromarray(image).save(path)
        tensor = torch.from_numpy(image).permute(2, 0, 1)
        files = (path,) * len(inputs(metric))
        tensors = (tensor,) * len(files)
        score = metric(*files).item()
        assert abs(score - metric(*tensors).item()) < 0.02 * max(1.0, abs(score))


@FULL_REFERENCE
def test_full_reference_reads_generated_then_reference_through_one_backbone(name: str) -> None:
    metric = untrained(name)
    images, references = inputs(metric)
    features = torch.cat([metric.encode(images), metric.encode(references)], dim=1)
    scores = expected(name)
    torch.testing.assert_close(scores, metric.head(features)[:, 0])
    assert not torch.allclose(scores, metric(references, images), rtol=1e-7, atol=1e-7)
    backbones = [module for module in metric.modules() if isinstance(module, Backbone)]
    assert len(backbones) == 1


@PAPER
def test_the_head_is_the_papers(name: str) -> None:
    metric = untrained(name)
    width = metric.feature_dim * (2 if metric.kind == "fr" else 1)
    assert metric.head.fc1.weight.shape == (width // 2, width)
    assert metric.head.fc2.weight.shape == (4, width // 2)
    features = torch.randn(2, width)
    hidden = torch.clamp(features @ metric.head.fc1.weight.T + metric.head.fc1.bias, min=0)
    expected = hidden @ metric.head.fc2.weight.T + metric.head.fc2.bias
    torch.testing.assert_close(metric.head(features), expected)


@EVERY_METRIC
def test_a_saved_metric_is_read_back_to_the_bit(name: str, tmp_path: Path) -> None:
    metric = untrained(name)
    metric.save_pretrained(tmp_path)
    again = aigciqa.create_metric(name, weights=tmp_path)
    assert again.config == metric.config
    state = metric.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in again.state_dict().items())


def test_all_forms_of_an_image_score_alike(tmp_path: Path) -> None:
    metric = untrained("nr-resnet18")
    array = draw(90, 100)
    image = Image.fromarray(array)
    path = tmp_path / "a.png"
    image.save(path)
    scores = metric([str(path), path, image, array])
    assert (scores == scores[0]).all()
    torch.testing.assert_close(metric(array), scores[:1])
    torch.testing.assert_close(metric((path, image)), scores[:2])
    tensor = torch.from_numpy(array).permute(2, 0, 1)
    forms = [tensor, tensor[None], tensor / 255.0, (tensor / 255.0).double()]
    assert metric((tensor / 255.0).half()).item() == pytest.approx(metric(tensor).item(), abs=0.01)
    assert metric((tensor / 255.0).bfloat16()).item() == pytest.approx(metric(tensor).item(), abs=0.05)
    torch.testing.assert_close(torch.cat([metric(form) for form in forms]), metric(tensor).expand(4))
    torch.testing.assert_close(metric([path, tensor]), torch.cat([metric(path), metric(tensor)]))


def test_grey_images_are_repeated_to_three_channels() -> None:
    metric = untrained("nr-resnet18")
    grey = draw_tensor(1, 80, 80)[:, :1]
    assert torch.equal(metric(grey), metric(grey.repeat(1, 3, 1, 1)))
    array = draw(80, 80)[:, :, 0]
    assert torch.equal(metric(array), metric(np.stack([array] * 3, axis=2)))
    assert torch.equal(metric(array), metric(array[:, :, None]))


@pytest.mark.parametrize("name", ["nr-lite", "fr-lite", "nr-resnet18"])
def test_a_list_of_images_of_many_sizes_keeps_its_order(name: str) -> None:
    metric = untrained(name)
    arrays = [draw(*size, seed=index) for index, size in enumerate([(200, 90), (64, 64), (90, 200), (64, 64), (10, 7)])]
    references = ([draw(50, 60)] * 5,) if metric.requires_reference else ()
    together = metric(arrays, *references)
    alone = torch.cat([metric(array, *(part[0] for part in references)) for array in arrays])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_choosing_the_main_dimension(checkpoints: dict[str, str]) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=checkpoints["nr-resnet18"], dimension="overall")
    images = draw_tensor(2, 80, 80)
    assert metric.score_range == (0.0, 15.0) == SCORE_RANGES["overall"]
    assert torch.equal(metric(images), untrained("nr-resnet18").predict(images)["overall"])
    with pytest.raises(ValueError, match="dimension is one of quality; got 'overall'"):
        aigciqa.create_metric("nr-lite", dimension="overall")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
@pytest.mark.parametrize("name", ["nr-resnet18", "fr-lite"])
def test_lower_precision_stays_near(name: str, dtype: str | torch.dtype) -> None:
    torch.manual_seed(sum(name.encode()))
    low = aigciqa.create_metric(name, weights=None, dtype=dtype)
    full = untrained(name)
    batch = inputs(full)
    assert all(parameter.dtype == torch.float32 for parameter in low.parameters())
    assert low(*batch).dtype == torch.float32
    torch.testing.assert_close(low(*batch), full(*batch), rtol=0.03, atol=0.03)


@pytest.mark.parametrize("name", ["nr-lite", "nr-resnet18"])
def test_weights_cast_by_the_caller_work(name: str) -> None:
    metric = copy.deepcopy(untrained(name)).to(torch.bfloat16)
    images = draw_tensor(1, 100, 100)
    torch.testing.assert_close(metric(images), untrained(name)(images), rtol=0.1, atol=0.1)
    assert metric.double()(images).dtype == torch.float32


def test_weights_cast_by_the_caller_score_files_and_are_saved(tmp_path: Path) -> None:
    plain = untrained("fr-resnet18")
    metric = copy.deepcopy(plain).double()
    images = [draw(100, 100), draw(120, 90)]
    item = aigciqa.Item("a", reference="b", content=images[0], reference_content=images[1])
    _, record = aigciqa.score_files([item], metric=[plain, metric], maps="dense")
    scores = {name: score.item() for name, score in metric.predict(*images).items()}
    assert record.scores == pytest.approx(scores, abs=1e-3)
    assert record.quality_map is not None
    assert record.quality_map.mean() == pytest.approx(record.scores[metric.dimension], abs=1e-3)
    metric.save_pretrained(tmp_path)
    again = aigciqa.create_metric("fr-resnet18", weights=tmp_path)
    torch.testing.assert_close(again.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_an_unknown_dtype_is_refused() -> None:
    for dtype in ("float64", torch.float64, "half"):
        with pytest.raises(ValueError, match="dtype is one of float32, bfloat16, float16"):
            aigciqa.create_metric("nr-lite", dtype=dtype)


class _NoDoubles(TorchDispatchMode):
    """Refuses float64 on the meta device, as mps does."""

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        assert not (isinstance(made, torch.Tensor) and made.is_meta and made.dtype == torch.float64)
        return made


def test_inputs_move_to_where_the_metric_is() -> None:
    """The meta device stands in for an accelerator: whatever is not moved raises."""
    metric = copy.deepcopy(untrained("fr-resnet18")).to("meta")
    assert metric.device.type == "meta"
    pixels = metric.preprocessor.batches(draw_tensor(1, 80, 80).to(torch.uint8), metric.device)[0][1]
    assert pixels.device.type == "meta"
    assert metric.preprocessor.batches([draw(80, 80)], metric.device)[0][1].device.type == "meta"
    with _NoDoubles():
        pixels = metric.preprocessor.batches(draw_tensor(1, 80, 80).double(), metric.device)[0][1]
    assert pixels.device.type == "meta"
    features = torch.zeros(1, 512)
    assert metric._references(None, features, 1).device.type == "meta"
    assert aigciqa.create_metric("nr-lite", weights=None, device="meta").device.type == "meta"


def test_training_mode_does_not_reach_a_metric() -> None:
    metric = untrained("nr-resnet18")
    model = torch.nn.Sequential(metric)
    before = metric(draw_tensor(2, 80, 80))
    model.train()
    assert not metric.training
    assert not metric.backbone.training
    assert torch.equal(metric(draw_tensor(2, 80, 80)), before)


def test_copies_and_pickles_are_whole() -> None:
    metric = untrained("fr-resnet18")
    batch = inputs(metric)
    for again in (copy.deepcopy(metric), copy.copy(metric), pickle.loads(pickle.dumps(metric))):
        assert torch.equal(again(*batch), metric(*batch))
        assert repr(again) == repr(metric)
    assert "fr-resnet18" in repr(metric)


def test_state_dicts_load_into_another_metric() -> None:
    metric = untrained("nr-resnet18")
    torch.manual_seed(99)
    other = aigciqa.create_metric("nr-resnet18", weights=None)
    images = draw_tensor(1, 80, 80)
    assert not torch.equal(other(images), metric(images))
    other.load_state_dict(metric.state_dict())
    assert torch.equal(other(images), metric(images))


def test_seeds_decide_random_weights_and_loading_leaves_the_generator_alone() -> None:
    images = draw_tensor(1, 80, 80)
    scores = []
    for _ in range(2):
        torch.manual_seed(5)
        scores.append(aigciqa.create_metric("nr-resnet18", weights=None)(images))
    assert torch.equal(*scores)
    before = torch.get_rng_state()
    aigciqa.create_metric("nr-lite")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "name", ["nr-resnet18", "fr-resnet18", "nr-lite", pytest.param("fr-lite", marks=pytest.mark.slow)]
)
def test_torch_export_of_the_tensor_path(name: str) -> None:
    metric = untrained(name)
    batch = inputs(metric)
    program = torch.export.export(metric, batch)
    torch.testing.assert_close(program.module()(*batch), metric(*batch))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fr-resnet18", "nr-lite", "fr-lite"])
def test_torch_compile_of_the_tensor_path_in_one_graph(name: str) -> None:
    metric = untrained(name)
    batch = inputs(metric)
    compiled = torch.compile(metric, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch), metric(*batch), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_torch_compile_of_a_loss_in_one_graph() -> None:
    loss = aigciqa.create_metric("nr-lite", as_loss=True)
    images = draw_tensor(1, 100, 120).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    gradients = (torch.autograd.grad(each(images), images)[0] for each in (compiled, loss))
    torch.testing.assert_close(*gradients)


@pytest.mark.slow
def test_torch_compile_with_the_default_compiler() -> None:
    metric = untrained("nr-resnet18")
    batch = inputs(metric)
    torch.testing.assert_close(torch.compile(metric)(*batch), metric(*batch), rtol=1e-4, atol=1e-5)


class TestRefused:
    """Bad input: what came, what was expected, what to do."""

    BAD_TENSORS = (
        (torch.rand(1, 3, 8, 8) * 255, ValueError, r"in \[0, 1\]; got values.*divide by 255"),
        (torch.rand(1, 3, 8, 8) * 2 - 1, ValueError, r"looks like \[-1, 1\]"),
        (torch.rand(1, 3, 8, 8) * 2000 - 9, ValueError, r"clamp\(0, 1\)"),
        (torch.full((1, 3, 8, 8), float("nan")), ValueError, "NaN or infinity"),
        (torch.full((3, 8, 8), float("inf")), ValueError, "NaN or infinity"),
        (torch.full((3, 8, 8), -float("inf")), ValueError, "NaN or infinity"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), TypeError, "floating point.*or uint8.*int64"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.bool), TypeError, "bool"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.complex64), TypeError, "complex64"),
        (torch.rand(1, 2, 8, 8), ValueError, "3 channels.*got 2"),
        (torch.rand(1, 4, 8, 8), ValueError, "3 channels.*got 4"),
        (torch.rand(8, 8, 3), ValueError, r"got 8 in shape \(8, 8, 3\); move the channels first"),
        (torch.rand(0, 3, 8, 8), ValueError, "empty tensor"),
        (torch.rand(1, 3, 0, 8), ValueError, "empty tensor"),
        (torch.rand(8, 8), ValueError, r"expected a tensor \(B, 3, H, W\)"),
        (torch.rand(1, 1, 3, 8, 8), ValueError, r"expected a tensor \(B, 3, H, W\)"),
        ([], ValueError, "empty list"),
        ([torch.rand(2, 3, 8, 8)], ValueError, "item 0 is a batch of 2"),
        (np.zeros((8, 8, 3)), TypeError, "uint8.*float64"),
        (np.zeros((8, 8, 4), np.uint8), ValueError, r"expected an array \(H, W, 3\).*\(8, 8, 4\)"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"expected an array \(H, W, 3\)"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, r"expected an array \(H, W, 3\)"),
        (None, TypeError, "expected a path.*got NoneType"),
        (7, TypeError, "got int"),
        (b"a.png", TypeError, "got bytes"),
        ("no such file.png", aigciqa.ImageError, "no such file.png: No such file"),
        (torch.rand(3, 2, 4000), ValueError, "1000:1"),
    )

    @pytest.mark.parametrize(("images", "error", "text"), BAD_TENSORS)
    def test_images(self, images: object, error: type[Exception], text: str) -> None:
        with pytest.raises(error, match=text):
            untrained("nr-resnet18")(images)
        with pytest.raises(error, match=text):
            untrained("fr-resnet18")(torch.rand(1, 3, 8, 8), [images] if images is None else images)

    def test_what_can_not_be_preprocessed_is_named(self, tmp_path: Path) -> None:
        strip = Image.new("L", (4000, 2))
        strip.save(tmp_path / "strip.png")
        for image, name in ((tmp_path / "strip.png", "strip.png"), (strip, "PIL image"), (np.asarray(strip), "array")):
            with pytest.raises(aigciqa.ImageError, match=f"{name}: 4000 x 2 is a strip"):
                untrained("nr-resnet18")([draw(80, 80), image])

    def test_references(self) -> None:
        full, none = untrained("fr-resnet18"), untrained("nr-resnet18")
        images = draw_tensor(3, 20, 20)
        features = full.encode(images)
        with pytest.raises(ValueError, match=r"compares with a reference.*got neither"):
            full(images)
        with pytest.raises(ValueError, match="got both"):
            full(images, images, reference_features=features)
        with pytest.raises(ValueError, match="takes no reference; a metric that does: fr-resnet18"):
            none(images, images)
        with pytest.raises(ValueError, match="takes no reference"):
            none.quality_map(images, reference_features=features)
        with pytest.raises(ValueError, match="3 images but 2 references"):
            full(images, images[:2])
        with pytest.raises(ValueError, match="3 images but 1 reference:"):
            full(images, images[:1])
        with pytest.raises(ValueError, match="3 images but 2 references"):
            full(images, reference_features=features[:2])
        with pytest.raises(ValueError, match=r"\(B, 512\); got \(3, 100\)"):
            full(images, reference_features=features[:, :100])
        with pytest.raises(TypeError, match=r"a tensor \(B, 512\); got ndarray"):
            full(images, reference_features=features.numpy())

    def test_maps_of_unequal_sizes(self) -> None:
        with pytest.raises(ValueError, match="one at a time"):
            untrained("nr-lite").quality_map([draw(100, 200), draw(100, 100)])


@pytest.mark.parametrize("name", ["nr-lite", "fr-resnet18"])
def test_eight_threads_get_the_scores_of_one(name: str) -> None:
    metric = untrained(name)
    calls = [tuple(image[None] for image in pair) for pair in zip(*inputs(metric, batch=8), strict=True)]
    alone = [metric(*call).item() for call in calls]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda call: metric(*call).item(), calls * 2)) == alone * 2
