"""Filters of an image that the degradations are made of. An image is a float tensor (3, H, W), RGB in [0, 1]."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional


def to_luma(image: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114])
    return (image * weights[:, None, None]).sum(0, keepdim=True)


def white_noise(rng: np.random.Generator, shape: tuple[int, ...] | torch.Size) -> Tensor:
    return torch.from_numpy(rng.standard_normal(tuple(shape), dtype=np.float32))


def convolved(image: Tensor, kernel: Tensor) -> Tensor:
    """Every channel filtered by one kernel (k, l) of odd sides, the border repeated."""
    down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
    padded = functional.pad(image[:, None], (right, right, down, down), mode="replicate")
    return functional.conv2d(padded, kernel[None, None])[:, 0]


def gaussian(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    line = torch.exp(-(axis**2) / (2 * sigma**2))
    line = line / line.sum()
    return convolved(convolved(image, line[:, None]), line[None, :])


def box(image: Tensor, radius: int) -> Tensor:
    line = torch.full((2 * radius + 1,), 1 / (2 * radius + 1))
    return convolved(convolved(image, line[:, None]), line[None, :])


def edge_keeping(image: Tensor, tolerance: float, passes: int, reach: int = 2) -> Tensor:
    """Bilateral filter: weights fall with the distance (up to `reach` pixels) and with the difference in colour."""
    height, width = image.shape[1:]
    for _ in range(passes):
        padded = functional.pad(image[None], (reach,) * 4, mode="replicate")[0]
        total, weights = torch.zeros_like(image), torch.zeros(1, height, width)
        for down in range(2 * reach + 1):
            for right in range(2 * reach + 1):
                other = padded[:, down : down + height, right : right + width]
                near = math.exp(-((down - reach) ** 2 + (right - reach) ** 2) / (2 * 2.0**2))
                weight = near * torch.exp(-(other - image).square().mean(0, keepdim=True) / (2 * tolerance**2))
                total += weight * other
                weights += weight
        image = total / weights
    return image


def kuwahara(image: Tensor, radius: int) -> Tensor:
    """Every pixel becomes the mean of that one of the four squares at its corners whose luma varies least."""
    if not radius:
        return image
    height, width = image.shape[1:]
    luma = to_luma(image)
    padded = functional.pad(torch.cat([image, luma, luma * luma])[None], (radius,) * 4, mode="replicate")
    boxes = functional.avg_pool2d(padded, radius + 1, stride=1)[0]
    corners = [boxes[:, y : y + height, x : x + width] for y in (0, radius) for x in (0, radius)]
    squares = torch.stack(corners)
    flattest = (squares[:, 4] - squares[:, 3].square()).argmin(dim=0)
    return squares[:, :3].gather(0, flattest.expand(1, 3, height, width))[0]


def shock(image: Tensor, rounds: int, sigma: float) -> Tensor:
    """Blurred edges made steep: pixels move to their lightest or darkest neighbour, away from the turning point."""
    for _ in range(rounds):
        luma = gaussian(to_luma(image), sigma)
        padded = functional.pad(luma[None], (1,) * 4, mode="replicate")[0]
        around = padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2] + padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1]
        push = 0.6 * torch.tanh(255 * (around - 4 * luma))
        lightest, darkest = (sign * functional.max_pool2d(sign * image, 3, stride=1, padding=1) for sign in (1, -1))
        image = image + torch.where(push > 0, push * (darkest - image), push * (image - lightest))
    return image


def between_radii(filtered_by: Callable[[int], Tensor], radius: float) -> Tensor:
    """What a filter of whole radii makes of an image; between two of them a blend of both."""
    whole = int(radius)
    weaker = filtered_by(whole)
    return weaker + (radius - whole) * (filtered_by(whole + 1) - weaker)


def rank_filtered(image: Tensor, radius: float, *filters: type[ImageFilter.RankFilter]) -> Tensor:
    """Pillow's rank filters, one after the other."""

    def ranked(whole: int) -> Tensor:
        if not whole:
            return image
        pil = to_pil(image)
        for kind in filters:
            pil = pil.filter(kind(2 * whole + 1))  # type: ignore[call-arg]
        return from_pil(pil)

    return between_radii(ranked, radius)


def resample(image: Tensor, factor: float, down: Image.Resampling, up: Image.Resampling) -> Tensor:
    pil = to_pil(image)
    small = (max(1, round(pil.width / factor)), max(1, round(pil.height / factor)))
    return from_pil(pil.resize(small, down).resize(pil.size, up))


def through_codec(image: Tensor, codec: str, **options: int) -> Tensor:
    file = io.BytesIO()
    to_pil(image).save(file, codec, **options)
    return from_pil(Image.open(file).convert("RGB"))


def displace(image: Tensor, flow: Tensor) -> Tensor:
    """Each pixel taken from (down, right) = flow (2, H, W) pixels away, bilinear."""
    height, width = image.shape[1:]
    rows = torch.arange(height, dtype=torch.float32)[:, None] + flow[0]
    columns = torch.arange(width, dtype=torch.float32)[None, :] + flow[1]
    grid = torch.stack(((columns * 2 + 1) / width - 1, (rows * 2 + 1) / height - 1), -1)
    return functional.grid_sample(image[None], grid[None], "bilinear", "border", align_corners=False)[0]


def quantised_blocks(image: Tensor, side: int, shift: int, step: float) -> Tensor:
    """Orthonormal block DCT with a dead zone and a step that grows with frequency, on a grid moved by `shift`."""
    height, width = image.shape[1:]
    bottom, right = (side - (height + shift) % side) % side, (side - (width + shift) % side) % side
    padded = functional.pad(image[None], (shift, right, shift, bottom), mode="replicate")[0]
    blocks = padded.unfold(1, side, side).unfold(2, side, side)
    index = torch.arange(side, dtype=torch.float32)
    basis = torch.cos(math.pi / side * index[:, None] * (index[None, :] + 0.5)) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    steps = step * (0.15 + (index[:, None] + index[None, :]) / side)
    levels = (basis @ blocks @ basis.T) / steps
    restored = basis.T @ (levels.sign() * (levels.abs() + 0.3).floor() * steps) @ basis
    rows, columns = restored.shape[1:3]
    whole = restored.permute(0, 1, 3, 2, 4).reshape(3, rows * side, columns * side)
    return whole[:, shift : shift + height, shift : shift + width]


def to_pil(image: Tensor) -> Image.Image:
    array = image.clamp(0, 1).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(array.contiguous().numpy())


def from_pil(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
