"""Pictures in tar archives, in WebDataset's layout or in any other, read in one pass from the first byte to the last.

WebDataset's layout: members that share the name up to the first dot of its last part are a sample and stand side by
side, `0001/7.jpg` and `0001/7.json`. Of a sample, every picture is scored; a member `7.reference.png` is their image
prompt. A picture whose name has more dots, `0001/7.mask.png` or `sd1.5.png`, is of the sample `0001/7.mask` or `sd1.5`.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from aigciqa import remote
from aigciqa.decode import MAX_BYTES

SUFFIX = ".tar"
REFERENCE_PREFIX = "reference."

Member = TypeVar("Member")


class ArchiveError(ValueError):
    """An archive that can't be read to its end."""


@dataclass(frozen=True)
class Picture:
    """A picture of a sample: the names of its member and of its reference's, and what is in them."""

    name: str
    content: bytes
    reference: str | None
    reference_content: bytes | None


def pictures(path: str, suffixes: Collection[str]) -> Iterator[Picture]:
    """Pictures of an archive, a file or a URL, in its order.

    Args:
        path: of the archive.
        suffixes: of pictures, in lower case, with the dot.

    Raises:
        ArchiveError: it can't be read, or not to its end.
    """
    try:
        with (
            remote.open_file(path) if remote.is_url(path) else open(path, "rb") as file,
            tarfile.open(fileobj=file, mode="r|*") as archive,
        ):
            files = ((member.name, member) for member in archive if member.isfile())
            members = (each for each in files if is_picture(each[0], suffixes))
            yield from pictures_of(members, partial(_content, archive))
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def is_picture(name: str, suffixes: Collection[str]) -> bool:
    """Whether a member is a picture, by its name; hidden files, as macOS adds them, are none."""
    return os.path.splitext(name)[1].lower() in suffixes and not os.path.basename(name).startswith(".")


def pictures_of(members: Iterable[tuple[str, Member]], read: Callable[[Member], bytes]) -> Iterator[Picture]:
    """Pictures among named members that are pictures, whose contents `read` gives.

    A sample ends at a member with another name up to the first dot; one with more dots already at another with more.
    """
    samples: dict[str, dict[str, bytes]] = {}
    for name, member in members:
        key, suffix = _split(name)
        folder, base = os.path.split(name)
        unfinished = (key, os.path.join(folder, base.partition(".")[0]))
        for over in [each for each in samples if each not in unfinished]:
            yield from _of_sample(over, samples.pop(over))
        samples.setdefault(key, {})[suffix] = read(member)
    for key, sample in samples.items():
        yield from _of_sample(key, sample)


def _of_sample(key: str, sample: Mapping[str, bytes]) -> Iterator[Picture]:
    """Pictures of one sample, which maps what follows the dot to contents."""
    prompt = next((suffix for suffix in sample if suffix.startswith(REFERENCE_PREFIX)), None)
    reference = f"{key}.{prompt}" if prompt is not None else None
    for suffix, content in sample.items():
        if not suffix.startswith(REFERENCE_PREFIX):
            yield Picture(f"{key}.{suffix}", content, reference, sample[prompt] if prompt is not None else None)


def _split(name: str) -> tuple[str, str]:
    """A picture's name as the key of its sample and what follows the dot."""
    key = os.path.splitext(name)[0].removesuffix(".reference")
    return key, name[len(key) + 1 :]


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read(MAX_BYTES + 1) if stream is not None else b""  # the decoder refuses what is longer
