"""The same file under several names: what was rated twice, or would be trained on and tested on."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path


def originals(paths: Iterable[str]) -> Mapping[str, str]:
    """Which files are copies: path -> the first of the paths whose file holds the same bytes, for those that have one.

    Only files of equal length are read, so this is cheap. Re-encoded images are no copies; images inside a Parquet file
    are not looked into.
    """
    of_length: dict[int, list[str]] = defaultdict(list)
    for path in dict.fromkeys(paths):
        with contextlib.suppress(OSError):  # reading the image will say why
            of_length[os.stat(path).st_size].append(path)
    first: dict[bytes, str] = {}
    found = {}
    for length, alike in of_length.items():
        for path in alike if length and len(alike) > 1 else ():
            with contextlib.suppress(OSError):
                original = first.setdefault(hashlib.blake2b(Path(path).read_bytes()).digest(), path)
                if original != path:
                    found[path] = original
    return found
