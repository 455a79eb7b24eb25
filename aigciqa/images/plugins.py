"""Formats that a plugin of Pillow's reads, HEIF (`.heic`) and JPEG XL: the extra `formats` installs them.

They are opened by their plugins' own classes: what `PIL.Image.open` takes elsewhere in the process is not asked.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aigciqa.errors import InputError
from aigciqa.images.chunks import boxes
from aigciqa.utils.extras import needs_extra

if TYPE_CHECKING:
    from PIL import ImageFile

#: Suffix -> the package that reads it.
PLUGINS: Mapping[str, str] = {".heic": "pillow_heif", ".heif": "pillow_heif", ".jxl": "pillow_jxl"}
_JXL_CODESTREAM, _JXL_CONTAINER = b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"
#: Kinds of HEIF by the brand that a file begins with, less those of AVIF, which Pillow reads.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})
#: Aspect ratios that a JPEG XL names by number: width = height * first // second (ISO/IEC 18181-1, D.2).
_JXL_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))
_JXL_SIZE_BITS = (9, 13, 18, 30)


def is_installed(suffix: str) -> bool:
    """Whether files with one of the suffixes of `PLUGINS` can be read here."""
    return importlib.util.find_spec(PLUGINS[suffix]) is not None


def format_of(data: bytes) -> str | None:
    """`"HEIF"` or `"JXL"`, by how a file begins; None for what Pillow has to judge."""
    if data.startswith((_JXL_CODESTREAM, _JXL_CONTAINER)):
        return "JXL"
    length = int.from_bytes(data[:4], "big")
    brands = {data[at : at + 4] for at in (8, *range(16, min(length, 256), 4))}
    return "HEIF" if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS and b"avif" not in brands else None


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG XL, whose plugin decodes at once; None of a HEIF, whose plugin does so when asked."""
    return _jxl_size(data) if format_of(data) == "JXL" else None


def opened(data: bytes) -> ImageFile.ImageFile:
    """A HEIF or JPEG XL, as `PIL.Image.open` would; a broken one raises anything.

    MissingExtraError: its plugin is not installed.
    """
    if format_of(data) == "HEIF":
        with needs_extra("formats", "HEIF images need pillow-heif"):
            from pillow_heif import HeifImageFile
        heif: ImageFile.ImageFile = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
        return heif
    with needs_extra("formats", "JPEG XL images need pillow-jxl-plugin"):
        from pillow_jxl.JpegXLImagePlugin import JXLImageFile
    try:
        image: Any = JXLImageFile(io.BytesIO(data))
    except RuntimeError:
        raise InputError("the JPEG XL data is broken or ends early") from None
    if not image.jpeg:  # the pixels are upright: libjxl turns them as the codestream says, and EXIF is not to count
        image.info.pop("exif", None)
    found: ImageFile.ImageFile = image
    return found


def _jxl_size(data: bytes) -> tuple[int, int]:
    """As the codestream's header says; InputError where there is none."""
    head = data[:16] if data.startswith(_JXL_CODESTREAM) else _jxl_codestream(data)[:16]
    if len(head) < 12 or not head.startswith(_JXL_CODESTREAM):
        raise InputError("the JPEG XL data is broken or ends early")
    bits, at = int.from_bytes(head[2:], "little"), 0

    def read(count: int) -> int:
        nonlocal at
        at += count
        return bits >> (at - count) & ((1 << count) - 1)

    def side() -> int:
        return 8 * (1 + read(5)) if is_small else 1 + read(_JXL_SIZE_BITS[read(2)])

    is_small = read(1)
    height = side()
    ratio = read(3)
    if not ratio:
        return side(), height
    first, second = _JXL_RATIOS[ratio - 1]
    return height * first // second, height


def _jxl_codestream(data: bytes) -> bytes:
    """The start of the codestream in a container's boxes, of which one may hold all or each a part."""
    found = b""
    for kind, _, content, end in boxes(data):
        if kind in (b"jxlc", b"jxlp") and len(found) < 16:
            content += 4 if kind == b"jxlp" else 0
            found += data[content : min(end, content + 16)]
    return found
