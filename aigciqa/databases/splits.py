"""A database divided, and the file that says how: a result names exactly what it was trained on."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigciqa.databases.copies import originals
from aigciqa.databases.sample import Sample, below
from aigciqa.errors import DatabaseError
from aigciqa.tables.text import write_text
from aigciqa.utils.paths import counted, shown

if TYPE_CHECKING:
    from aigciqa.databases.database import Database

FORMAT = 1
PARTS = ("train", "validation", "test")
#: What a split's file says besides its parts, and of which type.
_HEADER: Mapping[str, type | tuple[type, ...]] = {
    "database": str,
    "protocol": str,
    "seed": (int, type(None)),
    "options": dict,
    "selected_on_test": bool,
}


@dataclass(frozen=True)
class Split:
    """The samples to train on, to choose the epoch on, and to test on. `Database.split` makes it.

    Example:
        >>> from pathlib import Path
        >>> from aigciqa import Sample, Split
        >>> one, two = (Sample(f"/db/{n}.png", None, None, None, n, {"quality": 1.0}, f"{n}.png") for n in "ab")
        >>> print(Split("folder", "paper", None, {}, Path("/db"), (one,), (two,), (two,), selected_on_test=True))
        folder, paper: 1 to train, the epoch is chosen on the test part, 1 to test (99cfffa1789d)

    Attributes:
        database: name of the database.
        protocol: how it was divided.
        seed: of the permutation; None where the protocol is fixed.
        options: of the database and the protocol.
        root: folder of the database.
        train: samples to train on.
        validation: samples to choose the epoch on.
        test: samples to test on.
        selected_on_test: whether `validation` is `test`: the epoch is chosen on the test set, as the papers do.
    """

    database: str
    protocol: str
    seed: int | None
    options: Mapping[str, Any] = field(hash=False)
    root: Path
    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]
    selected_on_test: bool

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the split, 64 hex digits, over its names, pairs, groups and scores; the same on every machine."""
        parts = {part: [self._row(sample) for sample in getattr(self, part)] for part in PARTS}
        content = {**self._header(), "parts": parts}
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON: the names of the samples of each part, and the digest."""
        names = {part: [sample.name for sample in getattr(self, part)] for part in PARTS}
        content = {**self._header(), "digest": self.digest, **names}
        write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str], database: Database) -> Split:
        """Read a split of a database.

        Raises:
            DatabaseError: not a split, a split of another database, samples that the database does not have, or a
                digest that does not fit: the file or the labels are not those it was made from.
        """
        content = _read(path)
        if content["database"] != database.name:
            raise DatabaseError(f"{path}: a split of {content['database']!r}; the database is {database.name!r}")
        samples = {sample.name: sample for sample in database.samples}
        names = [name for part in PARTS for name in content[part]]
        absent = sorted({name for name in names if name not in samples})
        if absent:
            hint = f"; it was loaded with {dict(database.options)}" if database.options else ""
            raise DatabaseError(
                f"{path}: {counted(absent, 'sample')} not in {database.name!r} in {database.root}{hint}: "
                f"{shown(absent)}"
            )
        parts: dict[str, Any] = {part: tuple(samples[name] for name in content[part]) for part in PARTS}
        split = cls(root=database.root, **{name: content[name] for name in _HEADER}, **parts)
        if split.digest != content["digest"]:
            raise DatabaseError(
                f"{path}: its digest is {content['digest']}, but what it lists has {split.digest}: the file was "
                f"altered, or the labels in {database.root} are not those it was made from"
            )
        warn_of_copies(split)
        return split

    def __str__(self) -> str:
        validated = f"{len(self.validation)} to choose"
        chosen = "the epoch is chosen on the test part" if self.selected_on_test else validated
        seed = "" if self.seed is None else f", seed {self.seed}"
        counts = f"{len(self.train)} to train, {chosen}, {len(self.test)} to test"
        return f"{self.database}, {self.protocol}{seed}: {counts} ({self.digest[:12]})"

    def _header(self) -> dict[str, Any]:
        return {"format": FORMAT, **{name: getattr(self, name) for name in _HEADER}, "options": dict(self.options)}

    def _row(self, sample: Sample) -> list[Any]:
        reference = None if sample.reference is None else below(self.root, sample.reference)
        return [sample.name, reference, sample.group, dict(sample.scores)]


def warn_of_copies(split: Split) -> None:
    """Warn of images that are in two parts of a split, under two names or in two rows."""
    sides = [split.train, split.test] if split.selected_on_test else [split.train, split.validation, split.test]
    copied = originals(sample.image for side in sides for sample in side)
    seen: dict[str, Sample] = {}
    pairs = []
    for side in sides:
        mine = {copied.get(sample.image, sample.image): sample for sample in side}
        pairs += [f"{seen[file].name} = {sample.name}" for file, sample in mine.items() if file in seen]
        seen = {**mine, **seen}
    if pairs:
        warnings.warn(
            f"{split.database}, {split.protocol}: {counted(pairs, 'image')} on two sides of the split, so that figures "
            f"flatter: {shown(pairs)}",
            stacklevel=3,
        )


def _read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A split's file, with every key of the right type."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise DatabaseError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise DatabaseError(f"{path}: not a split: {error}") from None
    if not isinstance(content, dict):
        raise DatabaseError(f"{path}: not a split: expected a JSON object, got {type(content).__name__}")
    types: dict[str, Any] = {"format": int, **_HEADER, "digest": str, **dict.fromkeys(PARTS, list)}
    wrong = [name for name, kind in types.items() if name not in content or not isinstance(content[name], kind)]
    if wrong:
        raise DatabaseError(f"{path}: not a split: {wrong[0]!r} is missing or of the wrong type")
    if content["format"] != FORMAT:
        raise DatabaseError(f"{path}: format {content['format']}; this version of aigciqa reads {FORMAT}")
    for part in PARTS:
        names: list[Any] = content[part]
        other = [name for name in names if not isinstance(name, str)]
        if other:
            raise DatabaseError(f"{path}: not a split: {part!r} lists {other[0]!r}, which is no name")
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise DatabaseError(f"{path}: not a split: {part!r} lists {shown(twice)} twice")
    return content
