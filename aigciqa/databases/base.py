"""What a database is: its samples, what is known of it as data, and the list of what is wrong with a copy of it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aigciqa.errors import DatabaseError
from aigciqa.images.parquet import place_of
from aigciqa.utils.paths import shown

if TYPE_CHECKING:
    from aigciqa.databases.splits import Split

#: The three that a database's `overall` is the sum of.
SUMMED = ("quality", "authenticity", "correspondence")
DIMENSIONS = (*SUMMED, "overall")


@dataclass(frozen=True)
class Sample:
    """One rated image.

    Attributes:
        image: absolute path of the generated image; where that lies in a Parquet file, see `aigciqa.images.parquet`.
        reference: absolute path of its image prompt; None where it was made from text alone.
        prompt: its text prompt, if the database has it.
        generator: the model that made it, as the database's files call it.
        group: its image prompt, else its text prompt: samples of one group belong on one side of a split.
        scores: dimension -> mean opinion score, on the database's own scale.
        name: of the row in the database: the image's path below the root, with `/`; `#2` follows in the second row
            of the same image.
    """

    image: str
    reference: str | None
    prompt: str | None
    generator: str | None
    group: str
    scores: Mapping[str, float] = field(hash=False)
    name: str = ""


@dataclass(frozen=True)
class DatabaseSpec:
    """What is known of a database without its files.

    Attributes:
        name: as `load_database` takes it.
        title: as its authors call it.
        homepage: where it is to be had.
        licence: as its authors state it.
        source: the paper that describes it.
        layout: path below the root -> what is expected there.
        score_range: dimension -> (lowest, highest) of the scale its authors give scores on.
        protocols: the splits it has, the default first.
        published: the rule of the protocol `"paper"`, that of the PKU authors' training code; None where it has none.
    """

    name: str
    title: str
    homepage: str
    licence: str
    source: str
    layout: Mapping[str, str]
    score_range: Mapping[str, tuple[float, float]]
    protocols: tuple[str, ...]
    published: Literal["every fourth", "shuffled"] | None


@dataclass(frozen=True)
class Database:
    """A database on disk: its labels, read and checked.

    Attributes:
        spec: what is known of it without its files.
        root: its folder, absolute.
        samples: one for each row of its labels, in the order of its files.
        score_range: dimension -> (lowest, highest).
        options: what it was loaded with, where that is not the default.
    """

    spec: DatabaseSpec
    root: Path
    samples: tuple[Sample, ...]
    score_range: Mapping[str, tuple[float, float]]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name `load_database` takes."""
        return self.spec.name

    @property
    def dimensions(self) -> tuple[str, ...]:
        """What its images were rated for."""
        return tuple(self.score_range)

    @property
    def generators(self) -> tuple[str, ...]:
        """The models that made the images, sorted; empty where the database does not tell."""
        return tuple(sorted({sample.generator for sample in self.samples if sample.generator is not None}))

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols `split` takes, the default first."""
        return self.spec.protocols

    def split(self, protocol: str = "prompt-disjoint", seed: int = 0, **options: Any) -> Split:
        """Divide the samples for training, choosing the epoch, and testing.

        Args:
            protocol: `"prompt-disjoint"`, `"k-fold"`, `"paper"`, or for PKU-I2IQA `"sd"`, `"mj"`, `"sd-mj"`, `"mj-sd"`.
            seed: of the permutation of the groups; the published protocols are fixed and take none.
            options: `folds=5` and `fold=0` for `"k-fold"`.

        Raises:
            InputError: a protocol the database does not have, too few groups, or a wrong option.
        """
        from aigciqa.databases.protocols import make_split

        return make_split(self, protocol, seed, **options)

    def info(self) -> str:
        """The database in one line."""
        options = "".join(f" ({value})" for value in self.options.values())
        groups = len({sample.group for sample in self.samples})
        references = sum(sample.reference is not None for sample in self.samples)
        generators = f"{len(self.generators)} generators ({', '.join(self.generators)})" if self.generators else ""
        ranges = ", ".join(f"{name} [{low:g}, {high:g}]" for name, (low, high) in self.score_range.items())
        parts = (
            f"{len(self.samples)} images",
            f"{groups} prompts",
            f"{references} with image prompt" if references else "no image prompts",
            generators,
            ranges,
            f"licence: {self.spec.licence}",
            self.spec.homepage,
        )
        return f"{self.name}{options}: {'; '.join(filter(None, parts))}"


class Problems:
    """What is wrong with a copy of a database: collected first, then raised in one error."""

    def __init__(self, spec: DatabaseSpec, root: Path) -> None:
        self.spec = spec
        self.root = root
        self._found: list[str] = []
        self._missing: set[str] = set()

    def __bool__(self) -> bool:
        return bool(self._found)

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
            DatabaseError: with a line for each problem, the layout and where the database is to be had.
        """
        if not self._found:
            return
        lines = [
            f"{self.spec.title} in {self.root}: {counted(self._found, 'problem')}",
            *(f"- {problem}" for problem in self._found),
        ]
        lines += [f"Expected there: {', '.join(self.spec.layout)}.", f"The folder holds: {_contents(self.root)}."]
        if self.spec.homepage:
            lines.append(f"{self.spec.title} is to be had at {self.spec.homepage}")
        raise DatabaseError("\n".join(lines))


