"""Checkpoints on disk: what is written, and what is refused with which words."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import aigciqa
from aigciqa import errors
from aigciqa.backbones import Backbone, register_backbone
from aigciqa.checkpoints.card import model_card
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.errors import CheckpointError
from aigciqa.heads import build_head
from aigciqa.registry import METRICS, MetricSpec, register_metric
from tests.conftest import draw_tensor, untrained
from tests.hub_server import Hub

EMBEDDED = Path(aigciqa.__file__).parent / "checkpoints" / "embedded"


@pytest.fixture
def checkpoint(checkpoints: dict[str, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints["nr-resnet18"], tmp_path / "checkpoint"))


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def rewrite(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and the config's hash and size with them."""
    path = checkpoint / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    data = path.read_bytes()
    edit(checkpoint, lambda config: config.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))


def load(checkpoint: Path) -> aigciqa.Metric:
    return aigciqa.create_metric("nr-resnet18", weights=checkpoint)


def test_a_checkpoint_is_three_files_that_say_what_it_is(checkpoint: Path) -> None:
    assert sorted(path.name for path in checkpoint.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((checkpoint / "config.json").read_text())
    data = (checkpoint / "model.safetensors").read_bytes()
    assert config["format"] == 1
    assert (config["kind"], config["head"]) == ("nr", "regression")
    assert config["backbone"] == {"name": "resnet18", "options": {}}
    assert config["dimensions"] == ["quality", "authenticity", "correspondence", "overall"]
    assert config["score_range"]["overall"] == [0, 15]
    assert config["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert (config["sha256"], config["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert {"license", "training", "results"} <= config.keys()
    card = (checkpoint / "README.md").read_text()
    assert 'create_metric("nr-resnet18"' in card
    assert "| correspondence | 0 to 5 |" in card


def test_no_classifier_is_stored() -> None:
    for name in METRICS:
        assert not [key for key in untrained(name).state_dict() if "classifier" in key or "last_linear" in key]


@pytest.mark.parametrize(("name", "largest"), [("fr-resnet50", 130e6), ("fr-vgg16", 62e6)])
def test_checkpoints_are_small_to_download(name: str, largest: float) -> None:
    assert sum(tensor.nbytes for tensor in untrained(name).state_dict().values()) + 100_000 <= largest


@pytest.mark.parametrize("name", METRICS)
def test_configs_survive_json(name: str) -> None:
    config = MetricConfig.from_spec(METRICS[name])
    assert MetricConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("format"), "'format' is absent; expected a whole number"),
        (lambda c: c.update(format=2), "'format' is 2; this version reads 1: upgrade"),
        (lambda c: c.update(format=True), "'format' is True"),
        (lambda c: c.update(kind="xr"), "'kind' is 'xr'; expected one of nr, fr"),
        (lambda c: c.update(metric=3), "'metric' is 3"),
        (lambda c: c.update(metric="nr-vgg16"), "holds a checkpoint for 'nr-vgg16', not for 'nr-resnet18'"),
        (lambda c: c.update(backbone="resnet18"), "'backbone' is 'resnet18'; expected an object"),
        (lambda c: c["backbone"].update(name="os"), "'backbone.name' is 'os'; expected one of"),
        (lambda c: c["backbone"].update(name=["resnet18"]), "'backbone.name' is"),
        (lambda c: c.update(dimensions=[]), "'dimensions' is"),
        (lambda c: c.update(dimensions=["beauty"]), "'score_range' is.*every dimension"),
        (lambda c: c.update(dimensions=["quality", 3]), "'dimensions' is.*distinct names"),
        (lambda c: c.update(dimensions=["error"], score_range={"error": [0, 1]}), "'dimensions': .* called 'error'"),
        (lambda c: c.update(dimensions=["a\nb"], score_range={"a\nb": [0, 1]}), r"'dimensions': .* called 'a\\nb'"),
        (
            lambda c: c.update(head="os.system"),
            "'head' is 'os.system'; expected one of lite, linear, regression, taught",
        ),
        (lambda c: c.update(head=["lite"]), "'head' is"),
        (lambda c: c.update(dimensions=["quality", "quality"]), "'dimensions' is.*distinct"),
        (lambda c: c["score_range"].pop("quality"), "'score_range' is.*every dimension"),
        (lambda c: c["score_range"].update(quality=[5, 0]), "'score_range' is"),
        (lambda c: c["preprocess"].update(resize="big"), "'preprocess.resize' is 'big'"),
        (lambda c: c["preprocess"].update(crop=10**9), "'preprocess.crop' is 1000000000; expected a number of pixels"),
        (lambda c: c["preprocess"].update(mean=[0, 0]), "'preprocess.mean' is.*three finite numbers"),
        (lambda c: c["preprocess"].update(mean=[0, 0, float("nan")]), "'preprocess.mean' is.*three finite numbers"),
        (lambda c: c["score_range"].update(quality=[0, float("inf")]), "'score_range' is"),
        (lambda c: c["backbone"].update(options={"module": "os.system"}), "'backbone.options': .* no option 'module'"),
        (lambda c: c["backbone"].update(options={"negative_slope": "x"}), "'backbone.options': negative_slope is 'x'"),
        (lambda c: c["backbone"].update(options=[1]), "'backbone.options' is"),
        (lambda c: c["backbone"].update(name="aigciqa.backbones.lite"), "'backbone.name' is 'aigciqa.backbones.lite'"),
        (lambda c: c.update(license="MIT\ntags: [x]"), "'license' is.*SPDX"),
        (lambda c: c.pop("sha256"), "'sha256' is absent"),
        (lambda c: c.update(sha256="../../etc/passwd"), "'sha256' is.*64 hexadecimal digits"),
        (lambda c: c.update(size=-1), "'size' is -1; expected a number of bytes"),
        (lambda c: c.update(size=10**13), "'size' is 10,000,000,000,000; a checkpoint of this metric has at most 1"),
    ],
)
def test_a_wrong_config_is_refused_by_the_key(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    edit(checkpoint, change)
    with pytest.raises(aigciqa.CheckpointError, match=text):
        load(checkpoint)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda t: t.pop("head.fc1.weight"), "lacks 'head.fc1.weight'"),
        (lambda t: t.update({"extra": torch.zeros(1)}), "has unknown 'extra'"),
        (lambda t: t.update({"head.fc2.bias": torch.zeros(5)}), r"'head.fc2.bias' has shape \(5,\); expected \(4,\)"),
        (lambda t: t.update({"head.fc2.bias": t["head.fc2.bias"].double()}), "'head.fc2.bias' has dtype torch.float64"),
        (lambda t: [t.pop(key) for key in list(t)[:9]], "and 4 more"),
    ],
)
def test_wrong_tensors_are_refused_by_name(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    rewrite(checkpoint, change)
    with pytest.raises(aigciqa.CheckpointError, match=text):
        load(checkpoint)


def test_altered_and_truncated_weights_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.AlteredError, match="it was altered"):
        load(checkpoint)
    path.write_bytes(data[:-7])
    with pytest.raises(errors.TruncatedError, match="truncated or replaced"):
        load(checkpoint)
    path.unlink()
    os.mkfifo(path)  # would never end
    with pytest.raises(errors.TruncatedError, match="has 0 bytes"):
        load(checkpoint)
    path.unlink()
    with pytest.raises(aigciqa.CheckpointError, match=r"model.safetensors can't be read: No such file"):
        load(checkpoint)


