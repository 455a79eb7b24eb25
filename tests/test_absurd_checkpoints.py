"""Checkpoints that are well-formed and absurd: refused by name when they are loaded, saved, published and converted."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import aigciqa
from aigciqa import errors
from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import write_checkpoint
from aigciqa.cli.convert import main as convert_command
from aigciqa.cli.publish import main as publish_command
from aigciqa.registry import METRICS
from tests.hub_server import Hub

EMBEDDED = Path(aigciqa.__file__).parent / "checkpoints" / "embedded" / "nr-lite"
NAN, INFINITY = float("nan"), float("inf")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder of a small checkpoint: nr-lite's."""
    return Path(shutil.copytree(EMBEDDED, tmp_path / "checkpoint"))


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    change(config)
    path.write_text(json.dumps(config))


def put_weights(checkpoint: Path, data: bytes) -> None:
    """Replace the weights, and the config's hash and size with them."""
    (checkpoint / "model.safetensors").write_bytes(data)
    edit(checkpoint, lambda config: config.update(sha256=hashlib.sha256(data).hexdigest(), size=len(data)))


def refused(checkpoint: Path, match: str) -> None:
    """Both ways of loading refuse it, and so does the command that publishes."""
    with pytest.raises(aigciqa.CheckpointError, match=match):
        aigciqa.create_metric("nr-lite", weights=checkpoint)
    with pytest.raises(aigciqa.CheckpointError, match=match):
        aigciqa.Metric.from_pretrained(checkpoint)
    done = CliRunner().invoke(publish_command, [str(checkpoint), "org/checkpoint"])
    assert done.exit_code == 2
    assert not isinstance(done.exception, aigciqa.CheckpointError)


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c["preprocess"].update(resize=65536), "'preprocess.resize' is 65536; .* up to 2048, or null"),
        (lambda c: c["preprocess"].update(crop=4096), "'preprocess.crop' is 4096; .* up to 1024, or null"),
        (lambda c: c["preprocess"].update(max_side=10**30), "'preprocess.max_side' is 1000.* up to 16384"),
        (lambda c: c["preprocess"].update(resize=0), "'preprocess.resize' is 0"),
        (lambda c: c["preprocess"].update(std=[1, 1, 1e-320]), r"'preprocess.std' is.*in \[0.001, 1000\]"),
        (lambda c: c["preprocess"].update(std=[0, 1, 1]), "'preprocess.std' is"),
        (lambda c: c["preprocess"].update(std=[-1, 1, 1]), "'preprocess.std' is"),
        (lambda c: c["preprocess"].update(std=[1e308, 1, 1]), "'preprocess.std' is"),
        (lambda c: c["preprocess"].update(mean=[0, 1e308, 0]), r"'preprocess.mean' is.*in \[0, 1\]"),
        (lambda c: c["preprocess"].update(mean=[10**400, 0, 0]), "'preprocess.mean' is"),
        (lambda c: c["score_range"].update(quality=[0, 1e308]), "'score_range' is.*within 1,000,000 of zero"),
        (lambda c: c["score_range"].update(quality=[0, 10**400]), "'score_range' is"),
        (lambda c: c["score_range"].update(quality=[0, 1e-320]), "'score_range' is"),
        (lambda c: c["score_range"].update(quality=[0, NAN]), "'score_range' is"),
        (lambda c: c.update(dimensions=[["quality"]]), "'dimensions' is"),
        (lambda c: c.update(dimensions=[{}]), "'dimensions' is"),
        (
            lambda c: c.update(
                dimensions=["quality", "mine"], score_range={"quality": [0, 5], "mine": [0, 5]}, reference_sets=[]
            ),
            "'dimensions': a lite head predicts one dimension; got 2",
        ),
        (lambda c: c["backbone"]["options"].update(presentation=10**400), "'backbone.options.presentation' is 1000"),
        (
            lambda c: c["backbone"]["options"].update(presentation=nested(20)),
            "'backbone.options.presentation.0.*nested",
        ),
        (lambda c: c["backbone"]["options"].update(presentation="x" * 9999), "'backbone.options': presentation is 'x"),
        (lambda c: c["backbone"]["options"].update({"x" * 9999: 1}), "'backbone.options': .* has no option"),
        (lambda c: c.update(kind="fr"), "'kind' is 'fr'; expected 'nr', for 'nr-lite'"),
        (lambda c: c.update(training={"a": {"b": nested(900)}}), r"'training.a.b.0.0.* is nested more than 16 times"),
        (lambda c: c.update(results={"quality": {"srcc": [0.5, NAN, 1]}}), "'results.quality.srcc.1' is nan"),
        (lambda c: c.update(results={"quality": -INFINITY}), "'results.quality' is -inf; expected a finite number"),
        (lambda c: c.update(results={"quality": 10**400}), "'results.quality' is 1000"),
        (lambda c: c.update(training={"note": "\ud800"}), "'training.note' holds half of a character"),
        (lambda c: c.update(training={"\ud800\x1b": 1}), r"'training.\\ud800\\x1b' holds half of a character"),
        (lambda c: c.update(license="MIT\u0661"), "'license' is"),
        (lambda c: c.update(metric="x" * 9999), "'metric' is 'xxx.*a metric's name"),
        (lambda c: c.update(size=0), "'size' is 0"),
    ],
)
def test_absurd_configs_are_refused_by_the_key_before_the_weights_are_read(
    checkpoint: Path, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    edit(checkpoint, change)
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, text)
    with pytest.raises(aigciqa.CheckpointError) as caught:
        aigciqa.Metric.from_pretrained(checkpoint)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("metric", "key", "largest"),
    [
        ("nr-resnet18", "resize", 1024),
        ("fr-vgg19", "crop", 1024),
        ("nr-inceptionv4", "resize", 1280),
        ("nr-inceptionv4", "crop", 1196),
        ("fr-lite", "resize", 2048),
        ("fr-lite", "max_side", 16384),
    ],
)
def test_sides_are_bounded_by_the_backbone(metric: str, key: str, largest: int) -> None:
    config = MetricConfig.from_spec(METRICS[metric]).to_dict()
    for side in (1, largest, None):
        config["preprocess"][key] = side
        MetricConfig.from_dict(config)
    config["preprocess"][key] = largest + 1
    with pytest.raises(aigciqa.CheckpointError, match=f"'preprocess.{key}' is {largest + 1}; .* up to {largest}"):
        MetricConfig.from_dict(config)


