"""Preprocessing: equal to torchvision's on Pillow images, near it on tensors, for any size and mode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from aigciqa.errors import ImageError
from aigciqa.images.decode import load_image
from aigciqa.images.preprocess import Preprocessor, check_tensor
from aigciqa.registry import METRICS, Preprocess
from tests.conftest import draw

PAPER = ["nr-resnet50", "nr-inceptionv4"]
MODES = ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "YCbCr", "HSV", "I;16"]
sides = st.integers(1, 400)


def torchvisions(image: Image.Image, spec: Preprocess) -> torch.Tensor:
    assert spec.resize is not None
    assert spec.crop is not None
    steps = [
        transforms.Resize(spec.resize),
        transforms.CenterCrop(spec.crop),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
    result: torch.Tensor = transforms.Compose(steps)(image)
    return result


def ours(image: Image.Image, spec: Preprocess) -> torch.Tensor:
    return Preprocessor(spec).normalize(Preprocessor(spec).image(image)[None])[0]


@pytest.mark.parametrize("name", PAPER)
@settings(max_examples=40, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 9))
def test_files_are_preprocessed_as_torchvision_does(name: str, height: int, width: int, seed: int) -> None:
    image = Image.fromarray(draw(height, width, seed))
    spec = METRICS[name].preprocess
    torch.testing.assert_close(ours(image, spec), torchvisions(image, spec), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(256, 256), (257, 999), (999, 257), (1500, 1000), (3, 2000), (320, 320), (319, 321)])
@pytest.mark.parametrize("name", PAPER)
def test_sizes_where_rounding_bites(name: str, size: tuple[int, int]) -> None:
    image = Image.fromarray(draw(*size))
    spec = METRICS[name].preprocess
    torch.testing.assert_close(ours(image, spec), torchvisions(image, spec), rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(height=sides, width=sides, seed=st.integers(0, 9), name=st.sampled_from(["nr-resnet50", "nr-lite"]))
def test_tensors_are_preprocessed_nearly_as_files_are(height: int, width: int, seed: int, name: str) -> None:
    spec = METRICS[name].preprocess
    image = draw(height, width, seed)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None] / 255.0
    preprocessed = Preprocessor(spec).tensor(check_tensor(tensor))[0]
    reference = Preprocessor(spec).image(Image.fromarray(image)) / 255.0
    assert preprocessed.shape == reference.shape
    difference = (preprocessed - reference).abs()
    assert difference.max() < 2.01 / 255  # two roundings to 8 bits, one for each direction
    if spec.eight_bit:
        assert (difference > 1e-4).float().mean() < 0.02  # on the same grid, and almost everywhere on the same level
        assert torch.equal(preprocessed * 255, (preprocessed * 255).round())


@settings(max_examples=80, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 60), mode=st.sampled_from(MODES))
def test_any_mode_becomes_rgb(height: int, width: int, mode: str) -> None:
    rgb = Image.fromarray(draw(height, width))
    image = (
        Image.fromarray(np.asarray(rgb.convert("L")).astype(np.uint16) * 257) if mode == "I;16" else rgb.convert(mode)
    )
    assert image.mode == mode
    loaded = load_image(image)
    assert (loaded.mode, loaded.size) == ("RGB", (width, height))
    if mode not in ("P", "1"):
        expected = rgb.convert("L").convert("RGB") if mode in ("L", "LA", "I;16") else image.convert("RGB")
        assert np.array_equal(np.asarray(loaded), np.asarray(expected))
    assert np.array_equal(np.asarray(image.convert(mode) if mode != "I;16" else image), np.asarray(image))


def test_alpha_is_composited_over_white() -> None:
    pixels = np.zeros((2, 2, 4), np.uint8)
    pixels[..., 0] = 200
    pixels[0, 0, 3], pixels[0, 1, 3], pixels[1, 0, 3] = 255, 0, 128
    loaded = np.asarray(load_image(Image.fromarray(pixels)))
    assert loaded[0, 0].tolist() == [200, 0, 0]
    assert loaded[0, 1].tolist() == [255, 255, 255]
    assert loaded[1, 0].tolist() == [227, 127, 127]


@pytest.mark.parametrize("size", [(256, 256), (300, 301), (70, 90), (512, 1024), (1500, 1000)])
def test_a_bicubic_resize_is_pillows(size: tuple[int, int]) -> None:
    spec = Preprocess(resize=256, crop=224, interpolation="bicubic")
    image = Image.fromarray(255 * (draw(*size) > 128).astype(np.uint8))  # of steps, which bicubic overshoots
    resized = transforms.Resize(256, transforms.InterpolationMode.BICUBIC)(image)
    found = Preprocessor(spec).image(image)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), np.asarray(transforms.CenterCrop(224)(resized)))
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255.0
    preprocessed = Preprocessor(spec).tensor(tensor)
    assert 0 <= float(preprocessed.min()) < float(preprocessed.max()) <= 1
    assert (preprocessed[0] - found / 255.0).abs().max() < 2.01 / 255
    exact = Preprocessor(Preprocess(resize=256, crop=None, eight_bit=True, interpolation="bicubic")).tensor(tensor)
    difference = (exact[0] * 255 - torch.from_numpy(np.array(resized)).permute(2, 0, 1)).abs()
    assert difference.max() < 2.01
    assert (difference > 0.01).float().mean() < 0.02


def test_strips_are_preprocessed_at_the_common_size_within_bounds() -> None:
    spec = METRICS["nr-lite"].preprocess
    for width, height in ((5000, 1), (1, 5000), (5000, 40)):
        preprocessed = Preprocessor(spec).image(Image.new("RGB", (width, height)))
        assert max(preprocessed.shape) == 4096
        assert min(preprocessed.shape[1:]) == max(1, 4096 * min(width, height) // 5000)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (Preprocess(resize=100, crop=224), "300 x 100"),
        (Preprocess(resize=None, crop=301), "900 x 300"),
        (Preprocess(resize=256, crop=224, max_side=450), "450 x 150"),
    ],
)
def test_a_crop_that_the_resized_image_does_not_fill_is_refused(spec: Preprocess, size: str) -> None:
    preprocessor, text = Preprocessor(spec), f"after the resize, {size} is smaller than the centre of {spec.crop} x"
    with pytest.raises(ImageError, match=text):
        preprocessor.image(Image.new("RGB", (900, 300)))
    with pytest.raises(ImageError, match=text):
        preprocessor.tensor(torch.zeros(1, 3, 300, 900))


def test_rounding_to_eight_bits_lets_gradients_through() -> None:
    spec = METRICS["nr-lite"].preprocess
    tensor = torch.rand(1, 3, 30, 40, requires_grad=True)
    Preprocessor(spec).tensor(tensor).sum().backward()
    assert tensor.grad is not None
    assert (tensor.grad > 0).all()
