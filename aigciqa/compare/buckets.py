"""Buckets by score: `great=4,ok=3`, or `2,3,4`."""

from __future__ import annotations

import bisect
import itertools
import math
import re
from dataclasses import dataclass

from aigciqa.errors import InputError

#: What is below the lowest score of all named buckets, if it has no name.
REST = "rest"
#: A name is a folder's on any system: no separator, no `..`, neither blank nor dot at an end.
_NAME = re.compile(r"\w([\w .+-]*[\w+-])?")
#: What Windows keeps for devices, with any suffix.
_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
_MAX_BYTES = 255


@dataclass(frozen=True)
class Buckets:
    """Each bucket goes from its lowest score, which it has, up to the next one's."""

    lowest: tuple[float, ...]  # ascending
    names: tuple[str, ...]  # as ascending, the first one's for what is below all of `lowest`

    @classmethod
    def parse(cls, text: str) -> Buckets:
        """Buckets of `NAME=LOWEST` in any order, the name of all others alone, or of scores that name themselves."""
        items = [item.strip() for item in text.split(",")]
        if "=" not in text:
            lowest = sorted(map(_score, items))
            ends = [f"{score:.15g}" for score in lowest]
            between = [f"{low}-to-{high}" for low, high in itertools.pairwise(ends)]
            return cls(_different(lowest), (f"below-{ends[0]}", *between, f"{ends[-1]}-up"))
        alone = [item for item in items if "=" not in item]
        if len(alone) > 1:
            raise InputError(f"{' and '.join(alone)} have no lowest score, as NAME=SCORE; one bucket is of all others")
        pairs = (item.rpartition("=") for item in items if "=" in item)
        named = sorted((_score(score), name.strip()) for name, _, score in pairs)
        names = [alone[0] if alone else REST, *(name for _, name in named)]
        for name in names:
            if not _NAME.fullmatch(name) or _is_number(name):
                raise InputError(
                    f"{name!r} is no name of a bucket: expected letters, digits, blanks, and - . + between"
                )
            if _DEVICE.fullmatch(name):
                raise InputError(f"{name!r} is no name of a bucket: it can be no folder's on Windows; choose another")
            if len(name.encode()) > _MAX_BYTES:
                raise InputError(f"{name[:20]}... is no name of a bucket: it has more than {_MAX_BYTES} bytes")
        if len({name.lower() for name in names}) < len(names):  # folders of one name, on many systems
            raise InputError(f"two buckets have one name: {', '.join(reversed(names))}")
        return cls(_different([score for score, _ in named]), tuple(names))

    def of(self, score: float) -> str:
        """The name of a score's bucket."""
        return self.names[bisect.bisect_right(self.lowest, score)]


def _score(text: str) -> float:
    if not _is_number(text):
        raise InputError(f"{text!r} is no score: expected NAME=SCORE, such as great=4,ok=3, or scores, such as 2,3,4")
    return float(text)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _different(lowest: list[float]) -> tuple[float, ...]:
    if len(set(lowest)) < len(lowest):
        raise InputError("two buckets begin at one score")
    return tuple(lowest)
