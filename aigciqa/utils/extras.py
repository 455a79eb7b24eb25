"""Packages that only an extra installs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aigciqa.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(extra: str, needs: str) -> Iterator[None]:
    """Import packages inside; of one that is missing, a MissingExtraError says what needs it and which extra has it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{needs}: pip install 'aigciqa[{extra}]'") from error
