"""Natural-scene statistics of blocks of an image, in plain torch: what the embedded metrics measure.

Of each block come 144 statistics, at three scales: the distribution of mean-subtracted contrast-normalised (MSCN) luma
and of its neighbour products (the idea of BRISQUE and NIQE, by moment ratios instead of fitted distributions), local
contrast, gradients, the spectrum's shape, periodic patterns, blocking, colour.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

#: Side of a block in pixels.
BLOCK = 96
SCALES = 3
BANDS = 18
#: The first bands hold a coefficient or none: what they say is left to the luma's own deviation.
BANDS_SKIPPED = 5
#: How many statistics `block_statistics` gives; a constant, so that a metric is built without computing.
STATISTICS = 144
#: Variance of an 8-bit image's rounding and a little more: what is below it is not seen.
FLOOR = 0.25
#: Positions among the statistics of the mean log contrast, of the ratio of second differences to gradients, and of the
#: share of flat positions.
TEXTURE, SHARPNESS, FLATNESS = 0, 30, 143


def block_statistics(blocks: Tensor) -> Tensor:
    """Statistics (N, C), of the order of 1, of blocks (N, 3, 96, 96), RGB in [0, 1]."""
    rgb = 255 * blocks
    luma = luma_of(rgb)
    plane = luma - luma.mean(dim=(1, 2), keepdim=True)
    full = plane
    groups = []
    for scale in range(SCALES):
        if scale:
            plane = _halve(plane)
        groups += [_contrast_statistics(plane), _edge_statistics(plane)]
    groups += [_spectrum_statistics(full), _blocking_statistics(luma), _chroma_statistics(rgb, luma)]
    groups += [_tone_statistics(luma), _saturation_statistics(rgb), _flatness(luma)]
    return torch.cat(groups).T


# Each of the following returns its statistics as (k, N). Speed is the number of operations: what can be done to several
# planes at once is.


def _contrast_statistics(plane: Tensor) -> Tensor:
    """MSCN values, their products with neighbours, and local contrast, of planes (N, n, n)."""
    blur = _GAUSSIAN[plane.shape[-1]].to(plane.device)
    deviation = plane - blur @ plane @ blur.T
    contrast = (blur @ (deviation * deviation) @ blur.T + FLOOR).sqrt()
    local = _log_contrast_statistics(contrast)
    return torch.cat([local, _normal_statistics(deviation / (contrast + 1))])


def _log_contrast_statistics(contrast: Tensor) -> Tensor:
    """Mean, deviation and skew of the logarithm, and the mean of the inverse."""
    log_contrast = contrast.log()
    mean = _mean(log_contrast)
    centred = log_contrast - mean[:, None, None]
    squared = centred * centred
    variance, third = _mean(squared), _mean(squared * centred)
    return torch.stack(
        [
            mean,
            (variance + 1e-4).sqrt(),
            third / (variance + 1e-2) ** 1.5,
            -_mean(contrast.reciprocal()).log(),
        ]
    )


def _normal_statistics(normal: Tensor) -> Tensor:
    """Moments of the MSCN values and of their products with neighbours, one to three pixels away."""
    square = normal * normal
    energy = _mean(square)
    moments = torch.stack(
        [
            0.5 * (energy + 1e-3).log(),
            ((_mean(normal.abs()).square() + 1e-4) / (energy + 1e-4)).log(),
            ((_mean_square(square) + 1e-4) / (energy * energy + 1e-4)).log(),
            _mean(square * normal) / (energy + 1e-2) ** 1.5,
        ]
    )
    further = [_mean(normal[:, :, lag:] * normal[:, :, :-lag]) for lag in (2, 3)]
    further += [_mean(normal[:, lag:] * normal[:, :-lag]) for lag in (2, 3)]
    return torch.cat([moments, _product_statistics(normal), torch.stack(further) / (energy + 1e-2)])


def _product_statistics(normal: Tensor) -> Tensor:
    """Products of MSCN values with their neighbours: right, below, and both diagonals."""
    inner = normal[:, 1:-1, 1:-1]
    around = (normal[:, 1:-1, 2:], normal[:, 2:, 1:-1], normal[:, 2:, 2:], normal[:, 2:, :-2])
    moments = []
    for other in around:
        products = inner * other
        sizes = products.abs()
        moments.append(torch.stack([_mean(products), _mean(sizes), _mean_square(products), _mean(sizes * products)]))
    mean, size, energy, signed = torch.stack(moments, dim=1)
    positive, negative = 0.5 * (energy + signed), functional.relu(0.5 * (energy - signed))
    shape = ((size * size + 1e-4) / (energy + 1e-4)).log()
    return torch.cat([shape, 0.5 * (positive + 1e-3).log(), 0.5 * (negative + 1e-3).log(), mean])


def _edge_statistics(plane: Tensor) -> Tensor:
    """Gradients and second differences of planes (N, n, n)."""
    right, down, gradient = _gradients(plane)
    bend = _bend(plane)
    (mean_fall, fall_spread), (mean_curve, curve_spread) = _log_moments(gradient), _log_moments(bend)
    return torch.stack(
        [
            mean_fall,
            mean_curve - mean_fall,
            (_mean(bend) / _mean(gradient)).log(),
            (_mean(bend * gradient) / (0.25 * (right + down) + FLOOR)).log(),
            ((right + 1) / (down + 1)).log(),
            fall_spread,
            curve_spread,
        ]
    )


def _gradients(plane: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean squares of the differences across (N) and down (N), and sizes of the gradients (N, n - 2, n - 2)."""
    right = plane[:, 1:-1, 2:] - plane[:, 1:-1, :-2]
    down = plane[:, 2:, 1:-1] - plane[:, :-2, 1:-1]
    right, down = right * right, down * down
    return _mean(right), _mean(down), (0.25 * (right + down) + FLOOR).sqrt()


