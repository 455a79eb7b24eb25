"""Images in tar archives, in WebDataset's layout or in any other, read in one pass from the first byte to the last.

WebDataset's layout: members that share the name up to the first dot of its last part are a sample and stand side by
side, `0001/7.jpg` and `0001/7.json`. Of a sample, every image is scored; a member `7.reference.png` is their image
prompt. An image whose name has more dots, `0001/7.mask.png` or `sd1.5.png`, is of the sample `0001/7.mask` or `sd1.5`.

An archive may be made to do harm. Nothing of it is written anywhere, and nothing is read into memory that has not been
found to be of a sensible size.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import posixpath
import tarfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import IO, Any, TypeVar, cast

from PIL import Image

from aigciqa import remote
from aigciqa.decode import FORMATS, MAX_BYTES, readable_formats
from aigciqa.scoring import budget

SUFFIX = ".tar"
REFERENCE_PREFIX = "reference."
#: Extended headers of one member: names and attributes of files, together.
MAX_HEADER_BYTES = 2**20
#: The longest path that Linux takes.
MAX_NAME = 4096
#: Names that are remembered to find those that occur again.
MAX_NAMES = 1_000_000
#: Bytes of a pixel of four 16-bit channels.
BYTES_PER_PIXEL = 8
#: What the decompressor of xz may take; `xz -9` needs a quarter of it.
XZ_BYTES = 256 * 2**20
_BLOCK = 512
_CHUNK = 2**20
#: Of a longer member so much is looked at before the rest is read.
_START = 2**16
_MAX_SIZE = 2**62
_MAX_DIGITS = 20
_EXTENDED = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)

Member = TypeVar("Member")


class ArchiveError(ValueError):
    """An archive that can't be read to its end."""


class MemberError(ValueError):
    """A member that can't be read; others can."""


@dataclass(frozen=True)
class Picture:
    """An image of a sample: the names of its member and of its reference's, and what is in them.

    Attributes:
        name: of its member; with an error, it may be one that is not usable.
        content: None if there is an error.
        reference: name of its reference, if there is one beside it.
        reference_content: None if there is none, or an error.
        error: why the image can't be read.
        reference_error: why its reference can't be read, or that there is none.
    """

    name: str
    content: bytes | None
    reference: str | None = None
    reference_content: bytes | None = None
    error: str | None = None
    reference_error: str | None = None


def pictures(path: str, suffixes: Collection[str]) -> Iterator[Picture]:
    """Images of an archive, a file or a URL, in its order.

    Args:
        path: of the archive.
        suffixes: of images, in lower case, with the dot.

    Raises:
        ArchiveError: it can't be read, or not to its end; all that came before has been given.
    """
    with _opened(path) as stream:
        yield from pictures_of(_candidates(stream, suffixes), partial(_content, stream), attrgetter("size"))


def has_references(path: str, suffixes: Collection[str]) -> bool:
    """Whether an archive has references, beside their images or not, as far as it can be read."""
    try:
        with _opened(path) as stream:
            names = (member.name for member in _members(stream))
            return any(_split(name)[1].startswith(REFERENCE_PREFIX) for name in names if is_picture(name, suffixes))
    except ArchiveError:
        return False


def is_picture(name: str, suffixes: Collection[str]) -> bool:
    """Whether a member is an image, by its name; hidden files, as macOS adds them, are none."""
    return posixpath.splitext(name)[1].lower() in suffixes and not posixpath.basename(name).startswith(".")


def is_usable(name: str) -> bool:
    """Whether a member's name can be part of a path below the archive's, on any system."""
    return len(name) <= MAX_NAME and "\0" not in name and ".." not in name.replace("\\", "/").split("/")


