"""Files that appear whole or not at all, and that one process writes at a time."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import secrets
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from aigciqa.errors import LockedError
from aigciqa.utils.object_stores import is_folder, is_url, names_in, resolve
from aigciqa.utils.paths import absolute, real

#: What killed processes left behind goes when its folder is written to again, if it is older than this.
_STALE_SECONDS = 3600.0
#: How file systems say that they have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of an empty file to be written; it takes the place of `path` when the block ends.

    If the block fails, `path` is as it was and nothing else stays. The file's name can't be guessed, and no link is
    followed, so that in a folder others may write to, nobody can have it written through.
    """
    with partial(path) as unfinished:
        yield unfinished
        os.replace(unfinished, path)


def is_there(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file, or something in a folder, that writing would replace, by its path or URL.

    In an empty file, a pipe and a device there is nothing.
    """
    if is_url(os.fspath(path)):
        filesystem, name = resolve(os.fspath(path))
        return bool(names_in(os.fspath(path)) if is_folder(os.fspath(path)) else filesystem.get_file_info(name).size)
    if os.path.isdir(path):
        with os.scandir(path) as entries:
            return any(entries)
    return not _is_stream(path) and os.path.exists(path) and os.path.getsize(path) > 0


def write_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file, by its path or URL, whole or not at all; or into a pipe or device such as /dev/stdout."""
    if is_url(os.fspath(path)):
        filesystem, name = resolve(os.fspath(path))
        with filesystem.open_output_stream(name) as stream:
            stream.write(data)
        return
    if _is_stream(path):
        with open(path, "wb") as stream:
            stream.write(data)
        return
    with replacing(path) as unfinished:
        unfinished.write_bytes(data)


@contextlib.contextmanager
def partial(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of an empty, hidden file beside `path`; whatever is still there when the block ends is removed."""
    path = Path(path)
    _remove_stale(path.parent)
    unfinished = path.with_name(f"{_prefix(path)}{secrets.token_hex(8)}.part")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0)
    os.close(os.open(unfinished, flags, 0o666))
    try:
        yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes, and other threads of this one, from writing `path` (a file or a folder) meanwhile.

    If one writes it, LockedError is raised at once. A killed process keeps no lock. Where the file system has none,
    there is a warning and the block runs; object stores have none.
    """
    if is_url(os.fspath(path)):
        yield
        return
    from filelock import FileLock, Timeout

    place = Path(real(path))  # under whatever name it is written
    place.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place.with_name(f"{_prefix(place)}lock"), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        written = f"{absolute(path)} is being written by another run"
        raise LockedError(f"{written}: wait for its end, or name another output") from None
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        message = f"{place.parent} is on a file system without locks: see to it that no other run writes {place.name}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            os.unlink(lock.lock_file)  # whoever waits for a lock that is no file any more makes a new one
        lock.release()


def _is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether what is written goes elsewhere: a pipe, a device, or a file that a name in /dev stands for."""
    return os.path.dirname(absolute(path)) in ("/dev", "/dev/fd") or (os.path.exists(path) and not os.path.isfile(path))


def _prefix(path: Path) -> str:
    return f".aigciqa-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}-"


@functools.cache  # once for each folder: it may hold millions of files
def _remove_stale(folder: Path) -> None:
    oldest = time.time() - _STALE_SECONDS
    with contextlib.suppress(OSError):  # no folder yet, no right to look, a file that another process removes as well
        for left in folder.glob(".aigciqa-*.part"):
            if left.lstat().st_mtime < oldest:
                left.unlink()
