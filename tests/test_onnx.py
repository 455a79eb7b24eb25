"""Metrics as ONNX files: the same scores in onnxruntime, names, metadata, errors."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor

import aigciqa
from aigciqa.errors import InputError
from aigciqa.integrations import onnx
from aigciqa.integrations.onnx import export_onnx
from aigciqa.registry import Kind, register_metric
from tests.conftest import inputs, untrained


def run(path: Path, **feed: Tensor) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {name: each.numpy() for name, each in feed.items()}), strict=True))


def preprocessed(metric: aigciqa.Metric, images: Tensor) -> Tensor:
    """Images as users of the file present them: resized, cropped, in [0, 1]."""
    return metric.preprocessor.tensor(images)


def check(metric: aigciqa.Metric, path: Path, **size: Any) -> None:
    """Export, and compare the scores of three images with the metric's own."""
    export_onnx(metric, path, **size)
    compare(metric, path)


def compare(metric: aigciqa.Metric, path: Path) -> None:
    batch = inputs(metric, batch=3)
    given = (preprocessed(metric, each) for each in batch)
    found = run(path, **dict(zip(("images", "references"), given, strict=False)))
    expected = metric.predict(*batch)
    assert list(found) == list(metric.dimensions)
    for dimension, scores in expected.items():
        np.testing.assert_allclose(found[dimension], scores.numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["nr-resnet18", "fr-resnet18"])
def test_the_file_gives_the_metrics_scores(name: str, tmp_path: Path) -> None:
    check(untrained(name), tmp_path / "metric.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["metric.onnx"]
    meta = onnxruntime.InferenceSession(tmp_path / "metric.onnx").get_modelmeta().custom_metadata_map
    assert (meta["metric"], meta["kind"], meta["aigciqa"]) == (name, name[:2], aigciqa.__version__)
    assert json.loads(meta["dimensions"]) == list(untrained(name).dimensions)
    assert json.loads(meta["score_range"])["overall"] == [0, 15]
    assert (json.loads(meta["preprocess"])["resize"], json.loads(meta["preprocess"])["crop"]) == (256, 224)


def test_what_surrounds_an_export_is_not_in_the_file(tiny: Path, tmp_path: Path) -> None:
    metric = untrained("nr-tiny")
    file = tmp_path / "metric.onnx"
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"), torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
            export_onnx(metric, file)
        assert torch.get_default_dtype() is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    compare(metric, file)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nr", "fr"])
@pytest.mark.parametrize("backbone", ["resnet50", "vgg16", "vgg19", "inceptionv4"])
def test_the_file_of_every_backbone_gives_the_metrics_scores(kind: str, backbone: str, tmp_path: Path) -> None:
    check(untrained(f"{kind}-{backbone}"), tmp_path / "metric.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nr-lite", "fr-lite"])
def test_the_file_of_an_embedded_metric_gives_its_scores_at_its_size(name: str, tmp_path: Path) -> None:
    metric = aigciqa.create_metric(name)
    path = tmp_path / "metric.onnx"
    export_onnx(name, path, size=(512, 554))
    images, *prompts = inputs(metric, batch=3)
    shown = [preprocessed(metric, images)] + [preprocessed(metric, images.flip(0)) for _ in prompts]
    assert shown[0].shape == (3, 3, 512, 554)
    found = run(path, **dict(zip(("images", "references"), shown, strict=False)))
    expected = metric(images, *(images.flip(0) for _ in prompts))
    np.testing.assert_allclose(found["quality"], expected.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_prompt_is_encoded_once_by_the_file_itself(tmp_path: Path) -> None:
    metric = untrained("fr-resnet18")
    export_onnx(metric, tmp_path / "metric.onnx", reference_features=True)
    images, prompts = inputs(metric)
    none = torch.zeros(2, metric.feature_dim)
    features = run(tmp_path / "metric.onnx", images=preprocessed(metric, prompts), reference_features=none)["features"]
    np.testing.assert_allclose(features, metric.encode(prompts).numpy(), atol=1e-4)
    found = run(
        tmp_path / "metric.onnx", images=preprocessed(metric, images), reference_features=torch.from_numpy(features)
    )
    for dimension, scores in metric.predict(images, prompts).items():
        np.testing.assert_allclose(found[dimension], scores.numpy(), atol=1e-4)


@pytest.mark.slow
def test_a_loss_of_half_precision_is_exported_as_the_metric_it_is(tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None, as_loss=True, dtype="bfloat16").to(torch.float16)
    export_onnx(metric, tmp_path / "metric.onnx")
    images = preprocessed(metric, inputs(metric)[0])
    plain = aigciqa.create_metric("nr-resnet18", weights=None)
    plain.load_state_dict(metric.state_dict())
    np.testing.assert_allclose(
        run(tmp_path / "metric.onnx", images=images)["quality"], plain(images).numpy(), atol=0.05
    )


class _Undecided(torch.nn.Module):
    """A backbone whose way depends on the values it sees."""

    feature_dim = 512

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=1, keepdim=True) if images.sum() > 0 else images

    def pool(self, maps: Tensor) -> Tensor:
        return maps.flatten(1)[:, :512]