def test_what_networks_of_others_divide_by_is_taken() -> None:
    config = MetricConfig.from_spec(METRICS["nr-vgg16"]).to_dict()
    config["preprocess"].update(mean=[0.485, 0.5, 1], std=[1 / 255, 0.5, 1])
    config["score_range"]["quality"] = [1165, 1623]
    assert MetricConfig.from_dict(config).preprocess.std == (1 / 255, 0.5, 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"format": 1, "format": 1}', "the key 'format' comes twice"),
        ('{"format": 1, "preprocess": {"crop": 224, "std": 0, "crop": 4096}}', "the key 'crop' comes twice"),
        ("[" * 5000 + "]" * 5000, "can't be read as JSON"),
        ('{"format": 1' + "0" * 5000 + "}", "can't be read as JSON"),
        ('{"format": 1e999}', "'format' is inf"),
        ('{"format": NaN}', "'format' is nan"),
        ("", "can't be read as JSON"),
        ("{} {}", "can't be read as JSON"),
    ],
)
def test_odd_json_is_refused(checkpoint: Path, text: str, problem: str) -> None:
    (checkpoint / "config.json").write_text(text)
    refused(checkpoint, problem)


def test_a_config_is_a_file_and_ends(checkpoint: Path) -> None:
    config = checkpoint / "config.json"
    config.unlink()
    config.mkdir()
    refused(checkpoint, r"config.json is not a file")
    if hasattr(os, "mkfifo"):
        config.rmdir()
        os.mkfifo(config)  # would never end
        refused(checkpoint, r"config.json is not a file")


