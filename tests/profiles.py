"""Small ICC profiles (version 2), and what they mean by their definition."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence

import numpy as np

Chromaticities = Sequence[tuple[float, float]]

D50 = np.array([0.9642, 1.0, 0.8249])
D65 = (0.3127, 0.3290)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def rgb_profile(primaries: Chromaticities, gamma: float | Sequence[int]) -> bytes:
    """Of a display with a white of D65; `gamma` may be a table of 16-bit levels of light."""
    columns = zip((b"rXYZ", b"gXYZ", b"bXYZ"), to_xyz(primaries).T, strict=True)
    curves = ((name, _curve(gamma)) for name in (b"rTRC", b"gTRC", b"bTRC"))
    return _profile(b"RGB ", b"mntr", b"XYZ ", *((name, _xyz(column)) for name, column in columns), *curves)


def grey_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", b"mntr", b"XYZ ", (b"kTRC", _curve(gamma)))


def cmyk_profile(inks: Sequence[tuple[float, float, float]]) -> bytes:
    """Of a press whose inks C, M, Y alone have these CIELAB colours on white paper; any others give black."""
    table = np.zeros((16, 3))
    for corner, lab in zip(itertools.product((0, 1), repeat=4), table, strict=True):
        if sum(corner) == 0:
            lab[:] = 100, 0, 0
        elif sum(corner) == 1 and not corner[3]:
            lab[:] = inks[corner.index(1)]
    encoded = np.stack([table[:, 0] * 652.8, (table[:, 1] + 128) * 256, (table[:, 2] + 128) * 256], axis=1)
    identity = struct.pack(">9i", *(np.eye(3).ravel() * 65536).astype(int))
    ends = struct.pack(">2H", 0, 65535)
    grid = np.rint(encoded).astype(">u2").tobytes()
    lut = b"mft2\0\0\0\0" + bytes((4, 3, 2, 0)) + identity + struct.pack(">2H", 2, 2) + ends * 4 + grid + ends * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", (b"A2B0", lut))


def to_xyz(primaries: Chromaticities) -> np.ndarray:
    """Linear RGB with a white of D65 -> XYZ with a white of D50."""
    white = _of_chromaticity(*D65)
    columns = np.stack([_of_chromaticity(*each) for each in primaries], axis=1)
    adapted = np.linalg.inv(_BRADFORD) @ np.diag((_BRADFORD @ D50) / (_BRADFORD @ white)) @ _BRADFORD
    return adapted @ (columns * np.linalg.solve(columns, white))


def encoded(light: np.ndarray) -> np.ndarray:
    """sRGB levels of linear light in [0, 1] (IEC 61966-2-1)."""
    light = light.clip(0, 1)
    return np.rint(255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055))


def linear(levels: np.ndarray) -> np.ndarray:
    """Light in [0, 1] of sRGB values in [0, 1]."""
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def srgb_levels(xyz: np.ndarray) -> np.ndarray:
    """sRGB levels of XYZ with a white of D50, (..., 3); what sRGB lacks is clipped."""
    return encoded(xyz @ np.linalg.inv(to_xyz(SRGB)).T)


def lab_to_xyz(lab: Sequence[float]) -> np.ndarray:
    y = (lab[0] + 16) / 116
    roots = np.array([y + lab[1] / 500, y, y - lab[2] / 200])
    return D50 * np.where(roots > 6 / 29, roots**3, (roots - 4 / 29) * 3 * (6 / 29) ** 2)


def _of_chromaticity(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _fixed(*numbers: float) -> bytes:
    return struct.pack(f">{len(numbers)}i", *(round(number * 65536) for number in numbers))


def _xyz(values: np.ndarray) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(*values)


def _curve(gamma: float | Sequence[int]) -> bytes:
    levels = (round(gamma * 256),) if isinstance(gamma, (int, float)) else gamma
    return b"curv\0\0\0\0" + struct.pack(f">I{len(levels)}H", len(levels), *levels)


def _profile(space: bytes, kind: bytes, pcs: bytes, *tags: tuple[bytes, bytes]) -> bytes:
    tags = ((b"wtpt", _xyz(D50)), *tags)
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, data in tags:
        table += name + struct.pack(">2I", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4xI4s4s4s12x4s28x", start + len(body), 0x02400000, kind, space, pcs, b"acsp")
    return head + _fixed(*D50) + bytes(48) + table + body