def _bend(plane: Tensor) -> Tensor:
    """Sizes of the Laplacian (N, n - 2, n - 2), with the floor."""
    around = plane[:, 1:-1, 2:] + plane[:, 1:-1, :-2] + plane[:, 2:, 1:-1] + plane[:, :-2, 1:-1]
    second = around.sub(plane[:, 1:-1, 1:-1], alpha=4)
    return (second * second + FLOOR).sqrt()


def _log_moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of the logarithm, of planes."""
    logs = values.log()
    mean = _mean(logs)
    return mean, (_mean_square(logs - mean[:, None, None]) + 1e-4).sqrt()


def _spectrum_statistics(plane: Tensor) -> Tensor:
    """Fall of the spectrum from band to band, and peaks at the periods of decoders' patterns."""
    basis, window, membership, weights = (table.to(plane.device) for table in _SPECTRUM)
    spectrum = basis @ (plane * window) @ basis.T
    energy = spectrum * spectrum
    levels = 0.5 * (energy.flatten(1) @ membership + FLOOR).log()
    lines = torch.cat([energy[:, :, 1:].mean(dim=2), energy[:, 1:].mean(dim=1)], dim=1).reshape(-1, 2, BLOCK)
    peaks = (0.5 * (lines + FLOOR).log()) @ weights.T
    return torch.cat([levels[:, 1:] - levels[:, :-1], levels[:, -1:], peaks.flatten(1)], dim=1).T


def _peak_weights() -> list[list[float]]:
    """Per period a row that subtracts the mean of the DCT coefficients beside its peaks from the peaks' mean."""
    rows = []
    for peaks, sides in (
        ((95, 94), (91, 90, 89, 88)),  # period 2
        ((47, 48, 49), (43, 44, 52, 53)),  # period 4
        ((23, 24, 25, 71, 72, 73), (20, 28, 68, 76)),  # period 8 and its third harmonic
    ):
        inside, beside = 1 / len(peaks), -1 / len(sides)
        rows.append([inside * (i in peaks) + beside * (i in sides) for i in range(BLOCK)])
    return rows


def _spectrum_tables() -> tuple[Tensor, ...]:
    """DCT basis (n, n), window (n, n), shares of the bands (n * n, bands), weights of the peaks (3, n); n = BLOCK."""
    index = torch.arange(BLOCK, dtype=torch.float32)
    basis = torch.cos(math.pi / BLOCK * index[:, None] * (index[None, :] + 0.5)) * math.sqrt(2 / BLOCK)
    window = torch.sin(math.pi / BLOCK * (index + 0.5))
    radius = (index[:, None].square() + index.square()).sqrt()
    band = ((radius + 1).log() * (BANDS / math.log(BLOCK + 1))).floor().clamp(max=BANDS - 1)
    membership = (band.flatten()[:, None] == torch.arange(BANDS_SKIPPED, BANDS)).float()
    weights = torch.tensor(_peak_weights(), dtype=torch.float32)
    return basis, window * window[:, None], membership / membership.sum(0), weights


