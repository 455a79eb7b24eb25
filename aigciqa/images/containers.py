"""The parts of image files: which of them an image depends on, and whether they are all there."""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from aigciqa.errors import InputError
from aigciqa.images.chunks import (
    JPEG_EXIF,
    JPEG_SIGNATURE,
    JPEG_XMP,
    PNG_SIGNATURE,
    PNG_XMP,
    TIFF_SIGNATURES,
    WEBP_HEADER,
    boxes,
    is_webp,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from aigciqa.images.colour import MAX_PROFILE

#: Chunks of a PNG on which its image depends: pixels, transparency, orientation.
_IMAGE = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"eXIf", b"IEND"})
#: Chunks that name its colours, and how long they are at least; a damaged one is as good as none.
_COLOURS = {b"gAMA": 4, b"sRGB": 1, b"iCCP": 3}
#: Chunks whose content is of no interest, so that damage to it does no harm.
_OTHERS = frozenset(
    b"tEXt zTXt iTXt tIME pHYs cHRM cICP mDCV cLLI bKGD hIST sBIT sPLT oFFs pCAL sCAL sTER caBX acTL fcTL fdAT".split()
)
#: Texts in which Pillow finds an orientation, if there is none in eXIf; how long it takes one to be.
_TURNING = {b"iTXt": PNG_XMP + b"\0", b"tEXt": b"Raw profile type exif\0", b"zTXt": b"Raw profile type exif\0"}
_MAX_TEXT = 2**20
#: Segments of a JPEG that matter, and how long they are at least: JFIF, EXIF, XMP, ICC profile, Adobe's transform.
_SEGMENTS = {
    (0xE0, b"JFIF\0"): 14,
    (0xE1, JPEG_EXIF): 6,
    (0xE1, JPEG_XMP): 29,
    (0xE2, b"ICC_PROFILE\0"): 14,
    (0xEE, b"Adobe"): 12,
}
_GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
#: A GIF's graphic control extension: four bytes, which say what is transparent.
_GIF_CONTROL = 0xF9
_JPEG2000_SIGNATURE = b"\0\0\0\x0cjP  \r\n\x87\n"
#: Boxes of a JPEG 2000 file that matter: signature, type, header, pixels.
_BOXES = frozenset({b"jP  ", b"ftyp", b"jp2h", b"jp2c"})
#: Length of a box that names a colour space, at least.
_COLOUR_BOX = 15
#: Text, resolution, XMP, IPTC and Photoshop's data in a TIFF, and the bytes that a value takes, by type.
_TIFF_TEXTS = frozenset({269, 270, 271, 272, 282, 283, 285, 305, 306, 315, 316, 700, 33432, 33723, 34377, 37724})
_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}

#: First column and row, and steps across and down, of the passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: How much is inflated at a time.
_PIECE = 2**16


def without_metadata(data: bytes) -> tuple[bytes, bytes | None]:
    """A file without what its image does not depend on, where Pillow would refuse it for that.

    Pillow reads it all, and refuses a PNG, JPEG, JPEG 2000, TIFF, GIF or WebP for long text and for damaged metadata.

    Returns:
        The file, and the ICC profile of a PNG. One that is truncated, or damaged where it matters, is an InputError.
    """
    if data.startswith(PNG_SIGNATURE):
        return _image_of_png(data)
    if data.startswith(JPEG_SIGNATURE):
        return _image_of_jpeg(data), None
    if data.startswith(_JPEG2000_SIGNATURE):
        return _image_of_jpeg2000(data), None
    if data.startswith(_GIF_SIGNATURES):
        return _image_of_gif(data), None
    if is_webp(data):
        return _image_of_webp(data), None
    return _image_of_tiff(data) if data[:4] in TIFF_SIGNATURES else data, None


def is_whole(image: Image.Image, data: bytes) -> bool:
    """Whether an image has all its data, for the formats in which Pillow decodes what there is."""
    if image.format == "JPEG2000":
        return _codestream(data).endswith(b"\xff\xd9")  # without the end mark, later tiles may be missing
    if data.startswith((b"P2", b"P3")):
        return data[-1:].isspace()  # else digits of the last number may be missing
    if image.format == "PNG":
        last_row = np.asarray(image.crop((0, image.height - 1, image.width, image.height)))
        reached = not image.info.get("interlace") and bool(last_row.any())  # rows without data stay zero
        return reached or _has_all_rows(data)
    return True


def _image_of_png(data: bytes) -> tuple[bytes, bytes | None]:
    view = memoryview(data)
    parts, profile = [view[: len(PNG_SIGNATURE)]], None
    for kind, start, end in png_chunks(data):
        if kind in _OTHERS and not _may_turn(kind, data[start + 8 : start + 8 + 32], end - start):
            continue
        is_sound = zlib.crc32(view[start + 4 : end - 4]) == int.from_bytes(view[end - 4 : end], "big")
        if kind in _COLOURS:
            if is_sound and end - start - 12 >= _COLOURS[kind]:
                if kind == b"iCCP":
                    profile = _inflated(data[start + 8 : end - 4], MAX_PROFILE)
                else:
                    parts.append(view[start:end])
        elif kind in _TURNING:
            if is_sound and (kind != b"zTXt" or _inflated(data[start + 8 : end - 4], _MAX_TEXT) is not None):
                parts.append(view[start:end])
        elif not is_sound:
            raise InputError(f"broken PNG: the checksum of its chunk {kind.decode()} is wrong")
        elif kind in _IMAGE:
            parts.append(view[start:end])
    return _joined(parts, data), profile


