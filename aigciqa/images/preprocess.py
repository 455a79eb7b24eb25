"""From images and tensors to the pixels a backbone sees.

Two ways lead there. Decoded images go through Pillow and stay 8-bit until the network, so that scores equal those of
the paper authors' torchvision pipeline. Tensors go through torch's antialiased resize, so that gradients reach them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.autograd import forward_ad

from aigciqa.errors import ImageError, InputError
from aigciqa.images.decode import load_image, name_of
from aigciqa.registry import Interpolation, Preprocess

#: A longer strip can't be resized to a common short side: its long side would not fit in memory.
MAX_ASPECT = 1000
#: How far a float tensor may leave [0, 1]: room for the rounding of a resize, none for a wrong range.
RANGE_TOLERANCE = 1e-4
_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Preprocessor:
    """Does what a `Preprocess` says: resize, centre crop, normalisation.

    Attributes:
        spec: a metric's `config.preprocess`.

    Example:
        >>> from PIL import Image
        >>> import aigciqa
        >>> from aigciqa.images.preprocess import Preprocessor
        >>> preprocessor = Preprocessor(aigciqa.metric_info("nr-resnet50").preprocess)
        >>> pixels = preprocessor.image(Image.new("RGB", (640, 480), "white"))
        >>> pixels.dtype, tuple(pixels.shape)
        (torch.uint8, (3, 224, 224))
        >>> round(preprocessor.normalize(pixels[None]).max().item(), 2)  # (1 - 0.406) / 0.225
        2.64
    """

    spec: Preprocess

    def image(self, image: Image.Image) -> Tensor:
        """Resize and crop an RGB image as Pillow and torchvision do: uint8, (3, h, w), channels last in memory."""
        size = _resized(image.height, image.width, self.spec)
        crop, kernel = self.spec.crop, _PILLOW[self.spec.interpolation]
        image = _resize(image, size, kernel) if crop is None else _resize_and_crop(image, size, crop, kernel)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def tensor(self, images: Tensor) -> Tensor:
        """Resize and crop a batch with torch; gradients flow.

        Args:
            images: (B, 3, H, W), floating point in [0, 1] or uint8.

        Returns:
            (B, 3, h, w) in [0, 1].
        """
        images = images.to(torch.float32) / 255.0 if images.dtype == torch.uint8 else images
        height, width = images.shape[-2:]
        size = _resized(height, width, self.spec)
        if self.spec.eight_bit:
            images = _eight_bit(images, size, self.spec.interpolation)
        elif size != (height, width):
            images = _resize_floats(images, size, self.spec.interpolation)
        if self.spec.crop is not None:
            top, left = _crop_origin(size, self.spec.crop)
            images = images[..., top : top + self.spec.crop, left : left + self.spec.crop]
        return images

    def normalize(self, images: Tensor) -> Tensor:
        """Bring pixels to [0, 1], subtract the mean and divide by the standard deviation.

        Args:
            images: (B, 3, h, w), uint8 or floating point in [0, 1].

        Returns:
            float32 (B, 3, h, w).
        """
        levels = 255.0 if images.dtype == torch.uint8 else 1.0
        images = images.to(torch.float32)
        if self.spec.mean == (0.0, 0.0, 0.0) and self.spec.std == (1.0, 1.0, 1.0):
            return images if levels == 1.0 else images / levels
        std = images.new_tensor(self.spec.std).view(3, 1, 1)
        shift = -images.new_tensor(self.spec.mean).view(3, 1, 1) / std
        return torch.addcmul(shift, images, 1 / (levels * std))

    def batches(self, images: Any, device: torch.device) -> list[tuple[list[int], Tensor]]:
        """What a backbone sees of images, in any form that `Metric` takes.

        Returns:
            Batches of equal shape on the device, float32 (B, 3, h, w), each with the positions of its images.

        Raises:
            TypeError, InputError, ImageError: as calling a `Metric`.
        """
        if isinstance(images, Tensor):
            pixels = self._preprocessed(images, device)
            return [(list(range(pixels.shape[0])), pixels)]
        listed = [self._preprocessed(image, device) for image in as_list(images)]
        for index, pixels in enumerate(listed):
            if pixels.shape[0] != 1:
                raise InputError(f"a list holds single images (3, H, W); item {index} is a batch of {len(pixels)}")
        return by_shape(listed)

    def _preprocessed(self, image: Any, device: torch.device) -> Tensor:
        """One image, or a batch in one tensor, as the backbone sees it: (B, 3, h, w)."""
        if isinstance(image, Tensor):
            pixels = self.tensor(on_device(check_tensor(image), device))
        else:
            decoded = load_image(image)
            try:
                pixels = on_device(self.image(decoded)[None], device)
            except ImageError as error:
                raise ImageError(f"{name_of(image)}: {error}") from None
        return self.normalize(pixels)

    def visible_box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """The part of an image that the backbone sees: (left, top, right, bottom) in the image's own pixels."""
        if self.spec.crop is None:
            return 0.0, 0.0, float(width), float(height)
        left, top, right, bottom = _crop_box(height, width, _resized(height, width, self.spec), self.spec.crop)
        return float(left), float(top), float(right), float(bottom)


