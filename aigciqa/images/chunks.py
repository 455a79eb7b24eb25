"""The parts that files of images are made of: chunks of a PNG and a WebP, segments of a JPEG, boxes of JPEG 2000.

A walk reads the heads of the parts only, by slices: of the bytes of a file, or of a `FileBytes`.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import TypeAlias

from aigciqa.errors import InputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
#: Of a TIFF, and of EXIF data: signature -> the order of its bytes, as `struct` has it.
TIFF_SIGNATURES = {b"II*\0": "<", b"MM\0*": ">"}
#: What the content of a text chunk of a PNG with XMP, and of an APP1 segment of a JPEG with XMP or EXIF, begins with.
PNG_XMP = b"XML:com.adobe.xmp\0"
JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
JPEG_EXIF = b"Exif\0\0"
#: The marker of a JPEG behind which its pixels follow.
START_OF_SCAN = 0xDA
#: Where a WebP's chunks begin: behind `RIFF`, a length and `WEBP`.
WEBP_HEADER = 12


class FileBytes:
    """An open file, without a buffer, that is sliced like its bytes: its start, and what slices ask for, is read."""

    _START = 2**16

    def __init__(self, file: io.FileIO, size: int) -> None:
        self.file, self.size = file, size
        self.start = self.file.read(self._START)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self.size)
        if end <= len(self.start):
            return self.start[start:end]
        self.file.seek(start)
        return self.file.read(max(0, end - start))


#: The bytes of a file, in memory or not.
Data: TypeAlias = "bytes | FileBytes"


def is_webp(data: bytes) -> bool:
    """Whether a file is a WebP, by its start."""
    return data.startswith(b"RIFF") and data.startswith(b"WEBP", 8)


def png_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG: length, kind, content, checksum."""
    start, kind = len(PNG_SIGNATURE), b""
    while kind != b"IEND":
        if start + 12 > len(data):
            raise InputError("truncated PNG: its data end early")
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        if not kind.isalpha():
            raise InputError(f"broken PNG: no chunk is of the kind {kind!r}")
        end = start + 12 + length
        if end > len(data):
            raise InputError("truncated PNG: its data end early")
        yield kind, start, end
        start = end


def jpeg_segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each segment of a JPEG (marker, length, content), up to the start of its scan.

    They end early where they don't follow each other.
    """
    start, marker = 2, 0
    while marker != START_OF_SCAN and start + 4 <= len(data):
        mark, marker, length = struct.unpack(">BBH", data[start : start + 4])
        end = start + 2 + length
        if mark != 0xFF or not 0xC0 <= marker <= 0xFE or 0xD0 <= marker <= 0xD9 or length < 2 or end > len(data):
            return
        yield marker, start, end
        start = end


def webp_chunks(data: Data) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a WebP: kind, length, content, padding; the last one may be cut."""
    start = WEBP_HEADER
    while start + 8 <= len(data):
        kind, length = struct.unpack("<4sI", data[start : start + 8])
        end = start + 8 + length + length % 2
        yield kind, start, end
        start = end


def boxes(data: Data, start: int = 0, last: int | None = None) -> Iterator[tuple[bytes, int, int, int]]:
    """Kind of each box of a JPEG 2000, AVIF, HEIF or JPEG XL file, where it, and its content, start, and its end.

    ISO/IEC 15444-1, annex I, and ISO/IEC 14496-12; the last one may be cut.
    """
    last = len(data) if last is None else last
    while start + 8 <= last:
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        content = start + 8
        if length == 1:
            content = start + 16
            length = int.from_bytes(data[start + 8 : content], "big")
        elif length == 0:
            length = last - start
        if length < content - start:
            return
        yield kind, start, content, min(start + length, last)
        start += length
