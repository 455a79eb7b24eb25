"""Checkpoints of the authors' training script: converted, they compute what the script's models compute.

The script's networks are written here from their description, without the library's code.
"""

from __future__ import annotations

import collections
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms

import aigciqa
from aigciqa.cli.convert import main as convert_command
from aigciqa.errors import OutputExistsError
from tests.conftest import draw, with_slow_ones

BACKBONES = ("vgg16", "vgg19", "resnet18", "resnet50", "inceptionv4")
FEATURES = {"vgg16": 512, "vgg19": 512, "resnet18": 512, "resnet50": 2048, "inceptionv4": 1536}
VGG = {
    "vgg16": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    "vgg19": "64 64 M 128 128 M 256 256 256 256 M 512 512 512 512 M 512 512 512 512 M",
}


class Vgg(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in VGG[name].split():
            if width == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                convolution = nn.Conv2d(channels, int(width), 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight)
                layers += [convolution, nn.ReLU()]
                channels = int(width)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Linear(8, 4))  # the real one has 124 million parameters; all are dropped

    def forward(self, images: Tensor) -> Tensor:
        return self.features(images).mean((2, 3))


class Block(nn.Module):
    """A residual block: two 3 x 3 convolutions (ResNet18) or 1 x 1, 3 x 3, 1 x 1 (ResNet50)."""

    def __init__(self, inputs: int, width: int, stride: int, deep: bool, activation: nn.Module) -> None:
        super().__init__()
        outputs = 4 * width if deep else width
        shapes = [(inputs, width, 3, stride), (width, width, 3, 1)]
        if deep:
            shapes = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
        for number, (a, b, kernel, step) in enumerate(shapes):
            self.add_module(f"conv{number + 1}", nn.Conv2d(a, b, kernel, step, kernel // 2, bias=False))
            self.add_module(f"bn{number + 1}", nn.BatchNorm2d(b))
        self.count, self.activation = (3 if deep else 2), activation
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, maps: Tensor) -> Tensor:
        out = maps
        for number in range(1, self.count + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            if number < self.count:
                out = self.activation(out)
        shortcut = self.downsample(maps) if hasattr(self, "downsample") else maps
        return self.activation(out + shortcut)


class ResNet(nn.Module):
    def __init__(self, depths: list[int], deep: bool, activation: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        channels = 64
        for layer, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                stride = 2 if layer and not number else 1
                blocks.append(Block(channels, 64 << layer, stride, deep, activation))
                channels = (64 << layer) * (4 if deep else 1)
            self.add_module(f"layer{layer + 1}", nn.Sequential(*blocks))
        for module in self.modules():  # statistics of a trained network are not 0 and 1
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.1, 0.1)
                nn.init.uniform_(module.running_var, 0.8, 1.2)

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.max_pool2d(torch.relu(self.bn1(self.conv1(images))), 3, 2, 1)
        for number in range(1, 5):
            maps = getattr(self, f"layer{number}")(maps)
        return maps.mean((2, 3))


class Inception(nn.Module):
    """timm's network has the keys of pretrainedmodels'."""

    def __init__(self) -> None:
        super().__init__()
        self.network = timm.create_model("inception_v4", pretrained=False, num_classes=3)

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward_features(images).mean((2, 3))


class Regressor(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(inputs, inputs // 2), nn.Linear(inputs // 2, 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.fc2(torch.relu(self.fc1(features)))[:, 0]


def theirs(name: str, kind: str, activation: nn.Module | None = None) -> tuple[nn.Module, Regressor]:
    """A backbone and a regressor as the script builds them."""
    torch.manual_seed(len(name))
    if name.startswith("vgg"):
        backbone: nn.Module = Vgg(name)
    elif name == "resnet18":
        backbone = ResNet([2, 2, 2, 2], False, activation or nn.LeakyReLU(0.01))
    elif name == "resnet50":
        backbone = ResNet([3, 4, 6, 3], True, nn.ReLU())
    else:
        backbone = Inception()
    return backbone.eval(), Regressor(FEATURES[name] * (2 if kind == "fr" else 1)).eval()


def save(path: Path, backbone: nn.Module, regressor: Regressor, /, **more: Any) -> Path:
    """What the script's `torch.save` writes."""
    states = backbone.network.state_dict() if isinstance(backbone, Inception) else backbone.state_dict()
    optimizer = torch.optim.Adam(regressor.parameters())
    regressor(torch.randn(1, regressor.fc1.in_features)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    content = {
        "epoch": 17,
        "backbone": states,
        "regressor": regressor.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rho_best": np.float64(0.8125),
    }
    torch.save({**content, **more}, path)
    return path


def pipeline(path: Path, name: str) -> Tensor:
    """The script's preprocessing."""
    resize, crop = (320, 299) if name == "inceptionv4" else (256, 224)
    steps = [
        transforms.Resize(resize),
        transforms.CenterCrop(crop),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    return transforms.Compose(steps)(Image.open(path).convert("RGB"))[None]


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    for name, size in (("out", (300, 280)), ("prompt", (260, 340))):
        Image.fromarray(draw(*size, seed=len(name))).save(tmp_path / f"{name}.png")
    return tmp_path / "out.png", tmp_path / "prompt.png"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A checkpoint of fr-resnet18."""
    return save(tmp_path / "fr.pt", *theirs("resnet18", "fr"))


@pytest.mark.parametrize("kind", ["nr", "fr"])
@pytest.mark.parametrize("name", with_slow_ones(BACKBONES))
def test_a_converted_checkpoint_scores_as_the_scripts_model(
    name: str, kind: str, tmp_path: Path, pair: tuple[Path, Path]
) -> None:
    backbone, regressor = theirs(name, kind)
    file = save(tmp_path / "best.pt", backbone, regressor)
    images = pair if kind == "fr" else pair[:1]
    with torch.no_grad():
        features = torch.cat([backbone(pipeline(path, name)) for path in images], dim=1)
        expected = regressor(features).item()
    aigciqa.convert_checkpoint(file, metric=f"{kind}-{name}", dimension="authenticity", output=tmp_path / "checkpoint")
    metric = aigciqa.create_metric(f"{kind}-{name}", weights=tmp_path / "checkpoint")
    assert metric.dimensions == ("authenticity",)
    assert metric(*images).item() == pytest.approx(expected, rel=1e-5)
    assert not [key for key in metric.state_dict() if "classifier" in key or "last_linear" in key]
    if name == "resnet18":  # the trap: torchvision's ReLU would give other features
        plain, _ = theirs(name, kind, nn.ReLU())
        plain.load_state_dict(backbone.state_dict())
        with torch.no_grad():
            away = (plain(pipeline(images[0], name)) - features[:, :512]).abs().max()
        assert away > 1e-3 * features.abs().max()


def test_what_a_converted_checkpoint_says_of_itself(small: Path, tmp_path: Path) -> None:
    metric = aigciqa.convert_checkpoint(
        small, metric="fr-resnet18", dimension="overall", output=tmp_path / "checkpoint", license="MIT"
    )
    config = metric.config
    assert config.options == {"negative_slope": 0.01}
    assert config.score_ranges == {"overall": (0, 15)}
    assert (config.license, config.training["epoch"], config.training["rho_best"]) == ("MIT", 17, 0.8125)
    assert config.training["script"] == "github.com/jiquan123/AIGIQA4K"
    card = (tmp_path / "checkpoint" / "README.md").read_text()
    assert "| rho_best | 0.8125 |" in card
    assert "license: mit" in card


def test_keys_of_a_data_parallel_model(tmp_path: Path) -> None:
    backbone, regressor = theirs("resnet18", "nr")
    states = collections.OrderedDict((f"module.{key}", value) for key, value in backbone.state_dict().items())
    file = save(tmp_path / "nr.pt", backbone, regressor, backbone=states)
    metric = aigciqa.convert_checkpoint(file, metric="nr-resnet18", dimension="quality", output=tmp_path / "checkpoint")
    assert torch.equal(metric.backbone.state_dict()["conv1.weight"], backbone.state_dict()["conv1.weight"])


def test_what_was_there_stays(small: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"metric": "fr-resnet18", "dimension": "quality", "output": tmp_path / "checkpoint"}
    aigciqa.convert_checkpoint(small, **arguments)
    before = (tmp_path / "checkpoint" / "config.json").read_bytes()
    with pytest.raises(OutputExistsError, match="holds a checkpoint already"):
        aigciqa.convert_checkpoint(small, **{**arguments, "dimension": "overall"})
    assert (tmp_path / "checkpoint" / "config.json").read_bytes() == before
    aigciqa.convert_checkpoint(small, **{**arguments, "dimension": "overall"}, overwrite=True)
    assert (tmp_path / "checkpoint" / "config.json").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"metric": "nr-resnet18"}, aigciqa.CheckpointError, r"reads 1024 features, as fr-resnet18 does; nr-resnet18"),
        ({"metric": "fr-vgg16"}, aigciqa.CheckpointError, "lacks 'backbone.features.0.bias'"),
        ({"metric": "fr-lite"}, ValueError, "does not train fr-lite"),
        ({"metric": "fr-resnet"}, ValueError, "did you mean"),
        ({"dimension": "beauty"}, ValueError, "dimension is one of quality"),
    ],
)
def test_wrong_words_for_a_right_file(
    small: Path, tmp_path: Path, arguments: dict[str, str], kind: type[Exception], words: str
) -> None:
    right: dict[str, Any] = {"metric": "fr-resnet18", "dimension": "quality"}
    with pytest.raises(kind, match=words):
        aigciqa.convert_checkpoint(small, **{**right, **arguments}, output=tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()


class Evil:
    """Runs a command when it is unpickled the ordinary way."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch escaped",)


def test_nothing_in_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"backbone": {}, "regressor": {}, "optimizer": Evil()}, "evil.pt")
    torch.save({"backbone": Evil()}, "old.pt", _use_new_zipfile_serialization=False)
    for name in ("evil.pt", "old.pt"):
        with pytest.raises(aigciqa.CheckpointError, match=r"refers to the code \w+.system, and is not read"):
            aigciqa.convert_checkpoint(name, metric="nr-resnet18", dimension="quality", output="checkpoint")
        with pytest.raises(aigciqa.CheckpointError, match=r"refers to the code \w+.system"):
            aigciqa.load_imagenet(aigciqa.create_metric("nr-resnet18", weights=None), name)
    assert not Path("escaped").exists()


def test_names_in_an_archive_do_not_climb_out_of_it(small: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(small, "a") as archive:
        archive.writestr("fr/../../../escaped", b"evil")
    folder = tmp_path / "deep" / "checkpoint"
    aigciqa.convert_checkpoint(small, metric="fr-resnet18", dimension="quality", output=folder)
    assert {path.name for path in folder.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert not list(tmp_path.rglob("escaped"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04 no archive", "damaged"),
        ({"state_dict": {}}, "expected 'backbone' and 'regressor', it holds state_dict"),
        ([1, 2], "it holds list"),
        ({"backbone": 3, "regressor": {}}, "'backbone' is not a state dict"),
        (None, "No such file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: Any, words: str, tmp_path: Path) -> None:
    file = tmp_path / "file.pt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(aigciqa.CheckpointError, match=words):
        aigciqa.convert_checkpoint(file, metric="nr-resnet18", dimension="quality", output=tmp_path / "checkpoint")


def test_a_truncated_checkpoint_is_refused(small: Path, tmp_path: Path) -> None:
    small.write_bytes(small.read_bytes()[:-1000])
    with pytest.raises(aigciqa.CheckpointError, match="damaged"):
        aigciqa.convert_checkpoint(small, metric="fr-resnet18", dimension="quality", output=tmp_path / "checkpoint")


def test_the_command(small: Path, tmp_path: Path) -> None:
    arguments = [str(small), "-m", "fr-resnet18", "-d", "quality", "-o", str(tmp_path / "checkpoint")]
    done = CliRunner().invoke(convert_command, arguments)
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "checkpoint")), done.stderr
    assert f"-m fr-resnet18 --weights {tmp_path / 'checkpoint'}" in done.stderr
    again = CliRunner().invoke(convert_command, arguments)
    assert (again.exit_code, "--overwrite" in again.output) == (2, True)
    assert CliRunner().invoke(convert_command, [*arguments, "--overwrite"]).exit_code == 0
    wrong = CliRunner().invoke(convert_command, [*arguments[:2], "nr-resnet18", *arguments[3:], "--overwrite"])
    assert (wrong.exit_code, "reads 1024 features" in wrong.output) == (1, True)
