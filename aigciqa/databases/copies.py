"""The same file under several names: what was rated twice, or would be trained on and tested on."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aigciqa.databases.sample import Sample, below
from aigciqa.utils.paths import shown


def originals(paths: Iterable[str]) -> Mapping[str, str]:
    """Which files are copies: path -> the first of the paths whose file holds the same bytes, for those that have one.

    Only files of equal length are read. Re-encoded images and those inside a Parquet file are no copies.
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


def joined_groups(samples: Sequence[Sample], root: Path) -> list[str]:
    """The group of each sample; those that hold the same file under two names are one, named after the first of them.

    That file is an image, or an image prompt that is the group. Groups that are joined are named in a warning.
    """
    files = [[sample.image] for sample in samples]
    for sample, mine in zip(samples, files, strict=True):
        if sample.reference is not None and below(root, sample.reference).endswith(sample.group):
            mine.append(sample.reference)
    copied = originals(path for mine in files for path in mine)
    stands_for = {sample.group: sample.group for sample in samples}

    def joined(group: str) -> str:
        while stands_for[group] != group:
            group = stands_for[group]
        return group

    group_of: dict[str, str] = {}
    found = set()
    for sample, mine in zip(samples, files, strict=True):
        for path in mine:
            original = copied.get(path, path)
            one, other = sorted((joined(sample.group), joined(group_of.setdefault(original, sample.group))))
            if one != other and original != path:
                stands_for[other] = one
                found.add(f"{below(root, path)} = {below(root, original)}")
    if found:
        warnings.warn(
            f"prompts that share a file under two names are kept on one side: {shown(sorted(found))}",
            stacklevel=4,
        )
    return [joined(sample.group) for sample in samples]
