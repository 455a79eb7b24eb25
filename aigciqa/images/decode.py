"""From a path, a PIL image or an array to an RGB image, or an error that says why not: never a guess."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from aigciqa.errors import ImageError, InputError
from aigciqa.images import libtiff, plugins
from aigciqa.images.colour import grey_levels, to_srgb
from aigciqa.images.containers import is_whole, without_metadata
from aigciqa.images.reading import MAX_PIXELS, check_length, read_content, read_file_object
from aigciqa.utils.memory import Share

#: Formats that decode without starting another program (EPS would start Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000")
#: Pillow takes time that grows with the square of the width for some formats' rows.
MAX_SIDE = 262_144
#: Pixels from one byte: deflate expands bilevel pixels by 8,256. Only small images may exceed it.
MAX_EXPANSION = 10_000
SMALL_PIXELS = 4096 * 4096
#: What decoding a pixel takes at its peak, by format, as measured; the decoder's own memory and the RGB image included.
BYTES_PER_PIXEL = {"PNG": 12, "BMP": 12, "PPM": 12, "GIF": 12, "JPEG": 16}
MOST_BYTES_PER_PIXEL = 24
#: Pixels are converted in strips of so many, so that no second copy of a large image is made on the way to RGB.
STRIPE_PIXELS = 2**20


def load_image(source: str | os.PathLike[str] | IO[bytes] | Image.Image | np.ndarray) -> Image.Image:
    """Read an image as an RGB PIL image.

    EXIF orientation is applied, alpha composited over white, the first frame of an animation taken; 16-bit, palette,
    bilevel, grey and CMYK images are converted, and colours that an ICC profile or a PNG's gamma names are brought to
    sRGB. Arrays are taken to be in sRGB.

    Args:
        source: path (`~` stands for the home folder), URL of an object store, file object, read from its start, PIL
            image, or uint8 array (H, W), (H, W, 1) or (H, W, 3).

    Raises:
        ImageError: the image can't be read; the message says which and why.
        InputError: an array of another shape.
        TypeError: not an image at all.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    name = name_of(source)
    if isinstance(source, Image.Image):
        with _named_errors(name):  # it may have been opened lazily, and be broken further on
            return _decode(source, name)
    if isinstance(source, (str, os.PathLike)):
        return load_content(read_content(source), name)
    if hasattr(source, "read"):
        return load_content(read_file_object(source), name)
    raise TypeError(
        f"expected a path, file object, PIL image, uint8 array (H, W, 3) or tensor (3, H, W), or a list of them; got "
        f"{type(source).__name__}"
    )


def name_of(source: Any) -> str:
    """What errors call an image, in any form that `load_image` takes."""
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Image.Image):
        return "PIL image"
    return str(getattr(source, "name", "array" if isinstance(source, np.ndarray) else "file object"))


def load_content(data: bytes, name: str, *, at_least: int | None = None, share: Share | None = None) -> Image.Image:
    """Read the bytes of a file as `load_image` reads files.

    Args:
        data: of the whole file.
        name: what errors call it.
        at_least: a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps so many
            pixels: several times as fast, and not quite the same image.
        share: of the memory for decoding, where the caller holds it until it has used the pixels; else it is held until
            they are decoded.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    check_length(name, len(data))
    with _named_errors(name), contextlib.nullcontext(share) if share is not None else Share() as held:
        return _from_bytes(data, name, at_least, held)


@contextlib.contextmanager
def _named_errors(name: str) -> Iterator[None]:
    """Turn whatever Pillow raises into an ImageError of an image."""
    try:
        with _STRICT:
            yield
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image in a format that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise anything on broken data, SyntaxError and struct.error included
        raise ImageError(f"{name}: {_reason(error)}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"image arrays are uint8 in 0..255, height x width x channels; got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise InputError(f"expected an array (H, W, 3), or (H, W) for grey; got shape {array.shape}")
    return Image.fromarray(array).convert("RGB")


def _from_bytes(data: bytes, name: str, at_least: int | None, share: Share) -> Image.Image:
    data, profile = without_metadata(data)
    size = plugins.size_of(data)
    if size is not None:
        _check_expansion(size, len(data), name)
        _check_size(size, name)
        share.take(size[0] * size[1] * MOST_BYTES_PER_PIXEL)
    with _opened(data) as image:
        if size is not None and sorted(size) != sorted(image.size):  # a turned JPEG inside a JPEG XL has them swapped
            raise ImageError(f"{name}: the image has another size than its header says")
        _check_expansion(image.size, len(data), name)
        if profile is not None:
            image.info["icc_profile"] = profile
        if at_least is not None and image.format != "HEIF":  # which would take a thumbnail
            image.draft(None, (at_least, at_least))
        _check_size(image.size, name)
        if size is None:
            share.take(image.width * image.height * BYTES_PER_PIXEL.get(image.format or "", MOST_BYTES_PER_PIXEL))
        decoded = _decode(image, name)
        if not is_whole(image, data):
            raise ImageError(f"{name}: the image is truncated: its data ends early")
        return decoded


def size_of(data: bytes, name: str) -> tuple[int, int]:
    """Width and height as the header of a file says, before it is turned; errors as of `load_content`."""
    with _named_errors(name):
        size = plugins.size_of(data)
        if size is None:
            with _opened(data) as image:
                size = image.size
        return size


def _opened(data: bytes) -> Image.Image:
    """The image of a file, of which no more than its header is decoded, unless it is a JPEG XL."""
    if plugins.format_of(data) is not None:
        return plugins.opened(data)
    return Image.open(io.BytesIO(data), formats=readable_formats())


class _StrictDecoders:
    """While any thread is inside, Pillow raises on truncated images, though the script set `LOAD_TRUNCATED_IMAGES`."""

    def __init__(self) -> None:
        self.lock, self.inside, self.lenient = threading.Lock(), 0, False

    def __enter__(self) -> None:
        with self.lock:
            self.inside += 1
            self.lenient |= ImageFile.LOAD_TRUNCATED_IMAGES
            ImageFile.LOAD_TRUNCATED_IMAGES = False

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if self.inside == 0 and self.lenient:
                ImageFile.LOAD_TRUNCATED_IMAGES, self.lenient = True, False


_STRICT = _StrictDecoders()


@functools.cache
def readable_formats() -> list[str]:
    """The formats that Pillow can read here."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    text = re.sub(r"\s*<_io\.BytesIO object at \w+>", "", str(error)).strip()
    stumbled = isinstance(error, (AssertionError, AttributeError, LookupError, TypeError))  # over what a check missed
    return f"the data is broken ({type(error).__name__})" if stumbled or not text else text