def open_root(spec: DatabaseSpec, root: Path, required: Iterable[str]) -> Problems:
    """Check that the files and folders of the layout are there.

    Args:
        required: paths below the root that the layout describes; those that end in `/` are folders.

    Returns:
        Where further problems are collected.
    """
    problems = Problems(spec, root)
    if not root.is_dir():
        problems.add(str(root), "is no folder" if root.exists() else "no such folder")
        problems.raise_any()
    for path in required:
        if not ((root / path).is_dir() if path.endswith("/") else (root / path).is_file()):
            problems.missing(path)
    return problems


def check_images(
    problems: Problems, where: str, samples: Sequence[Sample], repeated: Mapping[str, int] | None = None
) -> None:
    """Note images and image prompts that are not there, and images that are rated twice.

    Args:
        where: the file that lists them.
        repeated: image's file name -> how often the published labels list it, where that is known to be more than
            once.
    """
    folders = {
        str(problems.root),
        *(str(problems.root / path) for path in problems.spec.layout),
    }  # the paths of rows without a name
    counts = Counter(sample.image for sample in samples if sample.image not in folders)
    _check_there(problems, where, "images", counts)
    references = {sample.reference for sample in samples if sample.reference is not None}
    _check_there(problems, where, "image prompts", references - folders)
    allowed = repeated or {}
    twice = [path for path, count in counts.items() if count > 1 and count != allowed.get(Path(path).name)]
    if twice:
        named = shown([below(problems.root, path) for path in twice])
        problems.add(where, f"{counted(twice, 'image')} listed more than once: {named}")


def _check_there(problems: Problems, where: str, what: str, paths: Collection[str]) -> None:
    noted = tuple(f"{problems.root / path}{os.sep}" for path in problems.spec.layout if not problems.has(path))
    absent = sorted(
        path for path in paths if not os.path.isfile(path) and not path.startswith(noted) and place_of(path) is None
    )
    if absent:
        named = shown([below(problems.root, path) for path in absent])
        problems.add(where, f"{len(absent)} of the {len(paths)} {what} missing: {named}")


def with_overall(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores with `overall`: as given, else the sum of the other three where all are there."""
    if "overall" in scores or not all(name in scores for name in SUMMED):
        return dict(scores)
    return {**scores, "overall": sum(scores[name] for name in SUMMED)}


def same_range(low: float, high: float, *dimensions: str) -> dict[str, tuple[float, float]]:
    """The same range for each dimension."""
    return dict.fromkeys(dimensions, (low, high))


def counted(things: Sequence[object], noun: str) -> str:
    """How many there are, in words."""
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def named(samples: Iterable[Sample], root: Path) -> tuple[Sample, ...]:
    """The samples, each with its unique name."""
    seen = Counter[str]()
    result = []
    for sample in samples:
        name = below(root, sample.image)
        seen[name] += 1
        result.append(replace(sample, name=name if seen[name] == 1 else f"{name}#{seen[name]}"))
    return tuple(result)


def prefix(file_name: str) -> str | None:
    """The model in a file name such as `sd1.5_lowstep_000.jpg`; None where it has none."""
    model, underscore, _ = file_name.partition("_")
    return model if model and underscore else None


def as_group(prompt: str) -> str:
    """A text prompt as the name of a group: spacing does not make another prompt."""
    return " ".join(prompt.split())


def below(root: Path, path: str) -> str:
    """A path as the part below the root, with `/`; whole where it lies elsewhere."""
    return path.removeprefix(f"{root}{os.sep}").replace(os.sep, "/")


def _contents(root: Path) -> str:
    try:
        entries = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in root.iterdir())
    except OSError:
        return "nothing that can be read"
    return shown(entries) or "nothing"
