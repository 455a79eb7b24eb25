"""The parts that files of images are made of: chunks of a PNG and a WebP, segments of a JPEG."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aigciqa.errors import InputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
#: The marker of a JPEG behind which its pixels follow.
START_OF_SCAN = 0xDA
#: Where a WebP's chunks begin: behind `RIFF`, a length and `WEBP`.
WEBP_HEADER = 12


def is_webp(data: bytes) -> bool:
    """Whether a file is a WebP, by its start."""
    return data.startswith(b"RIFF") and data.startswith(b"WEBP", 8)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG: length, kind, content, checksum."""
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise InputError("truncated PNG: its data end early")
        length, kind = struct.unpack_from(">I4s", data, start)
        if not kind.isalpha():
            raise InputError(f"broken PNG: no chunk is of the kind {kind!r}")
        end = start + 12 + length
        if end > len(data):
            raise InputError("truncated PNG: its data end early")
        yield kind, start, end
        start = end


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG (marker, length, content), up to the start of its scan.

    They end early where they don't follow each other.
    """
    start, marker = 2, 0
    while marker != START_OF_SCAN and start + 4 <= len(data) and data[start] == 0xFF:
        marker, length = struct.unpack_from(">BH", data, start + 1)
        end = start + 2 + length
        if not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9 or length < 2 or end > len(data):
            return
        yield marker, start, end
        start = end


def webp_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a WebP: kind, length, content, padding; the last one may be cut."""
    start = WEBP_HEADER
    while start + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, start)
        end = start + 8 + length + length % 2
        yield kind, start, end
        start = end
