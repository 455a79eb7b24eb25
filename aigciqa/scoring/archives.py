"""Pictures in tar archives, in WebDataset's layout or in any other, read in one pass from the first byte to the last.

WebDataset's layout: members that share the name up to the first dot of its last part are a sample and stand side by
side, `0001/7.jpg` and `0001/7.json`. Of a sample, every picture is scored; a member `7.reference.png` is their image
prompt.
"""

from __future__ import annotations

import itertools
import os
import tarfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from aigciqa import remote
from aigciqa.decode import MAX_BYTES

SUFFIX = ".tar"
REFERENCE_PREFIX = "reference."


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
            members = ((*_split(member.name), member) for member in archive if member.isfile())
            for key, group in itertools.groupby(members, key=lambda entry: entry[0]):
                sample = {
                    suffix: _content(archive, member)
                    for _, suffix, member in group
                    if _is_picture(suffix.removeprefix(REFERENCE_PREFIX), suffixes)
                }
                yield from pictures_of(key, sample, suffixes)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise ArchiveError(f"{path}: {getattr(error, 'strerror', None) or error}") from None


def pictures_of(key: str, sample: Mapping[str, bytes], suffixes: Collection[str]) -> Iterator[Picture]:
    """Pictures of one sample, which maps what follows the dot to contents."""
    prompt = next((suffix for suffix in sample if suffix.startswith(REFERENCE_PREFIX)), None)
    reference = f"{key}.{prompt}" if prompt is not None else None
    for suffix, content in sample.items():
        if _is_picture(suffix, suffixes):
            yield Picture(f"{key}.{suffix}", content, reference, sample[prompt] if prompt is not None else None)


def _split(name: str) -> tuple[str, str]:
    """A member's name as the key of its sample and what follows the dot."""
    folder, base = os.path.split(name)
    key, _, suffix = base.partition(".")
    return os.path.join(folder, key), suffix


def _is_picture(suffix: str, suffixes: Collection[str]) -> bool:
    return f".{suffix.lower()}" in suffixes


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    return stream.read(MAX_BYTES + 1) if stream is not None else b""  # the decoder refuses what is longer