def _joined(parts: Sequence[memoryview], data: bytes) -> bytes:
    """Parts of a file in its order; the file itself, rather than a copy, where they are all of it."""
    return data if sum(map(len, parts)) == len(data) else b"".join(parts)


def _may_turn(kind: bytes, content: bytes, length: int) -> bool:
    """Whether a chunk is a text in which there may be an orientation, by its start."""
    return kind in _TURNING and content.startswith(_TURNING[kind]) and length <= _MAX_TEXT


def _inflated(content: bytes, longest: int) -> bytes | None:
    """What is in an iCCP or zTXt chunk (name, 0, method 0, deflated data), unless it is longer."""
    _, _, rest = content.partition(b"\0")
    if rest.startswith(b"\0"):
        with contextlib.suppress(zlib.error):
            inflated = zlib.decompressobj().decompress(rest[1:], longest + 1)
            return inflated if len(inflated) <= longest else None
    return None


def _image_of_jpeg(data: bytes) -> bytes:
    """A JPEG without comments and application segments that don't matter or are too short for what they are."""
    view = memoryview(data)
    parts, rest = [view[:2]], 2
    for marker, start, rest in jpeg_segments(data):
        is_application = 0xE0 <= marker <= 0xEF
        if (not is_application and marker != 0xFE) or any(
            marker == known and data.startswith(name, start + 4) and rest - start - 4 >= shortest
            for (known, name), shortest in _SEGMENTS.items()
        ):
            parts.append(view[start:rest])
    return _joined((*parts, view[rest:]), data)  # pixels, or segments that don't follow each other: left to Pillow


def _image_of_tiff(data: bytes) -> bytes:
    """A TIFF in which entries of its first directory whose text is not in the file are of no known type.

    Pillow reads no directory beyond such an entry.
    """
    order, changed = TIFF_SIGNATURES[data[:4]], None
    (start,) = struct.unpack_from(order + "I", data, 4)
    count = struct.unpack_from(order + "H", data, start)[0] if start + 2 <= len(data) else 0
    for entry in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind, values, where = struct.unpack_from(order + "HHII", data, entry)
        length = values * _TIFF_SIZES.get(kind, 0)
        if tag in _TIFF_TEXTS and length > 4 and where + length > len(data):
            changed = changed or bytearray(data)
            changed[entry + 2 : entry + 4] = b"\0\0"
    return data if changed is None else bytes(changed)


def _image_of_jpeg2000(data: bytes) -> bytes:
    """A JPEG 2000 file without the boxes of metadata, of which openjpeg can't skip long ones.

    In its header, boxes of the resolution and those too short to name a colour space are of no known kind.
    """
    view, changed = memoryview(data), None
    data = _joined([view[start:end] for kind, start, _, end in boxes(data) if kind in _BOXES], data)
    for header, _, first, last in boxes(data):
        for kind, start, _, end in boxes(data, first, last) if header == b"jp2h" else ():
            if kind == b"res " or (kind == b"colr" and end - start < _COLOUR_BOX):
                changed = changed or bytearray(data)
                changed[start + 4 : start + 8] = b"free"
    return data if changed is None else bytes(changed)


def _image_of_gif(data: bytes) -> bytes:
    """A GIF without extensions before its first image that hold nothing, or no control of four bytes."""
    view, start = memoryview(data), 13
    if len(data) > start and data[10] & 0x80:
        start += 3 * 2 ** ((data[10] & 7) + 1)
    parts = [view[:start]]
    while data[start : start + 1] == b"!" and start + 2 < len(data):
        label, length = data[start + 1 : start + 3]
        end = start + 2
        while end < len(data) and data[end]:
            end += 1 + data[end]
        if length >= (4 if label == _GIF_CONTROL else 1):
            parts.append(view[start : end + 1])
        start = end + 1
    return _joined((*parts, view[start:]), data)


def _image_of_webp(data: bytes) -> bytes:
    """A WebP with the length of its file where it names a longer one, though all its chunks are whole."""
    end = max((end for _, _, end in webp_chunks(data)), default=WEBP_HEADER)
    if end != len(data) or int.from_bytes(data[4:8], "little") + 8 <= len(data):
        return data
    return data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]


def _has_all_rows(data: bytes) -> bool:
    """Whether a PNG's pixel data is as long as its header says (the CRCs have been checked)."""
    width, height, depth, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, len(PNG_SIGNATURE) + 8)
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    expected = 0
    for left, top, across, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((left - width) // across), -((top - height) // down)
        expected += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    inflate = zlib.decompressobj()
    for kind, start, end in png_chunks(data):
        for piece in range(start + 8, end - 4, _PIECE) if kind == b"IDAT" else ():
            pixels = data[piece : min(piece + _PIECE, end - 4)]
            while pixels and expected > 0:
                expected -= len(inflate.decompress(pixels, min(expected, 16 * _PIECE)))
                pixels = inflate.unconsumed_tail
    return expected <= 0


def _codestream(data: bytes) -> bytes:
    """The JPEG 2000 codestream of a file, which may lie in a box."""
    if data.startswith(b"\xff\x4f"):
        return data
    return next((data[start:end] for kind, start, _, end in boxes(data) if kind == b"jp2c"), b"")
