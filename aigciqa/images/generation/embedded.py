"""The texts in an image file, its XMP packet and its content credentials: no pixels are read, nothing is trusted."""

from __future__ import annotations

import itertools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from aigciqa.errors import InputError
from aigciqa.images.chunks import (
    JPEG_EXIF,
    JPEG_SIGNATURE,
    JPEG_XMP,
    PNG_SIGNATURE,
    PNG_XMP,
    TIFF_SIGNATURES,
    Data,
    boxes,
    is_webp,
    jpeg_segments,
    png_chunks,
    webp_chunks,
)
from aigciqa.images.generation import exif
from aigciqa.images.generation.parameters import MAX_TEXT

_XMP_KEYWORD = PNG_XMP.decode().rstrip("\0").lower()
_TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
_APP1, _APP11, _COMMENT = 0xE1, 0xEB, 0xFE
#: Of a PNG, together, so that many that inflate to much do no harm; and how many parts of a file are looked at.
_MAX_TEXTS = 4 * MAX_TEXT
_MAX_PARTS = 100_000
#: AVIF and HEIF have one item with EXIF and one with XMP.
_MAX_ITEMS = 4
#: Of content credentials, which hold thumbnails, so much is looked into.
_MAX_CREDENTIALS = 2**20
#: The uuid of the box that holds content credentials in AVIF and HEIF (C2PA specification, A.5).
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_MADE_BY_ALGORITHM = b"/trainedAlgorithmicMedia"
#: A CBOR text of less than 256 bytes, under the keys that name what wrote the credentials.
_CLAIM_NAME = re.compile(rb"claim_generator_info.{0,64}?dname(?:([\x61-\x77])|\x78(.))", re.DOTALL)
_CLAIM = re.compile(rb"oclaim_generator(?:([\x61-\x77])|\x78(.))", re.DOTALL)


@dataclass
class Embedded:
    """What is embedded in a file.

    Attributes:
        texts: name, in lower case -> text: the texts of a PNG by their keywords, and of EXIF by their tags.
        xmp: the XMP packet.
        has_credentials: whether there are C2PA content credentials.
        claimed: the name of the generator, by credentials that say that a trained algorithm made the picture.
    """

    texts: dict[str, str] = field(default_factory=dict)
    xmp: bytes | None = None
    has_credentials: bool = False
    claimed: str | None = None

    def add_exif(self, data: Data) -> None:
        """Add the texts of EXIF data."""
        for name, text in exif.texts(data.removeprefix(JPEG_EXIF) if isinstance(data, bytes) else data):
            self.texts.setdefault(name, text)

    def add_credentials(self, content: bytes) -> None:
        """Note that there are content credentials, and by whom."""
        self.has_credentials = True
        if _MADE_BY_ALGORITHM in content:
            self.claimed = self.claimed or _claimed(content)


def collect(data: Data) -> Embedded:
    """What is embedded in a PNG, JPEG, WebP, TIFF, AVIF, HEIF or JPEG XL, up to where it is damaged."""
    found = Embedded()
    head = data[:16]
    try:
        if head.startswith(PNG_SIGNATURE):
            _of_png(data, found)
        elif head.startswith(JPEG_SIGNATURE):
            _of_jpeg(data, found)
        elif is_webp(head):
            _of_webp(data, found)
        elif head[:4] in TIFF_SIGNATURES:
            found.add_exif(data)
            found.xmp = found.texts.pop("xmp", "").encode() or None
        elif head[4:8] in (b"ftyp", b"JXL "):
            _of_boxes(data, found)
    except (InputError, struct.error):  # where it is truncated, or gets shorter while it is read
        pass
    return found


def _of_png(data: Data, found: Embedded) -> None:
    left = _MAX_TEXTS
    for kind, start, end in itertools.islice(png_chunks(data), _MAX_PARTS):
        if kind in _TEXT_CHUNKS or kind == b"eXIf":
            if end - start - 12 > MAX_TEXT or left < 0:
                continue
            chunk = data[start + 4 : end]
            if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:], "big"):
                continue
            if kind == b"eXIf":
                found.add_exif(chunk[4:-4])
                continue
            keyword, content = _text_chunk(kind, chunk[4:-4])
            left -= MAX_TEXT if content is None else len(content)
            if keyword == _XMP_KEYWORD:
                found.xmp = found.xmp or content
            elif content is not None:
                found.texts.setdefault(keyword, exif.decoded(content))
        elif kind == b"caBX":
            found.add_credentials(data[start + 8 : min(end - 4, start + _MAX_CREDENTIALS)])


def _text_chunk(kind: bytes, chunk: bytes) -> tuple[str, bytes | None]:
    """The keyword of a text, in lower case, and its bytes, unless they are too many."""
    keyword, _, content = chunk.partition(b"\0")
    is_deflated = kind == b"zTXt"
    if kind == b"iTXt":  # two bytes on compression; language; translated keyword
        is_deflated = content[:1] == b"\1"
        content = b"\0".join(content[2:].split(b"\0", 2)[2:])
    elif is_deflated:
        content = content[1:]
    name = keyword.decode("latin-1").lower()
    return name, _inflated(content) if is_deflated else content