def test_what_the_exporter_can_not_express_is_said_and_leaves_no_file(tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None)
    metric.backbone = _Undecided()  # type: ignore[assignment]
    with pytest.raises(
        RuntimeError, match=r"nr-resnet18 can't be written as ONNX: torch's exporter says: Could not guard"
    ):
        export_onnx(metric, tmp_path / "metric.onnx")
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_kept(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metric.onnx").write_bytes(b"earlier")
    monkeypatch.setattr(onnx, "TOLERANCE", -1)
    with pytest.raises(RuntimeError, match=r"the ONNX file of nr-tiny is off by .* it was not kept"):
        export_onnx(untrained("nr-tiny"), tmp_path / "metric.onnx")
    assert (tmp_path / "metric.onnx").read_bytes() == b"earlier"
    assert len(list(tmp_path.iterdir())) == 1


def tiny_metric(kind: Kind, *dimensions: str) -> aigciqa.Metric:
    spec = dataclasses.replace(aigciqa.metric_info("nr-tiny"), name=f"{kind}-named", kind=kind)
    register_metric(dataclasses.replace(spec, score_ranges=dict.fromkeys(dimensions, (0.0, 5.0))))
    return aigciqa.create_metric(f"{kind}-named", weights=None)


def test_dimensions_may_have_the_names_of_the_graphs_own_values(tiny: Path, tmp_path: Path) -> None:
    """The exporter calls what a linear layer gives `linear`, and so on."""
    check(tiny_metric("nr", "linear", "mean", "relu", "getitem", "conv2d"), tmp_path / "metric.onnx")


@pytest.mark.parametrize(("kind", "name"), [("nr", "images"), ("fr", "features"), ("fr", "reference_features")])
def test_dimensions_can_not_be_called_as_an_input_or_the_features(
    kind: Kind, name: str, tiny: Path, tmp_path: Path
) -> None:
    metric = tiny_metric(kind, "quality", name)
    with pytest.raises(InputError, match=f"{kind}-named has a dimension '{name}', which the file has another use for"):
        export_onnx(metric, tmp_path / "metric.onnx", reference_features=kind == "fr")


@pytest.mark.parametrize("size", [(0, 64), (64,), 64, (64.0, 64), (64, -1), "ab"])
def test_a_size_that_is_none(size: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"`size` is \(height, width\), whole numbers above 0; got "):
        export_onnx("nr-lite", tmp_path / "metric.onnx", size=size)


def test_arguments_that_do_not_fit_the_metric(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nr-resnet18 sees 224 x 224 pixels; got size \(512, 512\)"):
        export_onnx(untrained("nr-resnet18"), tmp_path / "metric.onnx", size=(512, 512))
    with pytest.raises(ValueError, match="nr-resnet18 takes no reference; a metric that does: fr-resnet18"):
        export_onnx(untrained("nr-resnet18"), tmp_path / "metric.onnx", reference_features=True)
    with pytest.raises(FileNotFoundError):
        export_onnx(untrained("nr-resnet18"), tmp_path / "absent" / "metric.onnx")
