"""Names of files: how they are compared, resolved and listed."""

from __future__ import annotations

import contextlib
import errno
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePath

from aigciqa.utils.object_stores import is_url

#: Of many names, an error shows these first ones.
_SHOWN = 5


def name_key(path: str) -> str:
    """What equal names have in common: composed (NFC) as most systems write them, with `/` between the parts."""
    return unicodedata.normalize("NFC", PurePath(path).as_posix())


def absolute(path: str | os.PathLike[str]) -> str:
    """`os.path.abspath`, but `link/../x` lies beside what the link leads to, where the system finds it.

    A URL is absolute as it is, but for slashes at its end.
    """
    path = os.fspath(path)
    if is_url(path):
        return path.rstrip("/")
    folder, name = os.path.split(path)
    if name == os.pardir:
        return real(path)
    if os.pardir in PurePath(folder).parts:
        folder = real(folder)
    return os.path.abspath(os.path.join(folder, name))


def is_absolute(path: str) -> bool:
    """`os.path.isabs`; a URL is absolute."""
    return is_url(path) or os.path.isabs(path)


def relative(path: str | os.PathLike[str], folder: str | os.PathLike[str]) -> str:
    """A path from a folder, with `/` between its parts; absolute where no path leads: to a URL, or another drive."""
    if not (is_url(os.fspath(path)) or is_url(os.fspath(folder))):
        with contextlib.suppress(ValueError):
            return os.path.relpath(path, folder).replace(os.sep, "/")
    return absolute(path)


def at_home(path: str) -> str:
    """A path with the home folder for `~`, unless there is a file of that very name."""
    return path if os.path.lexists(path) else os.path.expanduser(path)


def real(path: str | os.PathLike[str]) -> str:
    """`os.path.realpath`, also of what can be no file's name: with NUL, or half a surrogate pair; a URL as it is."""
    if is_url(os.fspath(path)):
        return os.fspath(path)
    try:
        return os.path.realpath(path)
    except ValueError:
        return os.path.abspath(path)


def check_inside(folder: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Raise OSError if a link leads out of a folder on the way to what is to be put below it."""
    if not Path(real(os.path.dirname(path))).is_relative_to(real(folder)):
        raise OSError(errno.ELOOP, f"a link leads out of {folder}", os.fspath(path))


def shown(names: Sequence[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def counted(things: Sequence[object] | int, noun: str) -> str:
    """How many there are, in words."""
    number = things if isinstance(things, int) else len(things)
    return f"{number} {noun}{'' if number == 1 else 's'}"