def pictures_of(
    members: Iterable[tuple[str, Member]],
    read: Callable[[Member], bytes],
    size_of: Callable[[Member], int] = len,  # type: ignore[assignment]  # of bytes
) -> Iterator[Picture]:
    """Images among named members that are images, whose contents `read` gives, or raises `MemberError`.

    A sample ends at a member with another name up to the first dot; one with more dots already at another with more.
    Whatever the members raise, or `read`, is raised when the images before it have been given.
    """
    samples: dict[str, list[_Part]] = {}
    failure: Exception | None = None
    try:
        for name, member in members:
            key, suffix = _split(name)
            folder, base = posixpath.split(name)
            unfinished = (key, posixpath.join(folder, base.partition(".")[0]))
            for over in [each for each in samples if each not in unfinished]:
                yield from _of_sample(over, samples.pop(over))
            held = sum(len(part.content) for parts in samples.values() for part in parts)
            try:
                if held and held + size_of(member) > budget.CONTENT_BYTES:
                    raise MemberError(f"with the others of its sample it has more than {budget.CONTENT_BYTES:,} bytes")
                part = _Part(suffix, read(member))
            except MemberError as error:
                part = _Part(suffix, error=str(error))
            samples.setdefault(key, []).append(part)
    except Exception as error:
        failure = error
    for key, parts in samples.items():
        yield from _of_sample(key, parts)
    if failure is not None:
        raise failure


@dataclass(frozen=True)
class _Part:
    """What a sample has: what follows the dot in its name, and its content or why it can't be read."""

    suffix: str
    content: bytes = b""
    error: str | None = None


def _of_sample(key: str, parts: Sequence[_Part]) -> Iterator[Picture]:
    """Images of one sample."""
    references = [part for part in parts if part.suffix.startswith(REFERENCE_PREFIX)]
    problems = [f"reference {key}.{part.suffix}: {part.error}" for part in references if part.error is not None]
    if not references:
        problems = [f"no {posixpath.basename(key)}.reference.* beside it in the archive: pack it with tar --sort=name"]
    elif len(references) > 1:
        problems.append(f"it has {len(references)} references")
    for part in parts:
        if part.suffix.startswith(REFERENCE_PREFIX):
            continue
        name, content = f"{key}.{part.suffix}", part.content if part.error is None else None
        if problems:
            yield Picture(name, content, error=part.error, reference_error=problems[0])
        else:
            yield Picture(name, content, f"{key}.{references[0].suffix}", references[0].content, part.error)


def _split(name: str) -> tuple[str, str]:
    """An image's name as the key of its sample and what follows the dot."""
    key = posixpath.splitext(name)[0].removesuffix(".reference")
    return key, name[len(key) + 1 :]


@dataclass(frozen=True)
class _Member:
    """A member as its headers describe it; `problem` says why it can't be read as an image."""

    name: str
    size: int
    kind: bytes
    is_sparse: bool
    problem: str | None = None


def _candidates(stream: _Stream, suffixes: Collection[str]) -> Iterator[tuple[str, _Member]]:
    """The members that are images by their names, or archives, each with what is wrong with it."""
    seen: set[int] = set()  # hashes, which take less
    for member in _members(stream):
        if member.kind == tarfile.DIRTYPE or not is_picture(member.name, (*suffixes, SUFFIX)):
            continue
        same = hash(posixpath.normpath(f"/{member.name.lstrip('/')}"))
        problem = _problem(member)
        if problem is None and same in seen:
            problem = "the archive holds this name more than once, and only the first is scored"
        elif problem is None and len(seen) < MAX_NAMES:
            seen.add(same)
        yield member.name, replace(member, problem=problem)


def _problem(member: _Member) -> str | None:
    if not is_usable(member.name):
        return "its name leads out of the archive, or is no name of a file"
    if member.name.lower().endswith(SUFFIX):
        return "an archive in an archive is not opened: unpack it"
    if member.kind in (tarfile.LNKTYPE, tarfile.SYMTYPE):
        return "a link, and links are not followed: pack the image itself (tar --dereference --hard-dereference)"
    if member.kind not in tarfile.REGULAR_TYPES:
        return "not a regular file"
    if member.is_sparse:
        return "a sparse file: pack it without --sparse"
    if member.size > MAX_BYTES:
        return f"{member.size:,} bytes are more than the {MAX_BYTES:,} allowed"
    return None


def _content(stream: _Stream, member: _Member) -> bytes:
    if member.problem is not None:
        raise MemberError(member.problem)
    content = io.BytesIO()  # grows with what there is, whatever the header says
    content.write(stream.read(min(_START, member.size)))
    if member.size > _START:
        _check_start(content.getvalue(), member.size)
    for size in _chunks(member.size - content.tell()):
        content.write(stream.read(size))
    return content.getvalue()


