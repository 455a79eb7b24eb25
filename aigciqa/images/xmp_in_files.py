"""Where an XMP packet lies in a PNG, a JPEG and a WebP: another is put there, and not a byte of the pixels changes.

XMP specification, part 3 (2020), "Storage in files".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import TypeAlias

from aigciqa.errors import InputError
from aigciqa.images.chunks import (
    JPEG_SIGNATURE,
    JPEG_XMP,
    PNG_SIGNATURE,
    PNG_XMP,
    START_OF_SCAN,
    is_webp,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from aigciqa.images.xmp import MAX_PACKET

#: Of a file: what stays is not copied, since it may be long.
Pieces: TypeAlias = "tuple[bytes | memoryview, ...]"

_APP0, _APP1, _APP2 = 0xE0, 0xE1, 0xE2
#: The most that fits in a segment of a JPEG, with its length.
_MAX_SEGMENT = 0xFFFF
#: Bits of a WebP's flags: it has XMP; it has transparency.
_HAS_XMP, _HAS_ALPHA = 0x04, 0x10


def can_hold_xmp(data: bytes) -> bool:
    """Whether a file is of a format in which XMP can be found and put."""
    return data.startswith((PNG_SIGNATURE, JPEG_SIGNATURE)) or is_webp(data)


def change_xmp(data: bytes, change: Callable[[bytes | None], bytes]) -> Pieces | None:
    """The pieces of a PNG, JPEG or WebP with another XMP packet, in which everything else is as it was.

    None if it is the packet that the file has.

    Args:
        data: the file.
        change: makes the packet of the one that the file has, or of None.

    Raises:
        InputError: the file or its XMP is damaged; it is a JPEG of several pictures, or without room for the packet;
            it has several packets.
    """
    places = list(_places(data))
    if len(places) > 1:
        raise InputError("it has several XMP packets")
    place = places[0] if places else None
    old = None if place is None else _packet(data, *place)
    packet = change(old)
    if packet == old:
        return None
    put = _put_in_png if data.startswith(PNG_SIGNATURE) else _put_in_webp if is_webp(data) else _put_in_jpeg
    return put(data, packet, place)


def _places(data: bytes) -> Iterator[tuple[int, int]]:
    """Start and end of the chunks or segments with XMP."""
    if data.startswith(PNG_SIGNATURE):
        for kind, start, end in png_chunks(data):
            if kind == b"iTXt" and data.startswith(PNG_XMP, start + 8):
                yield start, end
    elif data.startswith(JPEG_SIGNATURE):
        for marker, start, end in jpeg_segments(data):
            if marker == _APP1 and data.startswith(JPEG_XMP, start + 4):
                yield start, end
    elif is_webp(data):
        for kind, start, end in webp_chunks(data):
            if kind == b"XMP ":
                yield start, end


def _packet(data: bytes, start: int, end: int) -> bytes:
    """The packet in the chunk or segment that begins and ends there."""
    if data.startswith(JPEG_SIGNATURE):
        return data[start + 4 + len(JPEG_XMP) : end]
    if is_webp(data):
        return data[start + 8 : start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")]
    flags, rest = data[start + 8 + len(PNG_XMP) :][:2], data[start + 10 + len(PNG_XMP) : end - 4]
    texts = rest.split(b"\0", 2)  # language, translated keyword, packet
    if len(texts) < 3 or flags not in (b"\0\0", b"\1\0"):
        raise InputError("its XMP is damaged")
    if flags == b"\0\0":
        return texts[2]
    try:
        return zlib.decompressobj().decompress(texts[2], MAX_PACKET + 1)
    except zlib.error as error:
        raise InputError(f"its XMP is damaged: {error}") from None


def _put_in_png(data: bytes, packet: bytes, place: tuple[int, int] | None) -> Pieces:
    """Put the chunk where the old one is, else before the pixels."""
    pixels = None
    for kind, start, _ in png_chunks(data):
        if kind == b"IDAT" and pixels is None:
            pixels = start
    if pixels is None:
        raise InputError("broken PNG: it has no pixels")
    start, end = place or (pixels, pixels)
    content = b"iTXt" + PNG_XMP + b"\0\0\0\0" + packet
    checksum = struct.pack(">I", zlib.crc32(content))
    view = memoryview(data)
    return view[:start], struct.pack(">I", len(content) - 4), content, checksum, view[end:]


def _put_in_jpeg(data: bytes, packet: bytes, place: tuple[int, int] | None) -> Pieces:
    """Put the segment where the old one is, else behind JFIF and EXIF, which come first."""
    segments = list(jpeg_segments(data))
    if not segments or segments[-1][0] != START_OF_SCAN:
        raise InputError("broken JPEG: its segments don't follow each other up to its pixels")
    if any(marker == _APP2 and data.startswith(b"MPF\0", start + 4) for marker, start, _ in segments):
        raise InputError("a JPEG of several pictures, whose places in the file would change")
    length = 2 + len(JPEG_XMP) + len(packet)
    if length > _MAX_SEGMENT:
        raise InputError(f"its XMP would have {len(packet):,} bytes: more than a JPEG's segment holds")
    behind = next(start for marker, start, _ in segments if marker not in (_APP0, _APP1))
    start, end = place or (behind, behind)
    view = memoryview(data)
    return view[:start], struct.pack(">BBH", 0xFF, _APP1, length), JPEG_XMP, packet, view[end:]


def _put_in_webp(data: bytes, packet: bytes, place: tuple[int, int] | None) -> Pieces:
    """Put the chunk where the old one is, else at the end; what is behind the file's own length stays there."""
    last = 8 + int.from_bytes(data[4:8], "little")
    chunks = [(kind, start, end) for kind, start, end in webp_chunks(data[:last])]
    if last > len(data) or not chunks or chunks[-1][2] != last or (place is not None and place[1] > last):
        raise InputError("truncated or broken WebP: its chunks are not as long as its file")
    header, begins = _extended_header(data, *chunks[0])
    start, end = place or (last, last)
    chunk = b"XMP " + struct.pack("<I", len(packet)) + packet + bytes(len(packet) % 2)
    view = memoryview(data)
    body = b"WEBP", header, view[begins:start], chunk, view[end:last]
    return b"RIFF", struct.pack("<I", sum(map(len, body))), *body, view[last:]


def _extended_header(data: bytes, kind: bytes, start: int, end: int) -> tuple[bytes, int]:
    """The chunk VP8X that says that there is XMP, and where the chunks behind it begin.

    One is made for a file that has none, of its only chunk (RFC 9649, 2.5 to 2.7).
    """
    if kind == b"VP8X" and end - start >= 18:
        return data[start : start + 8] + bytes([data[start + 8] | _HAS_XMP]) + data[start + 9 : end], end
    flags = _HAS_XMP
    if kind == b"VP8 " and data.startswith(b"\x9d\x01\x2a", start + 11) and end - start >= 18:
        width, height = (each & 0x3FFF for each in struct.unpack_from("<HH", data, start + 14))
    elif kind == b"VP8L" and data[start + 8] == 0x2F and end - start >= 14:
        (bits,) = struct.unpack_from("<I", data, start + 9)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        flags |= _HAS_ALPHA if bits >> 28 & 1 else 0
    else:
        raise InputError("broken WebP: it does not begin with its size")
    if not width or not height:
        raise InputError("broken WebP: it has no pixels")
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"VP8X" + struct.pack("<IB3x", 10, flags) + size, start