def _blocking_statistics(luma: Tensor) -> Tensor:
    """Steps between pixels by their phase modulo 8: at JPEG's own phase, and at whichever stands out."""
    across = (luma[:, :, 1:] - luma[:, :, :-1]).abs().mean(dim=1)
    down = (luma[:, 1:] - luma[:, :-1]).abs().mean(dim=2)
    steps = functional.pad(torch.stack([across, down]), (0, 1))
    log_phases = (steps.reshape(2, -1, BLOCK // 8, 8)[:, :, :-1].mean(dim=2) + 0.5).log()
    relative = log_phases - log_phases.mean(dim=2, keepdim=True)
    return torch.cat([relative[:, :, 7], 0.1 * torch.logsumexp(10 * relative, dim=2)])


def _chroma_statistics(rgb: Tensor, luma: Tensor) -> Tensor:
    """Contrast and MSCN values of both chroma planes, at half the size."""
    chroma = _halve(torch.cat([0.564 * (rgb[:, 2] - luma), 0.713 * (rgb[:, 0] - luma)]))
    chroma = chroma - chroma.mean(dim=(1, 2), keepdim=True)
    blur = _GAUSSIAN[chroma.shape[-1]].to(chroma.device)
    deviation = chroma - blur @ chroma @ blur.T
    fine = deviation * deviation
    normal = deviation / ((blur @ fine @ blur.T + FLOOR).sqrt() + 1)
    energy = _mean(normal * normal)
    return torch.stack(
        [
            0.5 * (_mean_square(chroma) + 1).log(),
            0.5 * (_mean(fine) + FLOOR).log(),
            ((_mean(normal.abs()).square() + 1e-4) / (energy + 1e-4)).log(),
            _mean(normal[:, 1:] * normal[:, :-1]) / (energy + 1e-2),
        ]
    ).reshape(8, -1)


def _tone_statistics(luma: Tensor) -> Tensor:
    """Mean, deviation and skew of luma, and how much of it is near black and white."""
    mean = _mean(luma)
    centred = luma - mean[:, None, None]
    squared = centred * centred
    variance = _mean(squared)
    return torch.stack(
        [
            mean / 64 - 2,
            0.5 * (variance + 1).log(),
            _mean(squared * centred) / (variance + 25) ** 1.5,
            _mean(functional.relu(16 - luma)) / 16,
            _mean(functional.relu(luma - 239)) / 16,
        ]
    )


def _saturation_statistics(rgb: Tensor) -> Tensor:
    """Mean and deviation of the saturation."""
    red, green, blue = rgb.unbind(1)
    most, least = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    saturation = (most - least) / 64
    mean = _mean(saturation)
    return torch.stack([mean, (_mean_square(saturation - mean[:, None, None]) + 1e-4).sqrt()])


def _flatness(luma: Tensor) -> Tensor:
    """The share of flat positions (1, N), by a soft count."""
    right, down = luma[:, 1:, 1:] - luma[:, 1:, :-1], luma[:, 1:, 1:] - luma[:, :-1, 1:]
    return 8 * _mean((8 + right * right + down * down).reciprocal())[None]


def _mean(planes: Tensor) -> Tensor:
    return planes.flatten(1).mean(dim=1)


def _mean_square(planes: Tensor) -> Tensor:
    """Mean of the squares of each plane, in one pass."""
    norm: Tensor = torch.linalg.vector_norm(planes.flatten(1), dim=1)
    return norm * norm / (planes.shape[1] * planes.shape[2])


def luma_of(images: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W), ITU-R BT.601."""
    red, green, blue = images.unbind(1)
    return (0.299 * red).add(green, alpha=0.587).add(blue, alpha=0.114)


def _gaussian_matrix(size: int) -> Tensor:
    """Seven-tap Gaussian (sigma 7/6) as a matrix (size, size); near the border what is inside counts."""
    index = torch.arange(size, dtype=torch.float32)
    distance = (index[:, None] - index[None, :]).abs()
    weights = torch.exp(-distance.square() / (2 * (7 / 6) ** 2)) * (distance <= 3)
    return weights / weights.sum(1, keepdim=True)


def _halving_matrix(size: int) -> Tensor:
    """The filter (1, 3, 3, 1) / 8 at every other place, as a matrix (size / 2, size)."""
    index = torch.arange(size, dtype=torch.float32)
    centre = 2 * torch.arange(size // 2, dtype=torch.float32) + 0.5
    weights = (2 - (index[None, :] - centre[:, None]).abs()).clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


def _halve(plane: Tensor) -> Tensor:
    """Planes (N, n, n) reduced to (N, n / 2, n / 2)."""
    weights = _HALVING[plane.shape[-1]].to(plane.device)
    return weights @ plane @ weights.T


# Tables made once, on the CPU whatever the caller's contexts say.
with torch.inference_mode(False), torch.device("cpu"):
    _GAUSSIAN = {BLOCK >> scale: _gaussian_matrix(BLOCK >> scale) for scale in range(SCALES)}
    _HALVING = {BLOCK >> scale: _halving_matrix(BLOCK >> scale) for scale in range(SCALES - 1)}
    _SPECTRUM = _spectrum_tables()
