"""From a path, a PIL image or an array to an RGB picture, or an error that says why not: never a guess."""

from __future__ import annotations

import functools
import io
import os
import re
import stat
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from aigciqa import remote
from aigciqa.errors import ImageError

#: Formats that decode without starting another program (EPS would start Ghostscript).
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000")
#: Pillow's own limit: twice a quarter gigabyte of RGB pixels.
MAX_PIXELS = 178_956_970
#: Pillow takes time that grows with the square of the width for some formats' rows.
MAX_SIDE = 262_144
#: Pixels from one byte: deflate expands bilevel pixels by 8,256. Only small pictures may exceed it.
MAX_EXPANSION = 10_000
SMALL_PIXELS = 4096 * 4096
#: As many pixels of four 16-bit channels, uncompressed: a longer file is not read at all.
MAX_BYTES = 8 * MAX_PIXELS


def load_image(source: str | os.PathLike[str] | Image.Image | np.ndarray) -> Image.Image:
    """Read a picture as an RGB PIL image.

    EXIF orientation is applied, alpha composited over white, the first frame of an animation taken; 16-bit, palette,
    bilevel, grey and CMYK pictures are converted.

    Args:
        source: path, URL of an object store, PIL image, or uint8 array (H, W), (H, W, 1) or (H, W, 3).

    Raises:
        ImageError: the picture can't be read; the message says which and why.
        TypeError: not a picture at all.
        ValueError: an array of another shape.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        try:
            with _STRICT:
                return _decode(source, "PIL image")
        except ImageError:
            raise
        except Exception as error:  # opened lazily, broken further on
            raise ImageError(f"PIL image: {_reason(error)}") from error
    if isinstance(source, (str, os.PathLike)):
        return load_content(read_content(source), os.fspath(source))
    raise TypeError(
        f"expected a path, PIL image, uint8 array (H, W, 3) or tensor (3, H, W), or a list of them; got "
        f"{type(source).__name__}"
    )


def read_content(source: str | os.PathLike[str], reserve: Callable[[int], object] = lambda size: None) -> bytes:
    """The bytes of a file, or of an object that a URL names.

    Args:
        source: path or URL.
        reserve: called with how many bytes there are, before they are read.

    Raises:
        ImageError: it can't be read, or is longer than any picture allowed.
    """
    if isinstance(source, str) and remote.is_url(source):
        return _fetch(source, reserve)
    return _read(Path(source), reserve)


def load_content(data: bytes, name: str, *, at_least: int | None = None) -> Image.Image:
    """Read the bytes of a file as `load_image` reads files.

    Args:
        data: of the whole file.
        name: what errors call it.
        at_least: a JPEG file may be decoded at 1/2, 1/4 or 1/8 of its size, as long as its short side keeps so many
            pixels: several times as fast, and not quite the same picture.

    Raises:
        ImageError: as `load_image`.
    """
    if not data:
        raise ImageError(f"{name}: the file is empty")
    _check_length(name, len(data))
    try:
        with _STRICT:
            return _from_bytes(data, name, at_least)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not a picture in a format that can be read ({', '.join(FORMATS)})") from None
    except Exception as error:  # decoders raise anything on broken data, SyntaxError and struct.error included
        raise ImageError(f"{name}: {_reason(error)}") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8:
        raise TypeError(f"image arrays are uint8 in 0..255, height x width x channels; got {array.dtype}")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.size == 0 or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)):
        raise ValueError(f"expected an array (H, W, 3), or (H, W) for grey; got shape {array.shape}")
    return Image.fromarray(array).convert("RGB")


def _fetch(url: str, reserve: Callable[[int], object]) -> bytes:
    try:
        with remote.open_file(url) as stream:
            size = stream.size()
            _check_length(url, size)
            reserve(size)
            data: bytes = stream.read(size)
            return data
    except OSError as error:
        raise ImageError(f"{url}: {error.strerror or error}") from error


def _check_length(name: str | Path, length: int) -> None:
    if length > MAX_BYTES:
        raise ImageError(f"{name}: {length:,} bytes are more than the {MAX_BYTES:,} allowed")


def _read(path: Path, reserve: Callable[[int], object]) -> bytes:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{path}: not a regular file")
        _check_length(path, status.st_size)
        reserve(status.st_size)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        if isinstance(error, ImageError):
            raise
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _from_bytes(data: bytes, name: str, at_least: int | None) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        if image.width * image.height > max(SMALL_PIXELS, MAX_EXPANSION * len(data)):
            raise ImageError(f"{name}: a decompression bomb: {image.width} x {image.height} from {len(data):,} bytes")
        if image.format == "PNG":
            image.verify()  # Pillow checks the pixel data's CRCs only here, and the image is spent after it
    with Image.open(io.BytesIO(data), formats=readable_formats()) as image:
        if at_least is not None:
            image.draft(None, (at_least, at_least))
        picture = _decode(image, name)
        if not _is_whole(image, data):
            raise ImageError(f"{name}: the picture is truncated: its data ends early")
        return picture


class _StrictDecoders:
    """While entered, Pillow raises on truncated pictures, even if `ImageFile.LOAD_TRUNCATED_IMAGES` was set.

    Training scripts set it for the whole process. Several threads may be inside at a time.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = 0
        self.lenient = False

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


