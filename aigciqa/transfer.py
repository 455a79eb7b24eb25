"""Files into a folder by copy, hard link or symbolic link. Nothing that is there is overwritten or deleted."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
from dataclasses import dataclass
from typing import Literal, TypeAlias

Method: TypeAlias = Literal["copy", "hardlink", "symlink"]
State: TypeAlias = Literal["new", "there", "different", "gone"]

#: Errors that the next file would meet as well.
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK})


@dataclass(frozen=True)
class Step:
    """A file and where it goes."""

    source: str
    target: str

    def state(self) -> State:
        """What there is to do.

        `new`: something; `there`: nothing, a file of the same content is there; `different`: nothing can be
        done, another file is there; `gone`: the source is no file (any more).

        Raises:
            OSError: the files can't be looked at.
        """
        if not os.path.isfile(self.source):
            return "gone"
        if not os.path.lexists(self.target):
            return "new"
        same = os.path.isfile(self.target) and (
            os.path.samefile(self.source, self.target) or filecmp.cmp(self.source, self.target, shallow=False)
        )
        return "there" if same else "different"

    def take(self, by: Method) -> None:
        """Put the file in its place, whole or not at all; its folder is made if absent.

        Raises:
            FileExistsError: something has come there since.
            OSError: it can't be done. For `errno` in `LASTING`, another file can't be, either.
        """
        os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        if by == "copy":
            self._copy()
        elif by == "hardlink":
            os.link(os.path.realpath(self.source), self.target)
        else:
            os.symlink(os.path.abspath(self.source), self.target)

    def _copy(self) -> None:
        folder, name = os.path.split(self.target)
        # Of the same name in every run, so that what a killed one left is written over.
        partial = os.path.join(folder, f".aigciqa-{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}.part")
        try:
            shutil.copy2(self.source, partial)
            _move(partial, self.target)
        finally:
            if os.path.lexists(partial):
                os.unlink(partial)


def _move(partial: str, target: str) -> None:
    """Give a file its name without taking another's: `os.rename` would."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(partial, target)