def change_weights(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    put_weights(checkpoint, (checkpoint / "model.safetensors").read_bytes())


@pytest.mark.parametrize("value", [NAN, INFINITY, -INFINITY])
@pytest.mark.parametrize("name", ["backbone.center", "head.blocks.regressor.weights.0"])
def test_weights_that_are_no_numbers_are_refused_by_name(checkpoint: Path, name: str, value: float) -> None:
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    metric = aigciqa.create_metric("nr-lite", weights=checkpoint)
    change_weights(checkpoint, spoil)
    refused(checkpoint, f"'{name}' holds NaN or infinity")
    metric.state_dict()[name].view(-1)[-1] = value
    with pytest.raises(aigciqa.CheckpointError, match=f"'{name}' holds NaN or infinity"):
        metric.save_pretrained(checkpoint.parent / "saved")
    with pytest.raises(aigciqa.CheckpointError, match=f"'{name}' holds NaN or infinity"):
        metric.push_to_hub("org/checkpoint")
    assert not (checkpoint.parent / "saved").exists()


def test_huge_but_finite_weights_are_numbers(checkpoint: Path) -> None:
    def enlarge(tensors: dict[str, torch.Tensor]) -> None:
        tensors["backbone.center"][:4] = 3e38  # their sum is infinite

    change_weights(checkpoint, enlarge)
    assert aigciqa.create_metric("nr-lite", weights=checkpoint).state_dict()["backbone.center"][0] == torch.tensor(3e38)


def test_statistics_of_batches_are_looked_at_too(checkpoints: dict[str, str], tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=checkpoints["nr-resnet18"])
    for name, value, problem in (
        ("backbone.bn1.running_mean", NAN, "holds NaN or infinity"),
        ("backbone.layer4.1.bn2.running_var", INFINITY, "holds NaN or infinity"),
        ("backbone.bn1.running_var", -1.0, "holds a negative variance"),
    ):
        before = metric.state_dict()[name][0].item()
        metric.state_dict()[name][0] = value
        with pytest.raises(aigciqa.CheckpointError, match=f"'{name}' {problem}"):
            metric.save_pretrained(tmp_path / "saved")
        metric.state_dict()[name][0] = before
    metric.save_pretrained(tmp_path / "saved")


def test_a_config_that_would_not_load_is_not_saved(tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-lite")
    absurd = replace(metric.config, preprocess=replace(metric.config.preprocess, crop=65536))
    with pytest.raises(aigciqa.CheckpointError, match=r"'preprocess.crop' is 65536"):
        write_checkpoint(tmp_path / "checkpoint", absurd, metric.state_dict())
    with pytest.raises(aigciqa.CheckpointError, match=r"'results.srcc' is nan"):
        write_checkpoint(tmp_path / "checkpoint", replace(metric.config, results={"srcc": NAN}), metric.state_dict())
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E8M0", "F4", "I64", "C64", "BOOL", "X9", 3, None])
def test_odd_dtypes_in_a_safetensors_file_are_refused(checkpoint: Path, dtype: Any) -> None:
    data = (checkpoint / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["backbone.center"]["dtype"] = dtype
    text = json.dumps(header).encode()
    put_weights(checkpoint, len(text).to_bytes(8, "little") + text + data[8 + length :])
    refused(checkpoint, "is not a safetensors file|'backbone.center' has dtype")


def test_only_weights_errors_come_of_damaged_checkpoints(checkpoint: Path) -> None:
    """Bytes changed at random, always the same ones."""
    rng = random.Random(15)
    config, weights = ((EMBEDDED / name).read_bytes() for name in ("config.json", "model.safetensors"))
    length = int.from_bytes(weights[:8], "little")
    loaded, refusals = 0, []
    for turn in range(80):
        changed = bytearray(config if turn % 2 else weights[: 8 + length])
        for _ in range(rng.choice((1, 2, 8))):
            place = rng.randrange(len(changed))
            changed[place : place + rng.choice((0, 1, 30))] = rng.choice(
                (b"9" * 30, b"{", b'"', b"[", b"\xff", b"1e999", b"")
            )
        (checkpoint / "config.json").write_bytes(config)
        if turn % 2:
            (checkpoint / "config.json").write_bytes(changed)
        else:
            put_weights(checkpoint, bytes(changed) + weights[8 + length :])
        try:
            aigciqa.Metric.from_pretrained(checkpoint).save_pretrained(checkpoint)
            loaded += 1
        except errors.WeightsError as error:
            refusals.append(str(error))
    assert loaded < len(refusals)
    assert max(map(len, refusals)) < 1000


# Publishing and converting


def test_publish_follows_no_link_out_of_the_folder(checkpoint: Path) -> None:
    secret = checkpoint.parent / "secret"
    secret.write_text("mine")
    for name in ("README.md", "config.json", "model.safetensors"):
        kept = (checkpoint / name).rename(checkpoint.parent / name)
        (checkpoint / name).symlink_to(secret if name == "README.md" else kept)
        done = CliRunner().invoke(publish_command, [str(checkpoint), "org/checkpoint"])
        assert (done.exit_code, f"{name} is a link out of the folder" in done.output) == (2, True)
        (checkpoint / name).unlink()
        kept.rename(checkpoint / name)


def test_a_card_that_is_no_text_is_not_published(checkpoint: Path) -> None:
    (checkpoint / "README.md").write_bytes(b"\xff\xfe caf\xe9")
    done = CliRunner().invoke(publish_command, [str(checkpoint), "org/checkpoint"])
    assert (done.exit_code, "README.md can't be read as text in UTF-8" in done.output) == (2, True)


@pytest.fixture
def states(checkpoints: dict[str, str]) -> dict[str, dict[str, torch.Tensor]]:
    """What the paper authors' script saves of nr-resnet18, but for the dimensions: theirs has one."""
    tensors = load_file(Path(checkpoints["nr-resnet18"]) / "model.safetensors")
    tensors["head.fc2.weight"], tensors["head.fc2.bias"] = tensors["head.fc2.weight"][:1], tensors["head.fc2.bias"][:1]
    parts = {"backbone": "backbone.", "regressor": "head."}
    return {
        part: {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        for part, prefix in parts.items()
    }


def test_convert_and_save_keep_a_readme_that_is_no_card(
    states: dict[str, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    torch.save(states, tmp_path / "best.pt")
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "README.md").write_text("# My project\n")
    arguments = [str(tmp_path / "best.pt"), "-m", "nr-resnet18", "-d", "quality", "-o", str(folder)]
    done = CliRunner().invoke(convert_command, arguments)
    assert (done.exit_code, "has a README.md that is not a model card" in done.output) == (2, True)
    with pytest.raises(errors.OutputExistsError, match=r"has a README.md that is not a model card: name another"):
        aigciqa.create_metric("nr-lite").save_pretrained(folder)
    assert [path.read_text() for path in folder.iterdir()] == ["# My project\n"]
    assert CliRunner().invoke(convert_command, [*arguments, "--overwrite"]).exit_code == 0
    (folder / "config.json").unlink()
    assert CliRunner().invoke(convert_command, arguments).exit_code == 0  # the card there is a card of ours


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s["regressor"]["fc1.weight"].__setitem__((0, 0), NAN), "'head.fc1.weight' holds NaN or infinity"),
        (lambda s: s["backbone"]["bn1.running_var"].__setitem__(0, INFINITY), "'backbone.bn1.running_var' holds NaN"),
        (lambda s: s["backbone"].update({3: torch.zeros(1)}), "'backbone' is not a state dict"),
        (lambda s: s["regressor"].update({"fc2.bias": torch.zeros(1).to_sparse()}), "'head.fc2.bias' has layout"),
        (lambda s: s["regressor"].update({"fc2.bias": torch.zeros(1, dtype=torch.cfloat)}), "has dtype"),
        (lambda s: s.update(epoch=10**400), "'training.epoch' is 1000"),
        (lambda s: s.update(rho_best=NAN), "'training.rho_best' is nan"),
    ],
)
def test_absurd_files_are_not_converted(
    states: dict[str, Any], change: Callable[[dict[str, Any]], object], text: str, tmp_path: Path
) -> None:
    change(states)
    torch.save(states, tmp_path / "best.pt")
    with pytest.raises(aigciqa.CheckpointError, match=text):
        aigciqa.convert_checkpoint(
            tmp_path / "best.pt", metric="nr-resnet18", dimension="quality", output=tmp_path / "checkpoint"
        )
    assert not (tmp_path / "checkpoint").exists()


def test_imagenet_weights_that_are_no_numbers_are_refused(checkpoints: dict[str, str], tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=checkpoints["nr-resnet18"])
    tensors = {**metric.backbone.state_dict(), "conv1.weight": torch.full((64, 3, 7, 7), NAN)}
    save_file(tensors, tmp_path / "mine.safetensors")
    with pytest.raises(aigciqa.CheckpointError, match=r"mine.safetensors for resnet18: 'conv1.weight' holds NaN"):
        aigciqa.load_imagenet(metric, tmp_path / "mine.safetensors")


@pytest.mark.parametrize(
    "path", [r"C:\checkpoint", r"C:\org\name", "C:/name", r".\org/name", r"..\checkpoint", r"org\name", r"~\org"]
)
def test_paths_of_windows_are_never_looked_up_on_the_hub(path: str, hub: Hub) -> None:
    with pytest.raises(ValueError, match="no such folder"):
        aigciqa.create_metric("nr-resnet18", weights=path)
    assert hub.requests == []