def _is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether a picture has all its data, for the formats in which Pillow decodes what there is."""
    if image.format == "JPEG2000":
        return _codestream(data).endswith(b"\xff\xd9")  # without the end mark, later tiles may be missing
    if data.startswith((b"P2", b"P3")):
        return data[-1:].isspace()  # else digits of the last number may be missing
    if image.format == "PNG":
        last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
        reached = not image.info.get("interlace") and bool(last_row.any())  # rows without data stay zero
        return reached or _has_all_rows(data)
    return True


def _codestream(data: bytes) -> bytes:
    """The JPEG 2000 codestream of a file, which may lie in a box (ISO/IEC 15444-1, annex I)."""
    if data.startswith(b"\xff\x4f"):
        return data
    start = 0
    while start + 16 <= len(data):
        length, kind, extended = struct.unpack_from(">I4sQ", data, start)
        length = {0: len(data) - start, 1: extended}.get(length, length)
        if kind == b"jp2c" or length < 8:
            return data[start : start + length]
        start += length
    return b""


def _has_all_rows(data: bytes) -> bool:
    """Whether a PNG's pixel data is as long as its header says (the CRCs have been checked)."""
    chunks = list(_png_chunks(data))
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    expected = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    pixels = b"".join(content for kind, content in chunks if kind == b"IDAT")
    return len(zlib.decompressobj().decompress(pixels, expected)) == expected


#: First column and row, and steps across and down, of the passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 8
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        yield kind, data[start + 8 : start + 8 + length]
        start += 12 + length


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


def _decode(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{name}: {image.width} x {image.height} is more than the {MAX_PIXELS:,} pixels allowed")
    if max(image.size) > MAX_SIDE:
        raise ImageError(f"{name}: {image.width} x {image.height} has a side of more than the {MAX_SIDE:,} allowed")
    if 0 in image.size:
        raise ImageError(f"{name}: {image.width} x {image.height} has no pixels")
    if image.format == "TIFF" and image.mode.startswith("I;16") and not _is_plain_16_bits(image):
        raise ImageError(f"{name}: grey of 12 bits, or with white as 0; save it with 8 or 16 bits and black as 0")
    image_format = image.format
    key = _colour_key(image)
    image.load()
    image = _upright(image)
    if key != image.info.get("transparency"):
        image = image.copy()
        image.info["transparency"] = key
    if image.mode.startswith("I;16") or (image.mode == "I" and image_format == "PPM"):
        image = _from_16_bits(image)
    elif image.mode in ("I", "F"):
        raise ImageError(
            f"{name}: {image.mode!r} pixels (32 bits) have no agreed range; save it with 8 or 16 bits a channel"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


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
    tags = image.getexif()
    bits = tags.get(ExifTags.Base.BitsPerSample)
    return bits in (16, (16,)) and tags.get(ExifTags.Base.PhotometricInterpretation) != 0


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image, dtype=np.float64)
    grey = Image.fromarray(np.rint(levels / 257.0).clip(0, 255).astype(np.uint8))  # 65535 = 257 x 255
    if "transparency" in image.info:
        grey.putalpha(Image.fromarray(np.where(levels == image.info["transparency"], 0, 255).astype(np.uint8)))
    return grey


def _upright(image: Image.Image) -> Image.Image:
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if turned else image
    except Exception:  # the pixels are good: viewers, too, show a picture whose EXIF block is broken
        return image