def _inflated(content: bytes) -> bytes | None:
    try:
        inflated = zlib.decompressobj().decompress(content, MAX_TEXT + 1)
    except zlib.error:
        return None
    return inflated if len(inflated) <= MAX_TEXT else None


def _of_jpeg(data: Data, found: Embedded) -> None:
    for marker, start, end in itertools.islice(jpeg_segments(data), _MAX_PARTS):
        if marker not in (_APP1, _APP11, _COMMENT):
            continue
        content = data[start + 4 : end]
        if marker == _COMMENT:
            found.texts.setdefault("comment", exif.decoded(content))
        elif marker == _APP11:
            if content.startswith(b"JP") and (found.has_credentials or b"c2pa" in content):
                found.add_credentials(content)
        elif content.startswith(JPEG_EXIF):
            found.add_exif(content)
        elif content.startswith(JPEG_XMP):
            found.xmp = found.xmp or content.removeprefix(JPEG_XMP)


def _of_webp(data: Data, found: Embedded) -> None:
    for kind, start, end in itertools.islice(webp_chunks(data), _MAX_PARTS):
        content = slice(start + 8, min(end, start + MAX_TEXT))
        if kind == b"EXIF":
            found.add_exif(data[content])
        elif kind == b"XMP ":
            found.xmp = found.xmp or data[content]
        elif kind == b"C2PA":
            found.add_credentials(data[start + 8 : min(end, start + _MAX_CREDENTIALS)])


def _of_boxes(data: Data, found: Embedded) -> None:
    """AVIF and HEIF keep EXIF and XMP as items, which the box `meta` has a table of; JPEG XL has a box for each."""
    has_table = False
    for kind, _, start, end in itertools.islice(boxes(data), _MAX_PARTS):
        content = slice(start, min(end, start + MAX_TEXT))
        if kind == b"Exif":
            _add_tiff(data[content], found)
        elif kind == b"xml ":
            found.xmp = found.xmp or data[content]
        elif kind == b"jumb" or (kind == b"uuid" and data[start : start + 16] == _C2PA_UUID):
            found.add_credentials(data[start : min(end, start + _MAX_CREDENTIALS)])
        elif kind == b"meta" and not has_table:
            has_table = True
            for item, where, length in itertools.islice(_items(data[content]), _MAX_ITEMS):
                if item == b"Exif":
                    _add_tiff(data[where : where + min(length, MAX_TEXT)], found)
                else:
                    found.xmp = found.xmp or data[where : where + min(length, MAX_TEXT)]


def _add_tiff(content: bytes, found: Embedded) -> None:
    """Add EXIF data behind the four bytes that say where its TIFF header is, which some writers leave out."""
    is_bare = content[:4] in TIFF_SIGNATURES
    found.add_exif(content if is_bare else content[4 + int.from_bytes(content[:4], "big") :])


def _items(meta: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, place in the file and length of the items with EXIF and XMP, by the box `meta` (ISO/IEC 14496-12, 8.11)."""
    kinds: dict[int, bytes] = {}
    for kind, _, start, end in boxes(meta, 4):
        if kind == b"iinf":
            first = start + (6 if meta[start : start + 1] == b"\0" else 8)
            for entry, _, at, last in itertools.islice(boxes(meta, first, end), _MAX_PARTS):
                if entry == b"infe" and at + 12 <= last and meta[at] in (2, 3):
                    size = 2 if meta[at] == 2 else 4
                    item = meta[at + 6 + size : at + 10 + size]
                    if item == b"Exif" or (item == b"mime" and b"application/rdf+xml\0" in meta[at:last]):
                        kinds[int.from_bytes(meta[at + 4 : at + 4 + size], "big")] = item
    for kind, _, start, end in boxes(meta, 4):
        if kind == b"iloc":
            for number, where, length in _places(meta[start:end]):
                if number in kinds:
                    yield kinds[number], where, length


def _places(box: bytes) -> Iterator[tuple[int, int, int]]:
    """Number, place in the file and length of each item that lies in one piece, by the content of a box `iloc`."""
    at = 0

    def read(size: int) -> int:
        nonlocal at
        at += size
        if at > len(box):
            raise InputError("the table of items ends early")
        return int.from_bytes(box[at - size : at], "big")

    version = read(4) >> 24
    sizes = read(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    for _ in range(read(4 if version == 2 else 2)):
        number = read(4 if version == 2 else 2)
        method = read(2) & 15 if version else 0
        read(2)
        base = read(base_size)
        extents = read(2)
        if extents != 1:
            read(extents * (index_size + offset_size + length_size))
            continue
        read(index_size)
        where, length = base + read(offset_size), read(length_size)
        if method == 0:
            yield number, where, length


def _claimed(content: bytes) -> str | None:
    """Who wrote content credentials: the name that they give, or the first word of how the program calls itself."""
    for pattern, is_name in ((_CLAIM_NAME, True), (_CLAIM, False)):
        match = pattern.search(content)
        if match is not None:
            short, long = match.groups()
            length = short[0] - 0x60 if short else long[0]
            name = content[match.end() : match.end() + length].decode("utf-8", "replace")
            return name if is_name else re.split(r"[/ ]", name)[0]
    return None