def test_what_is_no_safetensors_file_is_refused_though_its_hash_fits(checkpoint: Path) -> None:
    bomb = (2**40).to_bytes(8, "little") + b"{}"
    (checkpoint / "model.safetensors").write_bytes(bomb)
    edit(checkpoint, lambda config: config.update(sha256=hashlib.sha256(bomb).hexdigest(), size=len(bomb)))
    with pytest.raises(aigciqa.CheckpointError, match="is not a safetensors file"):
        load(checkpoint)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(aigciqa.CheckpointError, match=r"is not a checkpoint: it has no config.json"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(aigciqa.CheckpointError, match="holds a list; expected an object"):
        load(tmp_path)
    for content in (b"\xff{", b"[" * 100_000, b'{"size": 1' + b"0" * 9999 + b"}"):
        (tmp_path / "config.json").write_bytes(content)
        with pytest.raises(aigciqa.CheckpointError, match="can't be read as JSON"):
            load(tmp_path)
    (tmp_path / "config.json").write_bytes(b" " * (2 << 20))
    with pytest.raises(aigciqa.CheckpointError, match="has 2,097,152 bytes; expected at most 1,048,576"):
        load(tmp_path)


def test_paths_are_never_taken_for_repos(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for path in ("./org/name", "/org/name", "~/org/name", "../org", Path("org/name"), "no-slash", "a/b/c"):
        with pytest.raises(ValueError, match="no such folder"):
            aigciqa.create_metric("nr-resnet18", weights=path)
    assert hub.requests == []


def test_an_existing_folder_wins_over_a_repo_of_its_name(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint.parent / "org").mkdir()
    checkpoint.rename(checkpoint.parent / "org" / "name")
    metric = aigciqa.create_metric("nr-resnet18", weights="org/name")
    images = draw_tensor(1, 80, 80)
    assert torch.equal(metric(images), untrained("nr-resnet18")(images))
    assert torch.equal(aigciqa.Metric.from_pretrained("org/name")(images), metric(images))


def test_writing_replaces_an_earlier_checkpoint(checkpoint: Path) -> None:
    torch.manual_seed(1)
    other = aigciqa.create_metric("nr-resnet18", weights=None)
    other.save_pretrained(checkpoint)
    images = draw_tensor(1, 80, 80)
    assert torch.equal(load(checkpoint)(images), other(images))
    assert len(list(checkpoint.iterdir())) == 3


def test_a_pickle_in_a_checkpoints_place_is_not_read(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its size and hash are those of the config."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch escaped",)

    monkeypatch.chdir(checkpoint)
    data = pickle.dumps(Evil())
    (checkpoint / "model.safetensors").write_bytes(data)
    (checkpoint / "pytorch_model.bin").write_bytes(data)
    edit(checkpoint, lambda config: config.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    with pytest.raises(aigciqa.CheckpointError, match="is not a safetensors file"):
        load(checkpoint)
    assert not (checkpoint / "escaped").exists()


def test_configs_without_optional_keys(checkpoint: Path) -> None:
    def strip(config: dict[str, Any]) -> None:
        for key in ("metric", "head", "license", "training", "results"):
            del config[key]
        del config["backbone"]["options"]

    edit(checkpoint, strip)
    metric = load(checkpoint)
    assert (metric.name, metric.config.license, metric.config.options) == ("nr-resnet18", None, {})
    assert metric.config.head == "regression"


def test_checkpoints_that_name_no_head_load() -> None:
    assert "head" not in json.loads((EMBEDDED / "fr-lite" / "config.json").read_text())
    assert aigciqa.create_metric("fr-lite").config.head == "lite"


def test_dimensions_of_ones_own(tmp_path: Path) -> None:
    ranges = {"aesthetics": (1.0, 10.0), "Übersicht_2": (-1.0, 1.0)}
    config = dataclasses.replace(MetricConfig.from_spec(METRICS["nr-resnet18"]), score_ranges=ranges)
    metric = aigciqa.Metric(config)
    metric.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert written["score_range"] == {"aesthetics": [1, 10], "Übersicht_2": [-1, 1]}
    assert "| aesthetics | 1 to 10 |" in (tmp_path / "README.md").read_text(encoding="utf-8")
    loaded = aigciqa.create_metric("nr-resnet18", weights=tmp_path, dimension="Übersicht_2")
    assert (loaded.config.score_ranges, loaded.score_range) == (ranges, (-1, 1))
    images = draw_tensor(1, 80, 80)
    assert list(loaded.predict(images)) == ["aesthetics", "Übersicht_2"]
    assert torch.equal(loaded.predict(images)["aesthetics"], metric(images))


class Tied(Backbone):
    """Two layers with the same weights."""

    feature_dim = 8

    def __init__(self, name: str) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(3, 8, 8, 8)
        self.other = self.one

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.one(images) + self.other(images.flip(3))


def test_layers_may_share_weights(tmp_path: Path) -> None:
    register_backbone("tied", Tied)
    register_metric(MetricSpec("nr-tied", "nr", "tied", METRICS["nr-resnet18"].preprocess, "this test"))
    metric = aigciqa.create_metric("nr-tied", weights=None)
    metric.save_pretrained(tmp_path)
    images = draw_tensor(1, 80, 80)
    assert torch.equal(aigciqa.create_metric("nr-tied", weights=tmp_path)(images), metric(images))


def test_modules_that_the_config_does_not_name_are_not_saved(tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None)
    metric.head = build_head("linear", "nr", 512, 4)
    with pytest.raises(CheckpointError, match=r"lacks 'head\.fc1\.bias'.* and has unknown 'head\.basis'"):
        metric.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_loading_draws_no_random_numbers_and_keeps_gradients(checkpoint: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    metric = load(checkpoint)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in metric.parameters())
    assert not any(parameter.requires_grad for parameter in aigciqa.create_metric("fr-lite", as_loss=True).parameters())


def test_what_happens_to_the_file_after_loading_changes_nothing(checkpoint: Path) -> None:
    metric = load(checkpoint)
    images = draw_tensor(1, 80, 80)
    before = metric(images)
    with (checkpoint / "model.safetensors").open("r+b") as file:
        file.write(bytes(1 << 20))
        file.truncate(1 << 21)
    assert torch.equal(metric(images), before)


def test_the_card_says_what_the_config_says() -> None:
    config = dataclasses.replace(
        MetricConfig.from_spec(METRICS["fr-resnet50"]),
        license="Apache-2.0",
        training={"database": "pku-i2iqa", "protocol": "paper", "optimizer": {"name": "adam", "lr": 1e-4}},
        results={"quality": {"srcc": [0.8123, 0.79, 0.83], "rmse": 0.4}, "overall": {"srcc": [0.7, 0.6, 0.8]}},
    )
    card = model_card(config)
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "license: apache-2.0" in front.splitlines()
    for line in (
        "| database | pku-i2iqa |",
        "| optimizer.lr | 0.0001 |",
        "|  | srcc | rmse |",
        "| quality | 0.8123 [0.79, 0.83] | 0.4 |",
        "| overall | 0.7 [0.6, 0.8] |  |",
        "| overall | 0 to 15 |",
        "Apache-2.0",
    ):
        assert line in body.splitlines()
    assert 'score = metric("out.png", "prompt.png")' in body
