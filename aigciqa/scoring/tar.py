"""Tar archives read as a stream, in little memory, whatever they are made of.

`tarfile` reads headers of any length whole, and maps of sparse files, keeps every member, and takes a broken header for
the end: here it only takes single blocks apart.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

from aigciqa.errors import InputError
from aigciqa.utils import object_stores

#: Extended headers of one member: names and attributes of files, together.
MAX_HEADER_BYTES = 2**20
#: What the decompressor of xz may take; `xz -9` needs a quarter of it.
XZ_BYTES = 256 * 2**20
_BLOCK = 512
_CHUNK = 2**20
_MAX_SIZE = 2**62
_MAX_DIGITS = 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


class ArchiveError(InputError):
    """An archive that can't be read to its end."""


@dataclass(frozen=True)
class Member:
    """A member as its headers describe it, with the type that `tarfile` has a name for."""

    name: str
    size: int
    kind: bytes
    is_sparse: bool


class Stream:
    """Bytes from first to last."""

    def __init__(self, file: IO[bytes], can_seek: bool) -> None:
        self.file = file
        self.can_seek = can_seek
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        if len(data) < size:
            raise ArchiveError("unexpected end of data")
        self.position += size
        return data

    def skip(self, size: int) -> None:
        if self.can_seek and size > _CHUNK:
            self.file.seek(size - 1, os.SEEK_CUR)
            self.position += size - 1
            size = 1  # whether it is there
        for chunk in chunks(size):
            self.read(chunk)


@contextmanager
def opened(path: str) -> Iterator[Stream]:
    """An archive, decompressed; what goes wrong while it is read is an `ArchiveError`."""
    try:
        with object_stores.open_file(path) as file:
            unpacked = _decompressed(file)
            yield Stream(unpacked, unpacked is file and file.seekable())
    except (OSError, EOFError, ImportError, MemoryError, tarfile.TarError, zlib.error, ArchiveError) as error:
        raise ArchiveError(f"{path}: {getattr(error, 'strerror', None) or error or 'not enough memory'}") from None


def members(stream: Stream) -> Iterator[Member]:
    """All members; what is left of the content of one is skipped when the next is asked for."""
    while (block := stream.file.read(_BLOCK)) != bytes(_BLOCK):
        if not block:
            raise ArchiveError("empty file" if not stream.position else "its end mark is missing: it may have been cut")
        if len(block) < _BLOCK:
            raise ArchiveError("unexpected end of data" if stream.position else "no tar archive")
        stream.position += _BLOCK
        member, end = _member(stream, block)
        yield member
        stream.skip(end - stream.position)
    _check_end(stream)


def chunks(size: int) -> Iterator[int]:
    yield from (min(_CHUNK, size - start) for start in range(0, size, _CHUNK))


def _member(stream: Stream, block: bytes) -> tuple[Member, int]:
    """The member of a header block and of those that follow to extend it, and where its content ends."""
    records: dict[bytes, bytes] = {}
    length = 0
    while True:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        size = _checked_size(header.size)
        if header.type not in (*_EXTENDED, tarfile.XGLTYPE):
            break
        length += size
        if length > MAX_HEADER_BYTES:
            raise ArchiveError(f"an extended header of more than {MAX_HEADER_BYTES:,} bytes")
        data = stream.read(_padded(size))[:size]
        if header.type == tarfile.GNUTYPE_LONGNAME:
            records[b"path"] = data.partition(b"\0")[0]
        elif header.type in (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE):
            records |= _records(data)
        block = stream.read(_BLOCK)
    is_sparse = header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse.") for key in records)
    if header.type == tarfile.GNUTYPE_SPARSE and block[482]:  # more of its map follows
        while stream.read(_BLOCK)[504]:
            pass
    if b"size" in records:
        digits = records[b"size"][:_MAX_DIGITS]
        size = _checked_size(int(digits) if digits.isdigit() else -1)
    name = records.get(b"GNU.sparse.name", records.get(b"path"))
    text = header.name if name is None else name.decode("utf-8", "surrogateescape")
    has_content = header.isreg() or header.type not in tarfile.SUPPORTED_TYPES
    end = stream.position + (_padded(size) if has_content else 0)
    return Member(text, size, header.type, is_sparse), end


def _checked_size(size: int) -> int:
    if not 0 <= size < _MAX_SIZE:
        raise ArchiveError("broken header: a size that no file has")
    return size


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: `length key=value\\n` each (POSIX.1-2001)."""
    records = {}
    start = 0
    while start < len(data) and data[start]:
        digits = data[start : start + _MAX_DIGITS].partition(b" ")[0]
        end = start + int(digits) if digits.isdigit() else 0
        record = data[start + len(digits) + 1 : end]
        if end > len(data) or not record.endswith(b"\n"):
            raise ArchiveError("broken pax header")
        key, _, value = record[:-1].partition(b"=")
        records[key] = value
        start = end
    return records


def _check_end(stream: Stream) -> None:
    """Read what follows the end mark, which are zeros to fill a block; of compressed data to its checksum."""
    while chunk := stream.file.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise ArchiveError("it goes on after its end mark: of archives put together, the first is read")
        if stream.can_seek:
            return


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    start = file.peek(10)
    if start.startswith(b"\x1f\x8b\x08"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start[:3] == b"BZh" and start[4:10] == b"1AY&SY":
        import bz2  # like lzma, not in every Python

        return bz2.BZ2File(file)
    if start.startswith((b"\xfd7zXZ", b"\x5d\x00\x00\x80")):
        return io.BufferedReader(_Xz(file), _CHUNK)
    return file


class _Xz(io.RawIOBase):
    """The content of an xz file; unlike `lzma.LZMAFile` it takes no more memory than is allowed."""

    def __init__(self, file: IO[bytes]) -> None:
        import lzma

        self.file = file
        self.error = lzma.LZMAError
        self.decompressor = lzma.LZMADecompressor(memlimit=XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target)
        content = b""
        while not content and not self.decompressor.eof:
            data = self.file.read(_CHUNK) if self.decompressor.needs_input else b""
            if self.decompressor.needs_input and not data:
                raise EOFError("compressed data ends early")
            try:
                content = self.decompressor.decompress(data, len(view))
            except self.error as error:
                raise OSError(f"xz: {error}") from None
        view[: len(content)] = content
        return len(content)
