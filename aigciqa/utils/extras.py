"""Packages that only an extra installs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from aigciqa.errors import MissingExtraError


@contextlib.contextmanager
def needs_extra(extra: str, needs: str) -> Iterator[None]:
    """Import packages inside; if one is missing, a MissingExtraError says which extra installs it.

    Args:
        extra: name of the extra, such as `"parquet"`.
        needs: what needs which package, such as `"Parquet files need pyarrow"`.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(f"{needs}: pip install 'aigciqa[{extra}]'") from error
