"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path


def partial_of(path: str | os.PathLike[str]) -> Path:
    """A hidden name beside a file, the same in every run, so that what a killed one left is written over."""
    path = Path(path)
    return path.with_name(f".aigciqa-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.part")


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give the path of a file to be written, which takes the place of `path` once it is; of a failure nothing stays."""
    partial = partial_of(path)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
