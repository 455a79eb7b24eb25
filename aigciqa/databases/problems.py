"""What is wrong with a copy of a database: collected first, then raised in one error."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from aigciqa.databases.sample import Sample, below
from aigciqa.databases.spec import DatabaseSpec
from aigciqa.errors import DatabaseError
from aigciqa.images.parquet import place_of
from aigciqa.utils.paths import counted, shown


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

    def raise_any(self) -> None:
        """Raise what was found, if anything.

        Raises:
            DatabaseError: with a line for each problem, the layout and where to download the database.
        """
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


def open_root(spec: DatabaseSpec, root: Path, required: Iterable[str] | None = None) -> Problems:
    """Check that the files and folders of the layout are there.

    Args:
        spec: of the database.
        root: its folder.
        required: paths below the root that the layout describes, all if absent; those that end in `/` are folders.

    Returns:
        Where further problems are collected.

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


def check_images(
    problems: Problems, where: str, samples: Sequence[Sample], repeated: Mapping[str, int] | None = None
) -> None:
    """Note images and image prompts that are not there, and images that are rated twice.

    Args:
        problems: where they are noted.
        where: the file that lists them.
        samples: of the database.
        repeated: image's file name -> how often the published labels list it, where that is known to be more than
            once.
    """
    without_name = {str(problems.root), *(str(problems.root / path) for path in problems.spec.layout)}
    counts = Counter(sample.image for sample in samples if sample.image not in without_name)
    _check_there(problems, where, "images", counts)
    references = {sample.reference for sample in samples if sample.reference is not None}
    _check_there(problems, where, "image prompts", references - without_name)
    allowed = repeated or {}
    twice = [path for path, count in counts.items() if count > 1 and count != allowed.get(Path(path).name)]
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
