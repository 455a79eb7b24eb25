"""Files in object stores: `s3://bucket/key`, `gs://bucket/key` and what else pyarrow has a file system for.

Ray's readers go through the same file systems, so credentials and endpoints are set in one place: the environment.
What can't be reached, opened or listed raises OSError.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import posixpath
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError
from aigciqa.utils.extras import needs_extra

#: Of an object, read at a time: each time is a request.
_BUFFER_BYTES = 2**20
_URL = re.compile(r"([a-z][a-z0-9+.-]+)://([^/]*)/?(.*)", re.DOTALL)
#: A bucket, or for Azure `container@account`. After a `?` pyarrow takes options, such as the host to ask.
_BUCKET = re.compile(r"[\w.-]*|[\w.-]+@[\w-]+\.(?:blob|dfs)\.core\.windows\.net", re.ASCII)


def is_url(path: str) -> bool:
    """Whether it names a file by URL; `C:/x` and a folder called `a:` do not."""
    return _URL.match(path) is not None


def scheme_of(path: str) -> str:
    """What a URL begins with, such as `s3://`; empty for a path."""
    return "".join(path.partition("://")[:2]) if is_url(path) else ""


def check_is_path(output: str | os.PathLike[str]) -> None:
    """Refuse a URL where files of this machine are written: they would go into a folder called `s3:`."""
    if is_url(os.fspath(output)):
        raise InputError(
            f"{os.fspath(output)} is no path of this machine but a URL: write to a path, and copy it there"
        )


def local_path(output: str | os.PathLike[str]) -> Path:
    """A path that is to be written, no URL, with the home folder for `~`."""
    check_is_path(output)
    return Path(os.path.expanduser(output))


def refusal(path: str) -> str | None:
    """Why a path that stands in a file may not be opened; None if it may.

    What is signed with the user's key goes to the host that the environment or the command line names, and no other.
    """
    match = _URL.match(path)
    if match is None or _BUCKET.fullmatch(match[2]):
        return None
    return (
        f"{path}: only a URL on the command line may say more than a bucket between // and /, such as the host to ask; "
        "set the host in the environment (AWS_ENDPOINT_URL)"
    )


def resolve(path: str) -> tuple[Any, str]:
    """The pyarrow file system of a path or URL, and the path in it.

    The key in a URL is taken as it is: `%20`, `?` and `#` stand for themselves.
    """
    match = _URL.match(path)
    if match is None:
        return _import_fs().LocalFileSystem(), path
    scheme, bucket, key = match.groups()
    filesystem, root = _filesystem(f"{scheme}://{bucket}{'' if bucket else '/'}")
    return filesystem, f"{root.rstrip('/')}/{key}"


def open_file(path: str) -> io.BufferedReader:
    """A file, by its path or URL, opened to read its bytes."""
    return io.BufferedReader(_open_object(path), _BUFFER_BYTES) if is_url(path) else open(path, "rb")


@contextlib.contextmanager
def open_regular(path: str) -> Iterator[tuple[Any, int]]:
    """A file, by its path or URL, opened to read its bytes, and how many there are; OSError for a pipe or a folder."""
    if is_url(path):
        with _open_object(path) as stream:
            yield stream, stream.size()
        return
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):  # to open a pipe would wait for its writer
        raise OSError("not a regular file")
    with open(path, "rb") as file:
        yield file, status.st_size


def _open_object(url: str) -> Any:
    filesystem, name = resolve(url)
    return filesystem.open_input_file(name)


def may_exist(path: str) -> bool:
    """Whether there is a file or folder; a URL is not asked for: that would be a request."""
    return is_url(path) or os.path.exists(path)


def may_be_file(path: str) -> bool:
    """Whether there is a file; a URL is not asked for."""
    return is_url(path) or os.path.isfile(path)


def is_folder(path: str) -> bool:
    """Whether a path is a folder, or there are files below a URL."""
    if not is_url(path):
        return os.path.isdir(path)
    filesystem, name = resolve(path)
    return bool(filesystem.get_file_info(name).type == _import_fs().FileType.Directory)


def files_below(folder: str) -> Iterator[tuple[str, str, str | None]]:
    """The files below a folder, a path or URL, by name: path, path from the folder, and no error.

    Links to folders are not followed. A folder of this machine that can't be listed comes with the error; what can't be
    listed of a store raises OSError.
    """
    if is_url(folder):
        for relative in _keys_below(folder):
            yield posixpath.join(folder, relative), relative, None
        return
    waiting = [(folder, "", True)]  # the next one last, without recursion: folders may be nested as deep as paths are
    while waiting:
        path, relative, is_listed = waiting.pop()
        if not is_listed:
            yield path, relative, None
            continue
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name, reverse=True)
        except OSError as error:
            yield path, relative, error.strerror
            continue
        for entry in entries:
            is_real_folder = entry.is_dir(follow_symlinks=False)
            if is_real_folder or not (entry.is_symlink() and os.path.isdir(entry.path)):  # as one to itself is not
                waiting.append((entry.path, os.path.join(relative, entry.name), is_real_folder))


def _keys_below(url: str) -> list[str]:
    filesystem, name = resolve(url)
    infos = filesystem.get_file_info(_import_fs().FileSelector(name, recursive=True))
    relatives = (info.path.removeprefix(name.rstrip("/") + "/") for info in infos if info.is_file)
    return sorted(relatives, key=lambda relative: relative.split("/"))


def names_in(path: str) -> list[str]:
    """Sorted names of the files in a folder, a path or a URL."""
    filesystem, name = resolve(path)
    return sorted(info.base_name for info in filesystem.get_file_info(_import_fs().FileSelector(name)))


@functools.lru_cache(maxsize=64)  # making one may ask the store where the bucket is
def _filesystem(root: str) -> tuple[Any, str]:
    try:
        found: tuple[Any, str] = _import_fs().FileSystem.from_uri(root)
    except ValueError as error:  # pyarrow.lib.ArrowInvalid
        raise OSError(str(error)) from None
    return found


def _import_fs() -> Any:
    with needs_extra("ray", "object stores need pyarrow"):
        from pyarrow import fs
    return fs