def check_tensor(images: Tensor) -> Tensor:
    """Check a tensor of images, as `Metric` takes them, and bring it to (B, 3, H, W), values as they came.

    Raises:
        TypeError: another dtype.
        InputError: another shape, an empty batch, NaN, infinity or values outside the range.
    """
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"image tensors are floating point in [0, 1] or uint8 in 0..255; got {images.dtype}")
    shape = tuple(images.shape)
    if images.dim() == 3:
        images = images.unsqueeze(0)
    if images.dim() != 4:
        raise InputError(f"expected a tensor (B, 3, H, W) or (3, H, W); got shape {shape}")
    if images.shape[1] not in (1, 3):
        hint = "; move the channels first with .permute(2, 0, 1)" if shape[-1] in (1, 3) else ""
        raise InputError(f"expected 3 channels (RGB) or 1 (grey); got {images.shape[1]} in shape {shape}{hint}")
    if 0 in shape:
        raise InputError(f"nothing to score: empty tensor of shape {shape}")
    if images.is_floating_point() and not torch.compiler.is_compiling():
        _check_range(images)
    return images.expand(-1, 3, -1, -1)


def on_device(images: Tensor, device: torch.device) -> Tensor:
    """Images on a device, float32 unless they are uint8."""
    dtype = torch.uint8 if images.dtype == torch.uint8 else torch.float32
    return recordable(images).to(device, dtype)  # in one step: mps has no float64


def recordable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy for gradients where it comes out of `torch.inference_mode`, which bars it from graphs."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():  # a graph that is compiled can't ask
        return tensor
    return tensor.clone() if tensor.is_inference() else tensor


def as_list(images: Any) -> list[Any]:
    """One image or a list of images -> a list of images."""
    if isinstance(images, (list, tuple)):
        if not images:
            raise InputError("nothing to score: empty list")
        return list(images)
    return [images]


