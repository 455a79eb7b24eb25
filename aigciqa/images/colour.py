"""From the colours that a file's ICC profile or gamma names to sRGB, in which the metrics' opinions were given."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from PIL import Image

#: A longer profile is ignored; those of presses take up to 3 MB.
MAX_PROFILE = 4 * 2**20
#: A profile that moves no colour by more levels than this is sRGB, as someone else rounded it: it changes nothing.
SRGB_LEVELS = 2
#: A gamma this close to sRGB's 1/2.2 is meant to be it (as libpng has it); beyond the range it is no gamma.
GAMMA_TOLERANCE = 0.05
GAMMA_RANGE = (0.1, 10.0)
#: Profiles remembered, with what they do.
_REMEMBERED = 8

#: An image in the mode L, RGB or CMYK, without alpha -> the image in sRGB: L or RGB.
_Conversion = Callable[[Image.Image], Image.Image]

_GREYS = np.arange(65536, dtype=np.uint16)
#: 65,535 is 257 x 255.
_AS_THEY_ARE = np.rint(_GREYS / 257.0).astype(np.uint8)


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image of 8 bits from its ICC profile, or else from the gamma of a PNG, to L, LA, RGB or RGBA.

    Its alpha, or transparent colour, is kept. Where there is nothing to convert, the image itself is returned.
    """
    convert = _conversion(image)
    if convert is None:
        return image
    base, alpha = _base(image.mode), None
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        alpha = with_alpha.getchannel("A")
        image = with_alpha if base == "RGB" else image
    converted = convert(image if image.mode == base else image.convert(base))
    converted.info = {}
    if alpha is not None:
        converted.putalpha(alpha)
    return converted


def is_srgb(image: Image.Image) -> bool:
    """Whether `to_srgb` would leave an image, of which no more than the header need have been read, as it is."""
    return _conversion(image) is None


def grey_levels(info: Mapping[Any, Any]) -> np.ndarray:
    """The sRGB level (uint8) of each of the 65,536 levels of a 16-bit grey image with this `info`."""
    if (profile := _profile(info)) is not None:
        return _levels_of_profile(profile)
    gamma = _gamma(info)
    return _AS_THEY_ARE if gamma is None else _levels_of_gamma(gamma)


def _conversion(image: Image.Image) -> _Conversion | None:
    base = _base(image.mode)
    if base == "L":
        levels = grey_levels(image.info)
        return None if levels is _AS_THEY_ARE else functools.partial(_looked_up, levels=levels)
    if (profile := _profile(image.info)) is not None:
        return _transform(profile, base)
    gamma = _gamma(image.info) if base == "RGB" else None
    return None if gamma is None else functools.partial(_looked_up, levels=_levels_of_gamma(gamma))


def _base(mode: str) -> str:
    """The mode in which the colours of an image are converted."""
    return {"1": "L", "L": "L", "LA": "L", "La": "L", "CMYK": "CMYK"}.get(mode, "RGB")


def _profile(info: Mapping[Any, Any]) -> bytes | None:
    profile = info.get("icc_profile")
    return profile if isinstance(profile, bytes) and 0 < len(profile) <= MAX_PROFILE else None


def _gamma(info: Mapping[Any, Any]) -> float | None:
    """The gamma of a PNG, unless it is sRGB's or the file says that it is in sRGB."""
    gamma = info.get("gamma")
    if "srgb" in info or not isinstance(gamma, float) or not GAMMA_RANGE[0] <= gamma <= GAMMA_RANGE[1]:
        return None
    return None if abs(gamma * 2.2 - 1) <= GAMMA_TOLERANCE else gamma


def _looked_up(image: Image.Image, levels: np.ndarray) -> Image.Image:
    return image.point(levels[::257].tolist() * len(image.getbands()))


@functools.lru_cache(_REMEMBERED)
def _levels_of_gamma(gamma: float) -> np.ndarray:
    light = (_GREYS / 65535.0) ** (1 / gamma)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)  # IEC 61966-2-1
    return np.rint(255.0 * encoded).astype(np.uint8)


@functools.lru_cache(_REMEMBERED)
def _levels_of_profile(profile: bytes) -> np.ndarray:
    from PIL import ImageCms

    convert = _built(profile, "I;16", "GRAY", ImageCms.Flags.NOOPTIMIZE)  # which takes short cuts in the shadows
    if convert is None:
        return _AS_THEY_ARE
    levels = np.asarray(convert(Image.fromarray(_GREYS.reshape(256, 256))))[..., 1].reshape(-1)
    return levels if _moves(levels, _AS_THEY_ARE) else _AS_THEY_ARE


@functools.lru_cache(_REMEMBERED)
def _transform(profile: bytes, mode: str) -> _Conversion | None:
    """What a profile does to an image; None if that is nothing, or if it can't be used."""
    from PIL import ImageCms

    convert = _built(profile, mode, f"{mode:4}", ImageCms.Flags.NONE)
    if convert is None or mode != "RGB":
        return convert
    steps = np.linspace(0, 255, 16).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(64, 64, 3)
    return convert if _moves(np.asarray(convert(Image.fromarray(colours))), colours) else None


def _built(profile: bytes, mode: str, space: str, flags: int) -> _Conversion | None:
    """A conversion to sRGB; None if the profile is broken, or not one of images in this mode.

    Relative colorimetric with black point compensation: colours that sRGB has are kept, white becomes white and black
    black. A perceptual rendering would move all colours, each maker's profile in another way.
    """
    from PIL import ImageCms

    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != space:
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        flags |= ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE  # threads share transforms
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        return ImageCms.ImageCmsTransform(source, target, mode, "RGB", intent, flags=flags).apply
    except ImportError:
        warnings.warn("this Pillow was built without littleCMS: ICC profiles are ignored", stacklevel=2)
    except Exception:  # OSError, ValueError, PyCMSError; the pixels are good all the same
        pass
    return None


def _moves(levels: np.ndarray, before: np.ndarray) -> bool:
    return bool(np.abs(levels.astype(np.int16) - before).max() > SRGB_LEVELS)
