"""Seeded degradations of an image, each with a strength from 1 (slight) to 5 (severe).

They are what goes wrong in generated, restored and compressed images, drawn on photographs so that a metric can be
trained without a single human judgement.

An image is a float tensor (3, H, W), RGB in [0, 1]; so is what comes back, of the same size, on the 8-bit grid. The
same seed and name give the same image, and the same seed at another strength gives the same flaw made stronger (the
same noise louder, the same warp further), so that strengths of one seed form a ladder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from aigciqa.errors import InputError
from aigciqa.training.lite import image_filters as filters

MIN_STRENGTH, MAX_STRENGTH = 1.0, 5.0
#: (image, strength, generator) -> image, not yet rounded.
Degrade = Callable[[Tensor, float, np.random.Generator], Tensor]
#: Name -> what the degradation does, in a few words; in a fixed order, by which images to train on are drawn.
SUMMARIES: dict[str, str] = {}
_FUNCTIONS: dict[str, Degrade] = {}


@dataclass(frozen=True)
class Step:
    """One link of a chain: a degradation's name, its strength in [1, 5] and its seed."""

    name: str
    strength: float
    seed: int


def names() -> tuple[str, ...]:
    """The names `degrade` takes, in a fixed order.

    Example:
        >>> from aigciqa.training.lite.degradations import names
        >>> names()[:3]
        ('gaussian_blur', 'lens_blur', 'motion_blur')
    """
    return tuple(_FUNCTIONS)