def _check_expansion(size: tuple[int, int], length: int, name: str) -> None:
    """Refuse a file with too many pixels for its bytes."""
    if size[0] * size[1] > max(SMALL_PIXELS, MAX_EXPANSION * length):
        raise ImageError(f"{name}: a decompression bomb: {size[0]} x {size[1]} from {length:,} bytes")


def _check_size(size: tuple[int, int], name: str) -> None:
    shown = f"{size[0]} x {size[1]}"
    if size[0] * size[1] > MAX_PIXELS:
        raise ImageError(f"{name}: {shown} is more than the {MAX_PIXELS:,} pixels allowed")
    if max(size) > MAX_SIDE:
        raise ImageError(f"{name}: {shown} has a side of more than the {MAX_SIDE:,} allowed")
    if 0 in size:
        raise ImageError(f"{name}: {shown} has no pixels")


def _decode(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    if image.format == "TIFF" and image.mode.startswith("I;16") and not _is_plain_16_bits(image):
        raise ImageError(f"{name}: grey of 12 bits, or with white as 0; save it with 8 or 16 bits and black as 0")
    image_format = image.format
    key = _colour_key(image)
    libtiff.load(image)
    image = _upright(image)
    if key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key
    if image.mode in ("I", "F") and not (image.mode == "I" and image_format == "PPM"):
        pixels = f"{image.mode!r} pixels (32 bits)"
        raise ImageError(f"{name}: {pixels} have no agreed range; save it with 8 or 16 bits a channel")
    rows = max(1, STRIPE_PIXELS // image.width)
    if rows >= image.height:
        return _to_rgb(image)
    opaque = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        opaque.paste(_to_rgb(image.crop((0, top, image.width, min(top + rows, image.height)))), (0, top))
    return opaque


def _to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image, or a strip of one, in sRGB over white."""
    if image.mode.startswith("I"):
        image = _from_16_bits(image)
    image = to_srgb(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = image.convert("RGB")
    image.info = {}  # whoever reads it again must not turn or convert it again
    return image


def _colour_key(image: Image.Image) -> Any:
    """The transparent colour, which Pillow leaves as a PNG has it while it brings other depths to 8 bits."""
    key = image.info.get("transparency")
    if image.format == "PNG" and key is not None and isinstance(image, ImageFile.ImageFile) and image.tile:
        raw_mode = image.tile[0][3]
        if raw_mode == "RGB;16B":
            return tuple(level >> 8 for level in key)
        if raw_mode in ("L;2", "L;4"):
            return key * (85 if raw_mode == "L;2" else 17)
    return key


def _is_plain_16_bits(image: Image.Image) -> bool:
    """Whether a TIFF's levels are what Pillow takes them for: 0 to 65535, from black to white."""
    tags, base = image.getexif(), ExifTags.Base
    return tags.get(base.BitsPerSample) in (16, (16,)) and tags.get(base.PhotometricInterpretation) != 0


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    grey = Image.fromarray(grey_levels(image.info).take(levels, mode="clip"))
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels are good: viewers, too, show an image whose EXIF block is broken
        return image
