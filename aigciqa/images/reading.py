"""The bytes of an image, wherever it lies."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import IO

from aigciqa.errors import ImageError, MissingExtraError
from aigciqa.images import parquet
from aigciqa.utils import object_stores
from aigciqa.utils.paths import at_home

#: Pillow's own limit: twice a quarter gigabyte of RGB pixels.
MAX_PIXELS = 178_956_970
#: As many pixels of four 16-bit channels, uncompressed: a longer file is not read at all.
MAX_BYTES = 8 * MAX_PIXELS


def read_content(source: str | os.PathLike[str], reserve: Callable[[int], object] = lambda size: None) -> bytes:
    """The bytes of a file, of an object that a URL names, or of an image inside a Parquet file (`images.parquet`).

    Args:
        source: path or URL.
        reserve: called with how many bytes there are, before they are read; of Parquet, which says so only then, after.

    Raises:
        ImageError: it can't be read, or is longer than any image allowed.
    """
    name = at_home(os.fspath(source))
    try:
        if (place := parquet.place_of(name)) is not None:
            content = parquet.read_image(place)
            reserve(len(content))
            return content
        with object_stores.open_regular(name) as (stream, size):
            check_length(name, size)
            reserve(size)
            return bytes(stream.read(size))
    except ImageError:
        raise
    except (MissingExtraError, OSError, ValueError) as error:  # ValueError: a NUL byte in the name, too
        raise ImageError(f"{name or repr(name)}: {getattr(error, 'strerror', None) or error}") from error


def may_be_image(path: str) -> bool:
    """Whether a path leads to a file, or into a Parquet file; a URL is not asked for."""
    return object_stores.may_be_file(path) or parquet.place_of(path) is not None


def read_file_object(file: IO[bytes]) -> bytes:
    """The bytes of a file object, from its start; one more than `MAX_BYTES` of one that is longer."""
    if file.seekable():
        file.seek(0)
    data = file.read(MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise TypeError(f"expected a file object that gives bytes, as open(path, 'rb') does; got {type(data).__name__}")
    return data


def check_length(name: str, length: int) -> None:
    """Raise ImageError for more bytes than any image may have."""
    if length > MAX_BYTES:
        raise ImageError(f"{name}: {length:,} bytes are more than the {MAX_BYTES:,} allowed")
