"""Heads on disk: what is written, and what is refused with which words."""

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
from aigciqa.checkpoints.format import MetricConfig, model_card
from aigciqa.registry import METRICS
from tests.conftest import draw_tensor, untrained


@pytest.fixture
def head(heads: dict[str, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(heads["nr-resnet18"], tmp_path / "head"))


def edit(head: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = head / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def rewrite(head: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors, and the config's hash and size with them."""
    path = head / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    data = path.read_bytes()
    edit(head, lambda config: config.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))


def load(head: Path) -> aigciqa.Metric:
    return aigciqa.create_metric("nr-resnet18", weights=head)


def test_a_head_is_three_files_that_say_what_it_is(head: Path) -> None:
    assert sorted(path.name for path in head.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    config = json.loads((head / "config.json").read_text())
    data = (head / "model.safetensors").read_bytes()
    assert config["format"] == 1
    assert config["kind"] == "nr"
    assert config["backbone"] == {"name": "resnet18", "options": {}}
    assert config["dimensions"] == ["quality", "authenticity", "correspondence", "overall"]
    assert config["score_range"]["overall"] == [0, 15]
    assert config["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert (config["sha256"], config["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert {"license", "training", "results"} <= config.keys()
    card = (head / "README.md").read_text()
    assert 'create_metric("nr-resnet18"' in card
    assert "| correspondence | 0 to 5 |" in card


def test_no_classifier_is_stored() -> None:
    for name in METRICS:
        assert not [key for key in untrained(name).state_dict() if "classifier" in key or "last_linear" in key]


@pytest.mark.parametrize(("name", "largest"), [("fr-resnet50", 130e6), ("fr-vgg16", 62e6)])
def test_heads_are_small_to_download(name: str, largest: float) -> None:
    assert sum(tensor.nbytes for tensor in untrained(name).state_dict().values()) + 100_000 <= largest


@pytest.mark.parametrize("name", METRICS)
def test_configs_survive_json(name: str) -> None:
    config = MetricConfig.from_spec(METRICS[name])
    assert MetricConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.pop("format"), "'format' is absent; expected a int"),
        (lambda c: c.update(format=2), "'format' is 2; this version reads 1: upgrade"),
        (lambda c: c.update(format=True), "'format' is True"),
        (lambda c: c.update(kind="xr"), "'kind' is 'xr'; expected one of nr, fr"),
        (lambda c: c.update(metric=3), "'metric' is 3"),
        (lambda c: c.update(metric="nr-vgg16"), "holds a checkpoint for 'nr-vgg16', not for 'nr-resnet18'"),
        (lambda c: c.update(backbone="resnet18"), "'backbone' is 'resnet18'; expected a dict"),
        (lambda c: c["backbone"].update(name="os"), "'backbone.name' is 'os'; expected one of"),
        (lambda c: c["backbone"].update(name=["resnet18"]), "'backbone.name' is"),
        (lambda c: c.update(dimensions=[]), "'dimensions' is"),
        (lambda c: c.update(dimensions=["beauty"]), r"'dimensions' is.*quality, authenticity"),
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
        (lambda c: c.update(size=10**13), "'size' is 10,000,000,000,000; such a head has at most 1"),
    ],
)
def test_a_wrong_config_is_refused_by_the_key(
    head: Path, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    edit(head, change)
    with pytest.raises(aigciqa.CheckpointError, match=text):
        load(head)


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
def test_wrong_tensors_are_refused_by_name(head: Path, change: Callable[[dict[str, Any]], object], text: str) -> None:
    rewrite(head, change)
    with pytest.raises(aigciqa.CheckpointError, match=text):
        load(head)


def test_altered_and_truncated_weights_are_refused(head: Path) -> None:
    path = head / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(errors.AlteredError, match="it was altered"):
        load(head)
    path.write_bytes(data[:-7])
    with pytest.raises(errors.TruncatedError, match="truncated or replaced"):
        load(head)
    path.unlink()
    os.mkfifo(path)  # would never end
    with pytest.raises(errors.TruncatedError, match="has 0 bytes"):
        load(head)
    path.unlink()
    with pytest.raises(aigciqa.CheckpointError, match=r"model.safetensors can't be read: No such file"):
        load(head)


def test_what_is_no_safetensors_file_is_refused_though_its_hash_fits(head: Path) -> None:
    bomb = (2**40).to_bytes(8, "little") + b"{}"
    (head / "model.safetensors").write_bytes(bomb)
    edit(head, lambda config: config.update(sha256=hashlib.sha256(bomb).hexdigest(), size=len(bomb)))
    with pytest.raises(aigciqa.CheckpointError, match="is not a safetensors file"):
        load(head)


def test_what_is_no_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(aigciqa.CheckpointError, match=r"is not a head: it has no config.json"):
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


def test_paths_are_never_taken_for_repos(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def network(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("looked up on the Hub")

    monkeypatch.setattr("aigciqa.checkpoints.hub.HubCheckpoint", network)
    monkeypatch.chdir(tmp_path)
    for path in ("./org/name", "/org/name", "~/org/name", "../org", Path("org/name"), "no-slash", "a/b/c"):
        with pytest.raises(ValueError, match="no such folder"):
            aigciqa.create_metric("nr-resnet18", weights=path)


def test_an_existing_folder_wins_over_a_repo_of_its_name(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(head.parent)
    (head.parent / "org").mkdir()
    head.rename(head.parent / "org" / "name")
    metric = aigciqa.create_metric("nr-resnet18", weights="org/name")
    images = draw_tensor(1, 80, 80)
    assert torch.equal(metric(images), untrained("nr-resnet18")(images))
    assert torch.equal(aigciqa.Metric.from_pretrained("org/name")(images), metric(images))


def test_writing_replaces_an_earlier_head(head: Path) -> None:
    torch.manual_seed(1)
    other = aigciqa.create_metric("nr-resnet18", weights=None)
    other.save_pretrained(head)
    images = draw_tensor(1, 80, 80)
    assert torch.equal(load(head)(images), other(images))
    assert len(list(head.iterdir())) == 3


def test_a_pickle_in_a_heads_place_is_not_read(head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when its size and hash are those of the config."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, ("touch escaped",)

    monkeypatch.chdir(head)
    data = pickle.dumps(Evil())
    (head / "model.safetensors").write_bytes(data)
    (head / "pytorch_model.bin").write_bytes(data)
    edit(head, lambda config: config.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))
    with pytest.raises(aigciqa.CheckpointError, match="is not a safetensors file"):
        load(head)
    assert not (head / "escaped").exists()


def test_configs_without_optional_keys(head: Path) -> None:
    def strip(config: dict[str, Any]) -> None:
        for key in ("metric", "license", "training", "results"):
            del config[key]
        del config["backbone"]["options"]

    edit(head, strip)
    metric = load(head)
    assert (metric.name, metric.config.license, metric.config.options) == ("nr-resnet18", None, {})


def test_loading_draws_no_random_numbers_and_keeps_gradients(head: Path) -> None:
    torch.manual_seed(3)
    state = torch.get_rng_state()
    metric = load(head)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in metric.parameters())
    assert not any(parameter.requires_grad for parameter in aigciqa.create_metric("fr-lite", as_loss=True).parameters())


def test_what_happens_to_the_file_after_loading_changes_nothing(head: Path) -> None:
    metric = load(head)
    images = draw_tensor(1, 80, 80)
    before = metric(images)
    with (head / "model.safetensors").open("r+b") as file:
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