def by_shape(images: Iterable[Tensor]) -> list[tuple[list[int], Tensor]]:
    """Tensors (1, ...) of any shapes -> batches of equal shape, each with the positions of its images."""
    groups: dict[torch.Size, list[tuple[int, Tensor]]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append((index, image))
    return [([index for index, _ in group], torch.cat([image for _, image in group])) for group in groups.values()]


def _check_range(images: Tensor) -> None:
    low, high = (float(value) for value in torch.aminmax(images.detach()))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise InputError("image tensor holds NaN or infinity")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        if low >= 0 and high <= 255:
            hint = "divide by 255, or pass uint8"
        elif low >= -1 - RANGE_TOLERANCE and high <= 1 + RANGE_TOLERANCE:
            hint = "it looks like [-1, 1]: use (x + 1) / 2"
        else:
            hint = "bring it to [0, 1], for example with .clamp(0, 1)"
        raise InputError(f"float image tensors are in [0, 1]; got values from {low:.4g} to {high:.4g}; {hint}")


def _resized(height: int, width: int, spec: Preprocess) -> tuple[int, int]:
    """Height and width after the resize, rounded down as torchvision's Resize rounds them."""
    if spec.resize is None:
        return height, width
    short, long = min(height, width), max(height, width)
    new_short, new_long = spec.resize, int(spec.resize * long / short)
    if spec.max_side is not None and new_long > spec.max_side:
        new_short, new_long = max(1, int(spec.max_side * short / long)), spec.max_side
    elif long > MAX_ASPECT * short:
        raise ImageError(f"{width} x {height} is a strip of more than {MAX_ASPECT}:1; cut it before scoring")
    return (new_short, new_long) if height <= width else (new_long, new_short)


def _resize(image: Image.Image, size: tuple[int, int], kernel: Image.Resampling) -> Image.Image:
    same = size == (image.height, image.width)
    return image if same else image.resize((size[1], size[0]), kernel)


def _resize_and_crop(image: Image.Image, size: tuple[int, int], crop: int, kernel: Image.Resampling) -> Image.Image:
    """The centre of the resized image; where nothing has to be rounded for it, the rest is not even computed."""
    down, across = Fraction(image.height, size[0]), Fraction(image.width, size[1])
    box = _crop_box(image.height, image.width, size, crop)
    if down == across >= 1 and all(_is_exact(value) for value in (down, across, *box)):
        x0, y0, x1, y1 = (float(value) for value in box)
        return image.resize((crop, crop), kernel, box=(x0, y0, x1, y1))
    top, left = _crop_origin(size, crop)
    return _resize(image, size, kernel).crop((left, top, left + crop, top + crop))


def _crop_box(height: int, width: int, size: tuple[int, int], crop: int) -> tuple[Fraction, ...]:
    """The centre of an image resized to `size`, in the image's own pixels: left, top, right, bottom."""
    down, across = Fraction(height, size[0]), Fraction(width, size[1])
    top, left = _crop_origin(size, crop)
    return left * across, top * down, (left + crop) * across, (top + crop) * down


def _is_exact(value: Fraction) -> bool:
    """Whether Pillow, which keeps corners of boxes as 32-bit floats, computes with just this value."""
    return bool(Fraction(float(np.float32(float(value)))) == value)


def _crop_origin(size: tuple[int, int], crop: int) -> tuple[int, int]:
    if min(size) < crop:
        seen = f"the centre of {crop} x {crop} that the metric sees"
        raise ImageError(f"after the resize, {size[1]} x {size[0]} is smaller than {seen}")
    return round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)


def _resize_floats(images: Tensor, size: tuple[int, int], mode: Interpolation) -> Tensor:
    if mode == "bilinear":
        return _interpolate(images, size, mode)
    # Bicubic overshoots, which Pillow's 8 bits cut off in each pass.
    across = _interpolate(images, (images.shape[-2], size[1]), mode).clamp(0, 1)
    return _interpolate(across, size, mode).clamp(0, 1)


def _interpolate(images: Tensor, size: tuple[int, int], mode: Interpolation) -> Tensor:
    return F.interpolate(images, size=size, mode=mode, antialias=True, align_corners=False)


def _eight_bit(images: Tensor, size: tuple[int, int], mode: Interpolation) -> Tensor:
    """Resize to multiples of 1 / 255, as a file's pixels are; the gradient passes as if nothing were rounded."""
    exact = _eight_bit_exact(images.detach(), size, mode).div_(255.0)
    if not _has_derivatives(images):
        return exact
    smooth = images if images.shape[-2:] == size else _resize_floats(images, size, mode)
    return smooth + (exact - smooth).detach()


def _has_derivatives(images: Tensor) -> bool:
    """Whether gradients are to flow back to images, or a tangent (`torch.func.jvp`) comes with them."""
    if torch.is_grad_enabled() and images.requires_grad:
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad.unpack_dual(images).tangent is not None  # type: ignore[no-untyped-call]


def _eight_bit_exact(images: Tensor, size: tuple[int, int], mode: Interpolation) -> Tensor:
    """Levels 0 to 255; on the CPU by torch's integer resize, which imitates Pillow's and is much faster than floats."""
    levels = (images * 255.0).add_(0.5).floor_()  # halves go upwards
    height, width = images.shape[-2:]
    if size == (height, width):
        return levels
    if images.device.type == "cpu":
        return _interpolate(levels.to(torch.uint8), size, mode).to(images.dtype)
    across = levels  # Pillow's order: across, then down, each pass rounded
    if size[1] != width:
        across = _rounded(_interpolate(across, (height, size[1]), mode))
    return _rounded(_interpolate(across, size, mode)) if size[0] != height else across


def _rounded(levels: Tensor) -> Tensor:
    return levels.add_(0.5).floor_().clamp_(0, 255)