def _check_start(start: bytes, size: int) -> None:
    """Refuse what can't be an image of so many bytes by how it starts."""
    accepting = [Image.OPEN[name][1] for name in readable_formats()]
    if not any(accept is None or accept(start[:16]) for accept in accepting):
        raise MemberError(f"not an image in a format that can be read ({', '.join(FORMATS)})")
    if size <= budget.CONTENT_BYTES:
        return
    try:
        with Image.open(io.BytesIO(start), formats=readable_formats()) as image:
            pixels = image.width * image.height
    except Exception:  # which stands further back, or nowhere
        pixels = 0
    if size > budget.CONTENT_BYTES + BYTES_PER_PIXEL * pixels:
        shape = f"an image of {pixels:,} pixels" if pixels else "an image that does not start with its size in pixels"
        raise MemberError(f"{size:,} bytes are more than {shape} needs")


class _Stream:
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
        for chunk in _chunks(size):
            self.read(chunk)


def _members(stream: _Stream) -> Iterator[_Member]:
    """All members; what is left of the content of one is skipped when the next is asked for.

    `tarfile` reads headers of any length whole, and maps of sparse files, keeps every member, and takes a broken header
    for the end: here it only takes single blocks apart.
    """
    while (block := stream.file.read(_BLOCK)) != bytes(_BLOCK):
        if not block:
            raise ArchiveError("empty file" if not stream.position else "its end mark is missing: it may have been cut")
        if len(block) < _BLOCK:
            raise ArchiveError("unexpected end of data")
        stream.position += _BLOCK
        member, end = _member(stream, block)
        yield member
        stream.skip(end - stream.position)
    _check_end(stream)


def _member(stream: _Stream, block: bytes) -> tuple[_Member, int]:
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
    return _Member(text, size, header.type, is_sparse), end


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


def _check_end(stream: _Stream) -> None:
    """Read what follows the end mark, which are zeros to fill a block; of compressed data to its checksum."""
    while chunk := stream.file.read(_CHUNK):
        if chunk.strip(b"\0"):
            raise ArchiveError("it goes on after its end mark: of archives put together, the first is read")
        if stream.can_seek:
            return


def _padded(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK


def _chunks(size: int) -> Iterator[int]:
    yield from (min(_CHUNK, size - start) for start in range(0, size, _CHUNK))


@contextmanager
def _opened(path: str) -> Iterator[_Stream]:
    """An archive, decompressed.

    Raises:
        ArchiveError: what goes wrong while it is read.
    """
    try:
        with remote.open_file(path) if remote.is_url(path) else open(path, "rb") as raw:
            file = io.BufferedReader(raw, _CHUNK) if remote.is_url(path) else raw
            unpacked = _decompressed(file)
            yield _Stream(unpacked, unpacked is file and file.seekable())
    except (OSError, EOFError, MemoryError, tarfile.TarError, zlib.error, ArchiveError) as error:
        raise ArchiveError(f"{path}: {getattr(error, 'strerror', None) or error or 'not enough memory'}") from None


def _decompressed(file: io.BufferedReader) -> IO[bytes]:
    start = file.peek(10)
    if start.startswith(b"\x1f\x8b\x08"):
        return cast("IO[bytes]", gzip.GzipFile(fileobj=file))
    if start[:3] == b"BZh" and start[4:10] == b"1AY&SY":
        return bz2.BZ2File(file)
    if start.startswith((b"\xfd7zXZ", b"\x5d\x00\x00\x80")):
        return io.BufferedReader(_Xz(file), _CHUNK)
    return file


class _Xz(io.RawIOBase):
    """The content of an xz file; unlike `lzma.LZMAFile` it takes no more memory than is allowed."""

    def __init__(self, file: IO[bytes]) -> None:
        import lzma  # not in every Python

        self.file = file
        self.error = lzma.LZMAError
        self.decompressor = lzma.LZMADecompressor(memlimit=XZ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        view = memoryview(target)
        content = b""
        while not content and not self.decompressor.eof:
            data = self.file.read(_START) if self.decompressor.needs_input else b""
            if self.decompressor.needs_input and not data:
                raise EOFError("compressed data ends early")
            try:
                content = self.decompressor.decompress(data, len(view))
            except self.error as error:
                raise OSError(f"xz: {error}") from None
        view[: len(content)] = content
        return len(content)
