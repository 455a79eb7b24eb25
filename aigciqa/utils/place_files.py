"""Files into a folder by copy, hard link or symbolic link. Nothing that is there is overwritten or deleted."""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from dataclasses import dataclass
from typing import Literal, TypeAlias

from aigciqa.utils.files import partial
from aigciqa.utils.paths import absolute, check_inside

Method: TypeAlias = Literal["copy", "hardlink", "symlink"]
State: TypeAlias = Literal["new", "there", "different", "gone"]

#: Errors that the next file would meet as well.
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EXDEV, errno.ENOTSUP})


@dataclass(frozen=True)
class Step:
    """A file and where it goes."""

    source: str
    target: str
    folder: str  # above the target; no link may lead out of it

    def beside(self, path: str) -> Step:
        """The step of another file, which goes where this one does, by its own name."""
        return Step(path, os.path.join(os.path.dirname(self.target), os.path.basename(path)), self.folder)

    def state(self) -> State:
        """What there is to do.

        `new`: something; `there`: nothing, a file of the same content is there; `different`: nothing can be done,
        another file is there; `gone`: the source is no file (any more). OSError: they can't be looked at.
        """
        check_inside(self.folder, self.target)
        if not os.path.isfile(self.source):
            return "gone"
        if not os.path.lexists(self.target):
            return "new"
        same = os.path.isfile(self.target) and (
            os.path.samefile(self.source, self.target) or filecmp.cmp(self.source, self.target, shallow=False)
        )
        return "there" if same else "different"

    def place(self, by: Method) -> None:
        """Put the file in its place, whole or not at all; its folder is made if absent.

        FileExistsError: something has come there since. Other OSErrors: it can't be done.
        """
        check_inside(self.folder, self.target)
        os.makedirs(os.path.dirname(self.target) or ".", exist_ok=True)
        if by == "copy":
            with partial(self.target) as unfinished:
                shutil.copy2(self.source, unfinished)
                move(unfinished, self.target)
        elif by == "hardlink":
            os.link(os.path.realpath(self.source), self.target)
        else:
            os.symlink(absolute(self.source), self.target)


def move(unfinished: str | os.PathLike[str], target: str) -> None:
    """Give a file its name without taking another's: `os.rename` would."""
    try:
        os.link(unfinished, target)
    except OSError:  # a file system without hard links
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from None
        os.rename(unfinished, target)
