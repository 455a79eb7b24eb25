"""The standard error of this process, which C libraries print to as well."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import IO

FILENO = 2


@contextlib.contextmanager
def standard_error_to(file: IO[bytes]) -> Iterator[None]:
    """Send all that this process prints to the standard error to a file, whichever thread or library prints it."""
    try:
        kept = os.dup(FILENO)
    except OSError:  # it is closed
        kept = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(file.fileno(), FILENO)
        yield
    finally:
        os.dup2(kept, FILENO)
        os.close(kept)
