"""The texts in EXIF data, which are a TIFF file's directories; and those of a TIFF file itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from aigciqa.images.chunks import TIFF_SIGNATURES, Data
from aigciqa.images.generation.parameters import MAX_TEXT

_EXIF_DIRECTORY, _USER_COMMENT, _XMP = 0x8769, 0x9286, 0x02BC
#: ComfyUI writes into `Make` and `Model`; the names of other texts of a PNG are other ones.
_NAMES = {
    0x010E: "imagedescription",
    0x010F: "exif:make",
    0x0110: "exif:model",
    0x0131: "software",
    _XMP: "xmp",
    _USER_COMMENT: "usercomment",
}
#: Directories have a few dozen entries.
_MAX_ENTRIES = 500
#: ASCII, undefined, and bytes or UTF-8 of tools that don't keep to the standard.
_TEXT_TYPES = frozenset({1, 2, 7, 129})


def texts(data: Data) -> Iterator[tuple[str, str]]:
    """The names and texts of the tags in which tools write; a TIFF file's `xmp` is its packet."""
    for tag, value, order in _values(data):
        yield _NAMES[tag], _comment(value, order) if tag == _USER_COMMENT else decoded(value)


def decoded(value: bytes) -> str:
    """A text in UTF-8, or else in Latin-1."""
    value = value.rstrip(b"\0")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _values(data: Data) -> Iterator[tuple[int, bytes, str]]:
    """The tags of the first directory and of EXIF's, their bytes, and the order of bytes."""
    order = TIFF_SIGNATURES.get(data[:4])
    if order is None or len(data) < 8:
        return
    directories, seen = list(struct.unpack(order + "I", data[4:8])), set[int]()
    for start in directories:
        count = int.from_bytes(data[start : start + 2], "little" if order == "<" else "big")
        entries = data[start + 2 : start + 2 + 12 * min(count, _MAX_ENTRIES)]
        for tag, kind, length, where in struct.iter_unpack(order + "HHII", entries[: len(entries) // 12 * 12]):
            if tag == _EXIF_DIRECTORY and len(directories) == 1:
                directories.append(where)
            elif tag in _NAMES and tag not in seen and kind in _TEXT_TYPES and 4 < length <= MAX_TEXT:
                seen.add(tag)
                value = data[where : where + length]
                if len(value) == length:
                    yield tag, value, order


def _comment(value: bytes, order: str) -> str:
    """A UserComment: eight bytes name its encoding. UTF-16 comes in either order, with no mark of which."""
    name, content = value[:8], value[8:]
    if name == b"UNICODE\0":
        return _utf16(content, order)
    return decoded(content if name in (b"ASCII\0\0\0", bytes(8)) else value)


def _utf16(content: bytes, order: str) -> str:
    high_first, low_first = content[::2].count(0), content[1::2].count(0)
    if content[:2] in (b"\xfe\xff", b"\xff\xfe"):
        return content.decode("utf-16", "replace")
    if not high_first and not low_first:  # of some tools it is UTF-8, whatever it is called
        try:
            return content.decode()
        except UnicodeDecodeError:
            pass
    is_big = high_first > low_first if high_first != low_first else order == ">"
    return content.decode("utf-16-be" if is_big else "utf-16-le", "replace")
