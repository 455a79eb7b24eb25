"""Models of timm as backbones: what is seen, maps, scores, training, checkpoints, weights; and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from huggingface_hub.utils import validate_repo_id
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torch import Tensor

import aigciqa
from aigciqa import errors
from aigciqa.backbones import build_backbone
from aigciqa.checkpoints.hub import default_repo
from aigciqa.cli import train
from aigciqa.integrations.onnx import export_onnx
from aigciqa.registry import known_metric, metric_info
from aigciqa.training import trainer
from aigciqa.training.settings import Settings
from tests.conftest import call_command, draw, draw_tensor, untrained
from tests.hub_server import Fault, Hub
from tests.lookalikes import write_folder
from tests.test_onnx import compare

#: A ResNet, a ConvNeXt, a ViT, one with register tokens, a Swin and an MLP-Mixer, as small as there are.
RESNET, CONVNEXT, VIT, REGISTERS = "test_resnet", "test_convnext", "vit_tiny_patch16_224", "test_vit3"
VIT_REPO = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
SWIN, MIXER = "swin_tiny_patch4_window7_224", "gmixer_12_224"
MODELS = (RESNET, CONVNEXT, VIT, REGISTERS, SWIN)


def metric_on(model: str, kind: str = "nr") -> aigciqa.Metric:
    return untrained(f"{kind}-timm/{model}")


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    metric_info.__globals__["_of_timm"].cache_clear()


# What a metric is


@pytest.mark.parametrize(
    ("model", "resize", "crop", "interpolation", "mean"),
    [
        ("resnet18", 235, 224, "bicubic", (0.485, 0.456, 0.406)),  # 224 / 0.95
        ("resnet18.tv_in1k", 256, 224, "bilinear", (0.485, 0.456, 0.406)),
        ("vit_base_patch16_clip_224.openai", 248, 224, "bicubic", (0.48145466, 0.4578275, 0.40821073)),
        ("vit_small_patch14_dinov2.lvd142m", 518, 518, "bicubic", (0.485, 0.456, 0.406)),
        ("swin_base_patch4_window12_384", 384, 384, "bicubic", (0.485, 0.456, 0.406)),
    ],
)
def test_images_are_preprocessed_as_timms_data_config_says(
    model: str, resize: int, crop: int, interpolation: str, mean: tuple[float, ...]
) -> None:
    spec = aigciqa.metric_info(f"fr-timm/{model}")
    assert (spec.name, spec.kind, spec.backbone) == (f"fr-timm/{model}", "fr", f"timm/{model}")
    assert spec.dimensions == aigciqa.metric_info("fr-resnet18").dimensions
    found = spec.preprocess
    assert (found.resize, found.crop, found.interpolation, found.mean) == (resize, crop, interpolation, mean)


@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("size", [(300, 420), (100, 90), (960, 940)])
def test_a_file_becomes_the_pixels_that_timms_own_transform_gives(model: str, size: tuple[int, int]) -> None:
    config = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict())
    image = Image.fromarray(draw(*size))
    preprocessor = aigciqa.images.preprocess.Preprocessor(aigciqa.metric_info(f"nr-timm/{model}").preprocess)
    ours = preprocessor.normalize(preprocessor.image(image)[None])[0]
    torch.testing.assert_close(ours, create_transform(**config)(image), rtol=0, atol=1e-5)


def test_every_model_of_timm_is_a_metric_with_a_legal_repo() -> None:
    for model in {*timm.list_models(), *timm.list_models(pretrained=True)}:
        preprocess = aigciqa.metric_info(f"nr-timm/{model}").preprocess
        assert preprocess.crop is not None
        assert preprocess.resize is not None
        assert 0 < preprocess.crop <= preprocess.resize
        validate_repo_id(default_repo(f"nr-timm/{model}"))
    assert default_repo("nr-timm/resnet18.a1_in1k") == "aigciqa/nr-timm-resnet18.a1_in1k"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nr-timm/resnt18", r"timm has no model 'resnt18'; did you mean 'resnet18' or"),
        (
            "nr-timm/resnet18.nope",
            r"'resnet18.nope'; did you mean 'resnet18\.\w+'.* timm.list_models\(pretrained=True\)",
        ),
        ("fr-timm/dinov2", "did you mean 'vit_.*dinov2"),
        ("nr-timm/hf-hub:org/name", "timm has no model 'hf-hub:org/name'. timm.list_models"),
        ("nr-timm/", "unknown metric 'nr-timm/'"),
    ],
)
def test_unknown_models_are_refused_with_near_names(name: str, words: str) -> None:
    for make in (aigciqa.metric_info, aigciqa.create_metric):
        with pytest.raises(errors.InputError, match=words):
            make(name)
    assert known_metric(name) is None


@pytest.mark.parametrize("model", ["crossvit_tiny_240", "pit_ti_distilled_224"])  # of two scales; class tokens alone
def test_models_without_maps_are_refused(model: str) -> None:
    with pytest.raises(errors.InputError, match=rf"timm's {model} can't be a backbone: its features are not maps"):
        aigciqa.create_metric(f"nr-timm/{model}", weights=None)


def test_without_timm_the_extra_is_named(without_timm: None, tmp_path: Path) -> None:
    words = r"timm/resnet18 is a model of timm: pip install 'aigciqa\[timm\]'"
    for make in (aigciqa.metric_info, aigciqa.create_metric):
        with pytest.raises(errors.MissingExtraError, match=words):
            make("nr-timm/resnet18")
    done = call_command(str(tmp_path), "-m", "nr-timm/resnet18")
    assert done.returncode == 2
    assert "pip install 'aigciqa[timm]'" in done.stderr
    assert known_metric("nr-timm/resnet18") is None
    assert "any model of timm (extra timm)" in call_command("--list").stdout
    assert not aigciqa.list_metrics("*timm*")


# Maps and features


@pytest.mark.parametrize(
    ("model", "size", "input_side", "is_convolutional"),
    [
        (RESNET, (96, 5, 5), None, True),
        (CONVNEXT, (64, 5, 5), None, True),
        (VIT, (192, 14, 14), 224, False),
        (REGISTERS, (96, 10, 10), 160, False),
        (SWIN, (768, 7, 7), 224, False),
        (MIXER, (384, 14, 14), 224, False),
    ],
)
def test_maps_are_timms_on_their_grid(
    model: str, size: tuple[int, ...], input_side: int | None, is_convolutional: bool
) -> None:
    metric = metric_on(model)
    images = draw_tensor(2, 260, 300)
    pixels = metric.preprocessor.normalize(metric.preprocessor.tensor(images))
    backbone: Any = metric.backbone
    with torch.no_grad():
        found = backbone(pixels)
        theirs = backbone.trunk.forward_features(pixels)
    assert tuple(found.shape[1:]) == size
    assert (backbone.input_side, backbone.is_convolutional) == (input_side, is_convolutional)
    if theirs.dim() == 3:
        tokens = theirs[:, getattr(backbone.trunk, "num_prefix_tokens", 0) :]
        pooled = tokens.mean(dim=1)
        assert torch.equal(found[:, :, 2, 3], tokens[:, 2 * size[2] + 3])
    elif theirs.shape[-1] == size[0]:
        pooled = theirs.mean(dim=(1, 2))
        assert torch.equal(found[:, :, 2, 3], theirs[:, 2, 3])
    else:
        pooled = theirs.mean(dim=(2, 3))
        assert torch.equal(found, theirs)
    torch.testing.assert_close(metric.encode(images), pooled)
    assert metric.feature_dim == size[0]


def test_what_reads_any_size_has_a_map_of_each() -> None:
    for model, stride in ((RESNET, 32), ("xcit_nano_12_p16_224", 16)):
        backbone = build_backbone(f"timm/{model}").eval()
        with torch.no_grad():
            maps = backbone(draw_tensor(1, 96, 160))
        assert tuple(maps.shape) == (1, backbone.feature_dim, 96 // stride, 160 // stride)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("model", [*MODELS, "tf_mobilenetv3_small_075"])
def test_scores_of_files_and_their_maps(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        Image.fromarray(draw(250, 270, number)).save(f"{number}.png")
    metric = metric_on(model)
    results = list(aigciqa.score_files([f"{number}.png" for number in range(3)], metric=metric))
    for number, result in enumerate(results):
        expected = metric.predict(f"{number}.png")
        for dimension, score in result.scores.items():
            assert score == pytest.approx(float(expected[dimension]), abs=1e-4)
    quality_map = metric.quality_map("0.png")
    assert float(quality_map.mean()) == pytest.approx(results[0].scores["quality"], abs=1e-4)
    assert quality_map.shape[1] > 1
    assert quality_map.std() > 0


def test_a_full_reference_metric_and_its_gradient() -> None:
    loss = aigciqa.create_metric(f"fr-timm/{VIT}", weights=None, as_loss=True)
    images = draw_tensor(1, 200, 240).requires_grad_()
    loss(images, draw_tensor(1, 210, 220, seed=5)).backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", ["test_vit", RESNET, CONVNEXT, SWIN])
def test_an_onnx_file_gives_the_same_scores(model: str, tmp_path: Path) -> None:
    metric = metric_on(model, "fr")
    export_onnx(metric, tmp_path / "metric.onnx")
    compare(metric, tmp_path / "metric.onnx")


# Checkpoints


@pytest.mark.parametrize("model", MODELS)
def test_a_checkpoint_gives_the_same_scores(model: str, tmp_path: Path) -> None:
    metric = metric_on(model)
    metric.save_pretrained(tmp_path)
    data = json.loads((tmp_path / "config.json").read_text())
    assert (data["metric"], data["backbone"]) == (f"nr-timm/{model}", {"name": f"timm/{model}", "options": {}})
    assert data["preprocess"]["interpolation"] == metric.config.preprocess.interpolation
    images = draw_tensor(1, 250, 300)
    state = torch.random.get_rng_state()
    loaded = aigciqa.Metric.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert loaded.config == metric.config
    assert torch.equal(loaded(images), metric(images))


def test_a_checkpoint_without_timm_names_it(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    metric_on(RESNET).save_pretrained(tmp_path)
    request.getfixturevalue("without_timm")
    words = rf"timm/{RESNET} is a model of timm: pip install 'aigciqa\[timm\]'"
    with pytest.raises(errors.MissingExtraError, match=words):
        aigciqa.Metric.from_pretrained(tmp_path)
    with pytest.raises(errors.MissingExtraError, match=words):
        aigciqa.create_metric(f"nr-timm/{RESNET}", weights=tmp_path)


def test_models_in_checkpoints_are_those_of_timms_table(tmp_path: Path) -> None:
    metric_on(RESNET).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    for changes, words in (
        ({"metric": "nr-timm/newer_net"}, "holds a checkpoint for 'nr-timm/newer_net': timm has no model 'newer_net'"),
        ({"backbone": {"name": "timm/resnet18"}}, "'backbone.name' is 'timm/resnet18'; expected 'timm/test_resnet'"),
        ({"preprocess": {**data["preprocess"], "interpolation": "lanczos"}}, "'preprocess.interpolation' is 'lanczos'"),
        ({"preprocess": {**data["preprocess"], "resize": 20000}}, "'preprocess.resize' is 20000; .* up to 1024"),
        ({"backbone": {"name": f"timm/{RESNET}", "options": {"a": 1}}}, "has no option 'a'; it takes statistics"),
    ):
        path.write_text(json.dumps({**data, **changes}))
        with pytest.raises(errors.CheckpointError, match=words):
            aigciqa.Metric.from_pretrained(tmp_path)
    path.write_text(json.dumps(data))
    with pytest.raises(errors.WrongMetricError, match="not for 'nr-timm/test_vit'"):
        aigciqa.create_metric("nr-timm/test_vit", weights=tmp_path)


def test_an_older_checkpoint_is_bilinear(checkpoints: dict[str, str], tmp_path: Path) -> None:
    metric = aigciqa.Metric.from_pretrained(checkpoints["nr-resnet18"])
    metric.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    data = json.loads(path.read_text())
    del data["preprocess"]["interpolation"]
    path.write_text(json.dumps(data))
    assert aigciqa.Metric.from_pretrained(tmp_path).config == metric.config


def test_a_checkpoint_is_published_and_is_the_default(hub: Hub, tmp_path: Path) -> None:
    metric = metric_on(RESNET)
    metric.push_to_hub(default_repo(metric.name))
    assert "aigciqa/nr-timm-test_resnet" in hub.repos
    loaded = aigciqa.create_metric(f"nr-timm/{RESNET}", cache_dir=tmp_path / "cache")
    images = draw_tensor(1, 90, 90)
    assert torch.equal(loaded(images), metric(images))


# Training and commands


def train_on(model: str, root: Path, output: Path, **settings: Any) -> aigciqa.Metric:
    """Train for an epoch of two steps, from random weights."""
    database = aigciqa.load_database("folder", root)
    split = database.split()
    half = -(-len(split.train) // 2)
    chosen = Settings(f"nr-timm/{model}", ("quality",), epochs=1, batch_size=half, start="none", **settings)
    cache = root.parent / "cache"
    return trainer.train(database, split, chosen, output, device="cpu", cache=cache, workers=1, progress=False)


@pytest.mark.parametrize(
    "model", ["test_vit", *(pytest.param(model, marks=pytest.mark.slow) for model in (RESNET, CONVNEXT, SWIN))]
)
def test_training_ends_alike_also_where_a_model_drops_at_random(model: str, tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", prompts=5, per_prompt=4, size=48)
    trained = train_on(model, root, tmp_path / "one")
    again = train_on(model, root, tmp_path / "two", activation_checkpointing=True)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with (tmp_path / "one" / "training" / "log.csv").open() as file:
        assert len(file.readlines()) == 2


def test_commands_take_such_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "data", prompts=5, per_prompt=4, size=48)
    monkeypatch.chdir(tmp_path)
    options = ("--epochs", "1", "--batch-size", "8", "--start", "none", "--device", "cpu", "--workers", "1", "--quiet")
    done = CliRunner().invoke(
        train.main, ["folder", str(root), "-m", f"nr-timm/{RESNET}", "-o", "trained", "--cache", "cache", *options]
    )
    assert done.exit_code == 0, done.output
    image = str(next(root.rglob("*.png")))
    scored = call_command(image, "-m", f"nr-timm/{RESNET}", "--weights", "trained", "-o", "t.csv", "--maps", "maps")
    assert scored.returncode == 0, scored.stderr
    assert [path.name for path in Path("maps").rglob("*.npy")] == [f"{Path(image).name}.nr-timm-test_resnet.npy"]
    assert f"nr-timm/{RESNET}" in Path("t.csv").read_text()


def test_training_a_metric_with_a_near_miss_of_a_name(tmp_path: Path) -> None:
    done = CliRunner().invoke(train.main, ["folder", str(tmp_path), "-m", "nr-timm/resnt18", "-o", str(tmp_path / "a")])
    assert done.exit_code == 2
    assert "did you mean 'resnet18'" in done.stderr


# timm's weights


@pytest.fixture
def published(hub: Hub, tmp_path: Path) -> dict[str, Tensor]:
    """A model with its classifier, in the repo that timm names."""
    torch.manual_seed(3)
    states: dict[str, Tensor] = timm.create_model(VIT).state_dict()
    save_file(states, tmp_path / "model.safetensors")
    hub.add(VIT_REPO, {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    return states


def test_imagenet_weights_are_timms(hub: Hub, published: dict[str, Tensor], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    metric = aigciqa.create_metric(f"nr-timm/{VIT}", weights="imagenet", cache_dir=cache)
    found = metric.backbone.state_dict()
    assert set(found) == {f"trunk.{name}" for name in published if not name.startswith("head.")}
    assert all(torch.equal(value, published[name.removeprefix("trunk.")]) for name, value in found.items())
    hub.fault = Fault(status=503)
    again = aigciqa.create_metric(f"fr-timm/{VIT}", weights="imagenet", cache_dir=cache, local_files_only=True)
    assert all(torch.equal(value, found[name]) for name, value in again.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (Fault(flip=True), errors.AlteredError, "the Hub announced"),
        (Fault(status=404, code="RepoNotFound"), errors.RepoNotFoundError, "no such repo"),
        (Fault(status=404, code="EntryNotFound"), errors.FileNotInRepoError, "lacks a file"),
        (Fault(status=403), errors.AccessError, "access is restricted"),
    ],
)
def test_imagenet_weights_that_do_not_come(
    hub: Hub, published: dict[str, Tensor], fault: Fault, error: type[Exception], words: str, tmp_path: Path
) -> None:
    hub.fault = fault
    with pytest.raises(error, match=words):
        aigciqa.create_metric(f"nr-timm/{VIT}", weights="imagenet", cache_dir=tmp_path / "cache")


def test_imagenet_weights_without_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = rf"(?s){VIT_REPO}.*downloads are off.*Ways out: .*timm's.*aigciqa.load_imagenet\(metric, 'FILE'\).*HF_HOME"
    with pytest.raises(errors.OfflineError, match=words):
        aigciqa.create_metric(f"nr-timm/{VIT}", weights="imagenet", cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(errors.UnreachableError, match=rf"(?s){VIT_REPO}.*127.0.0.1:9.*Ways out"):
        aigciqa.create_metric(f"nr-timm/{VIT}", weights="imagenet", cache_dir=tmp_path)
    with pytest.raises(errors.InputError, match="timm names no weights on the Hub for 'timm/convnext_atto_rms'"):
        aigciqa.create_metric("nr-timm/convnext_atto_rms", weights="imagenet")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    torch.manual_seed(4)
    states = timm.create_model(RESNET, num_classes=7).state_dict()
    torch.save(states, tmp_path / "mine.pth")
    save_file(states, tmp_path / "mine.safetensors")
    for name in ("mine.pth", "mine.safetensors"):
        metric = aigciqa.load_imagenet(aigciqa.create_metric(f"nr-timm/{RESNET}", weights=None), tmp_path / name)
        assert torch.equal(metric.backbone.state_dict()["trunk.conv1.0.weight"], states["conv1.0.weight"])


def test_wrong_files_of_ones_own(tmp_path: Path) -> None:
    metric = aigciqa.create_metric(f"nr-timm/{RESNET}", weights=None)
    before = {name: value.clone() for name, value in metric.state_dict().items()}
    states = timm.create_model(RESNET, num_classes=0).state_dict()
    part = {name: value for name, value in states.items() if not name.startswith("layer4")}
    other = {**states, "conv1.0.weight": torch.zeros(3)}
    broken = {**states, "conv1.0.weight": states["conv1.0.weight"] * torch.nan}
    for content, words in (
        (part, rf"is not of timm's {RESNET}: it lacks 'layer4"),
        (other, rf"(?s)is not of timm's {RESNET}: .*size mismatch for conv1.0.weight"),
        (broken, "'trunk.conv1.0.weight' holds NaN or infinity"),
        ({}, f"is not of timm's {RESNET}"),
        (timm.create_model("test_vit").state_dict(), f"is not of timm's {RESNET}: it lacks"),
    ):
        save_file(content, tmp_path / "file.safetensors")
        with pytest.raises(errors.CheckpointError, match=words):
            aigciqa.load_imagenet(metric, tmp_path / "file.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in metric.state_dict().items())
