"""Whether an image's data is all there."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from PIL import Image

from aigciqa.images.containers import PNG_SIGNATURE, jpeg2000_boxes, png_chunks

#: First column and row, and steps across and down, of the passes of an interlaced PNG.
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
#: How much is inflated at a time.
_PIECE = 2**16


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
    return next((data[start:end] for kind, start, end in jpeg2000_boxes(data) if kind == b"jp2c"), b"")
