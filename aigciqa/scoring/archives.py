"""Images in tar archives, in WebDataset's layout or in any other, read in one pass from the first byte to the last.

WebDataset's layout: members that share the name up to the first dot of its last part are a sample and stand side by
side, `0001/7.jpg` and `0001/7.json`. Of a sample, every image is scored; a member `7.reference.png` is their image
prompt. An image whose name has more dots, `0001/7.mask.png` or `sd1.5.png`, is of the sample `0001/7.mask` or `sd1.5`.

An archive may be made to do harm. Nothing of it is written anywhere, and nothing is read into memory that has not been
found to be of a sensible size.
"""

from __future__ import annotations

import io
import posixpath
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import TypeVar

from PIL import Image

from aigciqa.errors import InputError
from aigciqa.images import plugins
from aigciqa.images.decode import FORMATS, readable_formats
from aigciqa.images.names import IMAGE_SUFFIXES
from aigciqa.images.reading import MAX_BYTES
from aigciqa.scoring import tar
from aigciqa.scoring.tar import ArchiveError
from aigciqa.utils import memory

SUFFIX = ".tar"
REFERENCE_PREFIX = "reference."
#: The longest path that Linux takes.
MAX_NAME = 4096
#: Names that are remembered to find those that occur again.
MAX_NAMES = 1_000_000
#: Members of a sample, of which each has a suffix of its own; with more, it is taken for several samples.
MAX_PARTS = 100
#: Bytes of a pixel of four 16-bit channels.
BYTES_PER_PIXEL = 8
#: Of a longer member so much is looked at before the rest is read.
_START = 2**16

Member = TypeVar("Member")


class MemberError(InputError):
    """A member that can't be read; others can."""


@dataclass(frozen=True)
class ArchiveImage:
    """An image of a sample: the names of its member and of its reference's, and what is in them."""

    name: str  # with an error, it may be one that is not usable
    content: bytes | None  # None if there is an error
    reference: str | None = None
    reference_content: bytes | None = None
    error: str | None = None
    reference_error: str | None = None  # also that there is none beside it


def images(path: str) -> Iterator[ArchiveImage]:
    """Images of an archive, a file or a URL, in its order; raises ArchiveError after the last that can be read."""
    with tar.opened(path) as stream:
        yield from images_of(_candidates(stream), partial(_content, stream), attrgetter("size"))


def has_references(path: str) -> bool:
    """Whether an archive has references, beside their images or not, as far as it can be read."""
    try:
        with tar.opened(path) as stream:
            names = (member.name for member in tar.members(stream))
            return any(_split(name)[1].startswith(REFERENCE_PREFIX) for name in names if is_image(name))
    except ArchiveError:
        return False


def is_image(name: str, suffixes: Collection[str] = IMAGE_SUFFIXES) -> bool:
    """Whether a member is an image, by its name; hidden files, as macOS adds them, are none."""
    return posixpath.splitext(name)[1].lower() in suffixes and not posixpath.basename(name).startswith(".")


def is_usable(name: str) -> bool:
    """Whether a member's name can be part of a path below the archive's, on any system."""
    return len(name) <= MAX_NAME and "\0" not in name and ".." not in name.replace("\\", "/").split("/")


def images_of(
    members: Iterable[tuple[str, Member]],
    read: Callable[[Member], bytes],
    size_of: Callable[[Member], int] = len,  # type: ignore[assignment]  # of bytes
) -> Iterator[ArchiveImage]:
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
            for over in [each for each in samples if each not in unfinished or len(samples[each]) >= MAX_PARTS]:
                yield from _of_sample(over, samples.pop(over))
            held = sum(len(part.content) for parts in samples.values() for part in parts)
            try:
                if held and held + size_of(member) > memory.CONTENT_BYTES:
                    raise MemberError(f"with the others of its sample it has more than {memory.CONTENT_BYTES:,} bytes")
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


def _of_sample(key: str, parts: Sequence[_Part]) -> Iterator[ArchiveImage]:
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
            yield ArchiveImage(name, content, error=part.error, reference_error=problems[0])
        else:
            yield ArchiveImage(name, content, f"{key}.{references[0].suffix}", references[0].content, part.error)


def _split(name: str) -> tuple[str, str]:
    """An image's name as the key of its sample and what follows the dot."""
    key = posixpath.splitext(name)[0].removesuffix(".reference")
    return key, name[len(key) + 1 :]


@dataclass(frozen=True)
class _Candidate:
    """A member that may be an image; `problem` says why it is none that can be read."""

    size: int
    problem: str | None


def _candidates(stream: tar.Stream) -> Iterator[tuple[str, _Candidate]]:
    """The members that are images by their names, or archives, each with why it can't be read."""
    seen: set[int] = set()  # hashes, which take less
    for member in tar.members(stream):
        if member.kind == tarfile.DIRTYPE or not is_image(member.name, (*IMAGE_SUFFIXES, SUFFIX)):
            continue
        same = hash(posixpath.normpath(f"/{member.name.lstrip('/')}"))
        problem = _problem(member)
        if problem is None and same in seen:
            problem = "the archive holds this name more than once, and only the first is scored"
        elif problem is None and len(seen) < MAX_NAMES:
            seen.add(same)
        yield member.name, _Candidate(member.size, problem)


def _problem(member: tar.Member) -> str | None:
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


def _content(stream: tar.Stream, member: _Candidate) -> bytes:
    if member.problem is not None:
        raise MemberError(member.problem)
    content = io.BytesIO()  # grows with what there is, whatever the header says
    content.write(stream.read(min(_START, member.size)))
    if member.size > _START:
        _check_start(content.getvalue(), member.size)
    for size in tar.chunks(member.size - content.tell()):
        content.write(stream.read(size))
    return content.getvalue()


def _check_start(start: bytes, size: int) -> None:
    """Refuse what can't be an image of so many bytes by how it starts."""
    accepting = [Image.OPEN[name][1] for name in readable_formats()]
    if not plugins.format_of(start) and not any(accept is None or accept(start[:16]) for accept in accepting):
        raise MemberError(f"not an image in a format that can be read ({', '.join(FORMATS)})")
    if size <= memory.CONTENT_BYTES:
        return
    try:
        with Image.open(io.BytesIO(start), formats=readable_formats()) as image:
            pixels = image.width * image.height
    except Exception:  # which stands further back, or nowhere
        pixels = 0
    if size > memory.CONTENT_BYTES + BYTES_PER_PIXEL * pixels:
        shape = f"an image of {pixels:,} pixels" if pixels else "an image that does not start with its size in pixels"
        raise MemberError(f"{size:,} bytes are more than {shape} needs")
