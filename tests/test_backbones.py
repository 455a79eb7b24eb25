"""The backbones against independent builds of the same networks, with copied weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision

from aigciqa.backbones import build_backbone
from tests.conftest import untrained


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16", "vgg19"])
def test_features_equal_torchvisions(name: str) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    ours = build_backbone(name).eval()
    state = {key: value for key, value in theirs.state_dict().items() if not key.startswith(("fc.", "classifier."))}
    ours.load_state_dict(state)  # strict: torchvision's own names fit
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        if name.startswith("vgg"):
            expected = theirs.features(images)
        else:
            theirs.avgpool, theirs.fc = torch.nn.Identity(), torch.nn.Identity()
            expected = theirs(images).view(2, -1, 7, 7)
        maps = ours(images)
    torch.testing.assert_close(maps, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.pool(maps), expected.mean((2, 3)), rtol=1e-5, atol=1e-5)


def test_inceptionv4_equals_timms() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("inception_v4", pretrained=False, num_classes=0).eval()
    ours = untrained("nr-inceptionv4").backbone
    theirs.load_state_dict(ours.state_dict())
    for size in (299, 331):  # pretrainedmodels' own pooling is wrong off 299
        images = torch.randn(1, 3, size, size)
        with torch.no_grad():
            features = ours.pool(ours(images))
            difference = (features - theirs(images)).abs().max() / features.abs().max()
        assert difference < 1e-5


def test_building_inceptionv4_is_seeded_by_the_global_generator_alone() -> None:
    """pretrainedmodels draws random numbers when it is imported, which must not show."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        build_backbone("inceptionv4")
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_efficientnet_lite2_equals_timms() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("tf_efficientnet_lite2", num_classes=0).eval()
    ours = untrained("nr-efficientnet-lite2").backbone
    names = list(theirs.state_dict())  # the same layers in the same order
    theirs.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)))
    for size in ((260, 260), (261, 333), (97, 224)):  # padding depends on the size
        images = torch.randn(1, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(ours(images), theirs.forward_features(images), rtol=1e-5, atol=1e-5)