def degrade(image: Tensor, name: str, strength: float, *, seed: int) -> Tensor:
    """Degrade an image.

    Args:
        image: (3, H, W), RGB in [0, 1].
        name: one of `names()`.
        strength: from 1 (slight) to 5 (severe); fractions are fine.
        seed: of its randomness (noise, kernel, direction, positions).

    Returns:
        (3, H, W) in [0, 1], on the 8-bit grid.

    Raises:
        InputError: unknown name, strength outside [1, 5] or a tensor of another shape.

    Example:
        >>> import torch
        >>> from aigciqa.training.lite.degradations import degrade
        >>> grey = torch.full((3, 32, 32), 0.5)
        >>> noisy = degrade(grey, "gaussian_noise", 3, seed=7)
        >>> noisy.shape, bool(noisy.std() > grey.std())
        (torch.Size([3, 32, 32]), True)
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise InputError(f"image has shape {tuple(image.shape)}; expected (3, H, W)")
    if not MIN_STRENGTH <= strength <= MAX_STRENGTH:
        raise InputError(f"strength is {strength}; expected a number from {MIN_STRENGTH:g} to {MAX_STRENGTH:g}")
    if name not in _FUNCTIONS:
        raise InputError(f"unknown degradation {name!r}; expected one of: {', '.join(_FUNCTIONS)}")
    result = _FUNCTIONS[name](image.float(), float(strength), np.random.default_rng(seed))
    return result.clamp(0, 1).mul(255).round().div(255)


def degrade_chain(image: Tensor, steps: Iterable[Step]) -> Tensor:
    """Degrade an image by several steps, one after the other."""
    for step in steps:
        image = degrade(image, step.name, step.strength, seed=step.seed)
    return image


def _degradation(summary: str) -> Callable[[Degrade], Degrade]:
    """Enter a function into the tables, under its name."""

    def add(function: Degrade) -> Degrade:
        name = function.__name__.lstrip("_")
        SUMMARIES[name], _FUNCTIONS[name] = summary, function
        return function

    return add


def _between(strength: float, slight: float, severe: float) -> float:
    """The value at a strength, geometrically between the one at strength 1 and the one at strength 5."""
    return float(slight * (severe / slight) ** ((strength - MIN_STRENGTH) / (MAX_STRENGTH - MIN_STRENGTH)))


# Blur


@_degradation("Gaussian blur, sigma 0.5 to 5 pixels")
def _gaussian_blur(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.gaussian(image, _between(strength, 0.5, 5.0))


@_degradation("out-of-focus disc, radius 0.8 to 8 pixels")
def _lens_blur(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    radius = _between(strength, 0.8, 8.0)
    reach = math.ceil(radius)
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disc = (radius + 0.5 - torch.hypot(axis[:, None], axis[None, :])).clamp(0, 1)
    return filters.convolved(image, disc / disc.sum())


@_degradation("motion blur along a random direction, 2 to 24 pixels long")
def _motion_blur(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    length = _between(strength, 2.0, 24.0)
    angle = rng.uniform(0, math.pi)
    reach = math.ceil(length / 2) + 1
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    along = axis[None, :] * math.cos(angle) + axis[:, None] * math.sin(angle)
    across = -axis[None, :] * math.sin(angle) + axis[:, None] * math.cos(angle)
    line = (length / 2 + 0.5 - along.abs()).clamp(0, 1) * (1 - across.abs()).clamp(0, 1)
    return filters.convolved(image, line / line.sum())


# Resampling

_KERNELS = [Image.Resampling[name] for name in ("BOX", "BILINEAR", "HAMMING", "BICUBIC", "LANCZOS")]


@_degradation("reduced 1.25 to 8 times and enlarged again, each with a random kernel")
def _down_up(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    down, up = _KERNELS[rng.integers(len(_KERNELS))], _KERNELS[rng.integers(1, len(_KERNELS))]
    return filters.resample(image, _between(strength, 1.25, 8.0), down, up)


@_degradation("reduced 1.25 to 6 times and enlarged by pixel repetition")
def _pixelate(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.resample(image, _between(strength, 1.25, 6.0), Image.Resampling.BOX, Image.Resampling.NEAREST)


@_degradation("reduced without filtering 1.25 to 4 times (aliasing) and enlarged by bicubic")
def _alias(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.resample(image, _between(strength, 1.25, 4.0), Image.Resampling.NEAREST, Image.Resampling.BICUBIC)


# Over-smoothing


@_degradation("edge-keeping smoothing (bilateral), range 0.03 to 0.3")
def _bilateral(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.edge_keeping(image, _between(strength, 0.03, 0.3), passes=1 if strength < 3 else 2, reach=3)


@_degradation("repeated edge-keeping smoothing towards flat patches (mean shift), 2 to 8 passes")
def _mean_shift(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.edge_keeping(image, _between(strength, 0.04, 0.14), passes=round(_between(strength, 2, 8)))


@_degradation("median filter, blended in up to 7 x 7 pixels")
def _median(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.rank_filtered(image, _between(strength, 0.4, 3.0), ImageFilter.MedianFilter)


@_degradation("opening or closing (dark or bright detail eaten away), blended in up to 7 x 7 pixels")
def _morphology(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    closing = (ImageFilter.MaxFilter, ImageFilter.MinFilter)
    chosen = closing if rng.random() < 0.5 else closing[::-1]
    return filters.rank_filtered(image, _between(strength, 0.4, 3.0), *chosen)


@_degradation("flat-looking smoothing with the strong edges kept (guided filter), radius 2 to 10 pixels")
def _guided_smooth(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    radius, tolerance = round(_between(strength, 2, 10)), _between(strength, 0.002, 0.2)
    guide = filters.to_luma(image)
    mean_guide, mean_image = filters.box(guide, radius), filters.box(image, radius)
    slope = (filters.box(guide * image, radius) - mean_guide * mean_image) / (
        filters.box(guide * guide, radius) - mean_guide**2 + tolerance
    )
    offset = mean_image - slope * mean_guide
    return filters.box(slope, radius) * guide + filters.box(offset, radius)


@_degradation("painterly patches with crisp borders (Kuwahara filter), blended in up to radius 6 pixels")
def _painterly(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.between_radii(lambda radius: filters.kuwahara(image, radius), _between(strength, 0.6, 6.0))


# Codecs


@_degradation("JPEG, quality 70 to 5")
def _jpeg(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    quality = round(_between(strength, 70, 5))
    return filters.through_codec(image, "JPEG", quality=quality, subsampling=int(rng.integers(0, 3)))


@_degradation("WebP, quality 60 to 1")
def _webp(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return filters.through_codec(image, "WEBP", quality=round(_between(strength, 60, 1)), method=2)


@_degradation("artefact removal: JPEG, quality 50 to 4, its blocks smoothed away")
def _deblocked(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    quality = round(_between(strength, 50, 4))
    coded = filters.through_codec(image, "JPEG", quality=quality, subsampling=int(rng.integers(1, 3)))
    return filters.edge_keeping(coded, _between(strength, 0.03, 0.12), passes=1, reach=3)


# Noise


@_degradation("Gaussian noise, standard deviation 3 to 50 levels of 255")
def _gaussian_noise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return image + _between(strength, 3, 50) / 255 * filters.white_noise(rng, image.shape)


@_degradation("grain of luma alone, 3 to 40 levels, 1 to 2 pixels wide")
def _grain(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    width = rng.uniform(0.4, 1.2)
    grain = filters.gaussian(filters.white_noise(rng, (1, *image.shape[1:])), width)
    return image + _between(strength, 3, 40) / 255 * grain / grain.std()


@_degradation("coloured blotches (chroma noise), 5 to 60 levels")
def _chroma_noise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    blotches = filters.gaussian(filters.white_noise(rng, image.shape), rng.uniform(0.6, 2.5))
    blotches = blotches - filters.to_luma(blotches)
    return image + _between(strength, 5, 60) / 255 * blotches / blotches.std()


@_degradation("speckle (noise in proportion to brightness), 4% to 60%")
def _speckle(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return image * (1 + _between(strength, 0.04, 0.6) * filters.white_noise(rng, image.shape))


@_degradation("salt and pepper on 0.2% to 15% of the pixels")
def _impulse_noise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    chance = torch.from_numpy(rng.random(image.shape[1:], dtype=np.float32))
    salt = torch.from_numpy(rng.random(image.shape[1:], dtype=np.float32)) < 0.5
    return torch.where(chance < _between(strength, 0.002, 0.15), salt.float(), image)


# Sharpening and ringing


@_degradation("unsharp mask, amount 0.4 to 6")
def _oversharpen(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    return image + _between(strength, 0.4, 6.0) * (image - filters.gaussian(image, rng.uniform(0.8, 2.0)))


@_degradation("ideal low-pass (sinc) with its ringing, cut-off 0.8 to 0.12 of the band")
def _ringing(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    cut = _between(strength, 0.8, 0.12)
    height, width = image.shape[1:]
    pad = min(32, height - 1, width - 1)
    padded = functional.pad(image[None], (pad,) * 4, mode="reflect")[0]
    spectrum = torch.fft.rfft2(padded)
    rows = torch.fft.fftfreq(padded.shape[1])[:, None] * 2
    columns = torch.fft.rfftfreq(padded.shape[2])[None, :] * 2
    kept: Tensor = torch.fft.irfft2(spectrum * (torch.hypot(rows, columns) <= cut), s=padded.shape[1:])
    return kept[:, pad : pad + height, pad : pad + width]


# Colour


@_degradation("palette of 96 to 5 colours, without dithering")
def _quantise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    colours = round(_between(strength, 96, 5))
    pil = filters.to_pil(image).quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    return filters.from_pil(pil.convert("RGB"))


@_degradation("banding: 40 to 4 levels per channel")
def _posterise(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    steps = _between(strength, 40, 4) - 1
    return (image * steps).round() / steps


# Geometry


@_degradation("random local warp, displacement 1 to 12 pixels")
def _warp(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    scale = rng.uniform(4, 9)
    flow = filters.gaussian(filters.white_noise(rng, (2, *image.shape[1:])), scale)
    flow = flow / flow.square().mean().sqrt().clamp_min(1e-6)
    return filters.displace(image, flow * _between(strength, 1.0, 12.0) / 1.5)


@_degradation("three swirls, turned by 0.3 to 4 radians")
def _swirl(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    height, width = image.shape[1:]
    rows = torch.arange(height, dtype=torch.float32)[:, None]
    columns = torch.arange(width, dtype=torch.float32)[None, :]
    flow = torch.zeros(2, height, width)
    for _ in range(3):
        centre_row, centre_column = rng.uniform(0.2, 0.8, 2) * (height, width)
        radius = rng.uniform(0.12, 0.3) * min(height, width)
        angle = rng.choice((-1, 1)) * _between(strength, 0.3, 4.0)
        down, right = rows - centre_row, columns - centre_column
        turn = angle * torch.exp(-(down**2 + right**2) / (0.5 * radius**2))
        flow[0] += right * turn.sin() + down * (turn.cos() - 1)
        flow[1] += right * (turn.cos() - 1) - down * turn.sin()
    return filters.displace(image, flow)


@_degradation("small patches swapped with neighbours, on 3% to 60% of the image")
def _patch_shuffle(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    height, width = image.shape[1:]
    side = min(int(rng.integers(8, 21)), height, width)
    result = image.clone()
    rows, columns = height // side, width // side
    count = rows * columns
    order, shifts = rng.permutation(count), rng.integers(-side, side + 1, (count, 2))
    swapped = math.ceil(_between(strength, 0.03, 0.6) * count)
    for index, (down, right) in zip(order[:swapped], shifts[:swapped], strict=True):
        top, left = int(index) // columns * side, int(index) % columns * side
        source_top = min(max(top + int(down), 0), height - side)
        source_left = min(max(left + int(right), 0), width - side)
        patch = image[:, source_top : source_top + side, source_left : source_left + side]
        result[:, top : top + side, left : left + side] = patch
    return result


# What decoders and generators leave


@_degradation("overlapping block transforms with coarse coefficients (the loss of an autoencoder)")
def _block_loss(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    step = _between(strength, 0.08, 1.0)
    side = int(rng.choice((8, 16)))
    return (filters.quantised_blocks(image, side, 0, step) + filters.quantised_blocks(image, side, side // 2, step)) / 2


@_degradation("checkerboard of period 2 or 4, amplitude 2 to 32 levels, on the textured parts")
def _checkerboard(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    half = int(rng.choice((1, 2)))
    rows, columns = (torch.arange(length) // half for length in image.shape[1:])
    board = ((rows[:, None] + columns) % 2).float() * 2 - 1
    activity = filters.gaussian((filters.to_luma(image) - filters.gaussian(filters.to_luma(image), 2)).abs(), 4)
    mask = 0.3 + 0.7 * activity / (activity + activity.mean() + 1e-6)
    return image + _between(strength, 2, 32) / 255 * board * mask


@_degradation("the look of super-resolution: reduced 1.5 to 6 times, enlarged, smoothed and sharpened")
def _super_resolution(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    small = filters.resample(image, _between(strength, 1.5, 6.0), Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)
    smooth = filters.edge_keeping(small, 0.08, passes=2)
    return smooth + rng.uniform(1.0, 2.0) * (smooth - filters.gaussian(smooth, 1.5))


@_degradation("the look of a generative upscaler: reduced 1.25 to 5 times, enlarged, edges drawn anew")
def _upscaler(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    factor = _between(strength, 1.25, 5.0)
    enlarged = filters.resample(image, factor, Image.Resampling.BICUBIC, Image.Resampling.BICUBIC)
    return filters.shock(enlarged, rounds=1 + round(factor), sigma=rng.uniform(0.35, 0.5) * factor)


@_degradation("fine texture replaced by noise of the same spectrum, 20% to all of it")
def _fake_texture(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    base = filters.gaussian(image, 1.5 + 0.5 * strength)
    detail = image - base
    phase = torch.fft.rfft2(filters.white_noise(rng, (1, *image.shape[1:])))
    noise = torch.fft.irfft2(torch.fft.rfft2(detail).abs() * torch.exp(1j * phase.angle()), s=image.shape[1:])
    envelope = filters.gaussian(detail.square().mean(0, keepdim=True), 6).clamp_min(0).sqrt()
    share = min(_between(strength, 0.2, 1.0), 1.0)
    texture: Tensor = share * (noise / noise.std().clamp_min(1e-6) * envelope)
    return base + math.sqrt(1 - share**2) * detail + texture
