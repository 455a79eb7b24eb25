"""The label files of databases, and what is wrong with a copy of one: collected first, then raised in one error."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aigciqa.databases.database import DatabaseSpec
from aigciqa.databases.sample import Sample, below, with_names
from aigciqa.errors import DatabaseError
from aigciqa.images.parquet import place_of
from aigciqa.tables.column_table import ColumnTable, TableError, read_columns
from aigciqa.utils.paths import counted, shown


@dataclass(frozen=True)
class Labels:
    """A label file: `where` is its path below the root of the database."""

    problems: Problems
    where: str
    table: ColumnTable

    @property
    def root(self) -> Path:
        """Folder of the database."""
        return self.problems.root

    def numbers(self, name: str) -> list[float]:
        """A column of labels. Cells that hold no number are noted, and NaN in the result."""
        numbers = self.table.numbers(name)
        cells = enumerate(zip(self.table.column(name), numbers, strict=True), self.table.first)
        nan = [(row, cell) for row, (cell, number) in cells if math.isnan(number)]
        wrong = [f"row {row} is {'empty' if cell is None else repr(cell)}" for row, cell in nan]
        if wrong:
            self.problems.add(self.where, f"{counted(wrong, 'label')} of {name!r} without a number: {shown(wrong)}")
        return numbers

    def texts(self, name: str) -> list[str]:
        """A column of text, stripped. Empty cells are noted."""
        texts = self.table.texts(name)
        empty = [f"row {row}" for row, text in enumerate(texts, self.table.first) if not text]
        if empty:
            self.problems.add(self.where, f"{counted(empty, 'cell')} of {name!r} empty: {shown(empty)}")
        return texts

    def optional_texts(self, name: str) -> list[str]:
        """A column of text that may have empty cells or be missing."""
        return self.table.texts(name) if name in self.table.columns else [""] * len(self.table.rows)


class Problems:
    """The problems of a copy of a database in the folder `root`, found so far."""

    def __init__(self, spec: DatabaseSpec, root: Path) -> None:
        self.spec = spec
        self.root = root
        self._found: list[str] = []
        self._missing: set[str] = set()

    def add(self, where: str, what: str) -> None:
        """Note a problem with the file or folder `where`, a path below the root."""
        self._found.append(f"{where}: {what}")

    def missing(self, where: str) -> None:
        """Note that what the layout has at `where` is not there."""
        self._missing.add(where)
        self.add(where, f"not there; expected {self.spec.layout[where]}")

    def has(self, where: str) -> bool:
        """Whether a file or folder of the layout is there."""
        return where not in self._missing

    @contextlib.contextmanager
    def noting(self, where: str) -> Iterator[None]:
        """Note a file that can't be read inside."""
        try:
            yield
        except TableError as error:
            self.add(where, str(error))

    def raise_any(self) -> None:
        """Raise a `DatabaseError` of what was found, if anything, with the layout and where to download it."""
        if not self._found:
            return
        lines = [
            f"{self.spec.title} in {self.root}: {counted(self._found, 'problem')}",
            *(f"- {problem}" for problem in self._found),
            f"Expected there: {', '.join(self.spec.layout)}.",
            f"The folder holds: {_contents(self.root)}.",
        ]
        if self.spec.homepage:
            lines.append(f"Download {self.spec.title} from {self.spec.homepage}")
        raise DatabaseError("\n".join(lines))


def read_samples(
    spec: DatabaseSpec,
    root: Path,
    where: str,
    columns: Sequence[str],
    to_samples: Callable[[Labels], Iterable[Sample]],
    repeated: Mapping[str, int] | None = None,
) -> tuple[Sample, ...]:
    """The samples that the label file of a database lists, with names.

    Args:
        spec, root: the database and its folder.
        where: path of the label file below the root: `.xlsx`, `.csv` or `.parquet`.
        columns: that it must have.
        to_samples: makes samples of the labels.
        repeated: image's file name -> how often the published labels list it, where that is more than once.

    Raises:
        DatabaseError: with every problem that was found.
    """
    problems = open_root(spec, root)
    labels = read_labels(problems, where, columns) if problems.has(where) else None
    samples = with_names(to_samples(labels), root) if labels is not None else ()
    _check_images(problems, where, samples, repeated or {})
    problems.raise_any()
    return samples


def read_labels(problems: Problems, where: str, columns: Sequence[str] = (), header: bool = True) -> Labels | None:
    """A label file; None if it can't be used, which is noted. The other arguments are those of `read_columns`."""
    with problems.noting(where):
        return Labels(problems, where, read_columns(problems.root / where, columns, header))
    return None


def open_root(spec: DatabaseSpec, root: Path, required: Iterable[str] | None = None) -> Problems:
    """Note what the layout has and the folder `root` lacks; of the layout, only `required`, if given.

    Raises:
        DatabaseError: the root is no folder.
    """
    problems = Problems(spec, root)
    if not root.is_dir():
        problems.add(str(root), "is no folder" if root.exists() else "no such folder")
        problems.raise_any()
    for path in spec.layout if required is None else required:
        if not ((root / path).is_dir() if path.endswith("/") else (root / path).is_file()):
            problems.missing(path)
    return problems


def _check_images(problems: Problems, where: str, samples: Sequence[Sample], repeated: Mapping[str, int]) -> None:
    """Note images and image prompts that are not there, and images that are rated twice."""
    without_name = {str(problems.root), *(str(problems.root / path) for path in problems.spec.layout)}
    counts = Counter(sample.image for sample in samples if sample.image not in without_name)
    _check_there(problems, where, "images", counts)
    references = {sample.reference for sample in samples if sample.reference is not None}
    _check_there(problems, where, "image prompts", references - without_name)
    twice = [path for path, count in counts.items() if count > 1 and count != repeated.get(Path(path).name)]
    if twice:
        names = shown([below(problems.root, path) for path in twice])
        problems.add(where, f"{counted(twice, 'image')} listed more than once: {names}")


def _check_there(problems: Problems, where: str, what: str, paths: Collection[str]) -> None:
    noted = tuple(f"{problems.root / path}{os.sep}" for path in problems.spec.layout if not problems.has(path))
    absent = sorted(
        path for path in paths if not os.path.isfile(path) and not path.startswith(noted) and place_of(path) is None
    )
    if absent:
        names = shown([below(problems.root, path) for path in absent])
        problems.add(where, f"{len(absent)} of the {len(paths)} {what} missing: {names}")


def _contents(root: Path) -> str:
    try:
        entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    except OSError:
        return "nothing that can be read"
    return shown(entries) or "nothing"
