"""What is known of a database without its files; and one on disk, with its samples and the ways to split it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aigciqa.databases.protocols import BY_PROMPT, checked_options, divide
from aigciqa.databases.sample import Sample
from aigciqa.databases.splits import Split, warn_of_copies
from aigciqa.errors import InputError
from aigciqa.utils.paths import counted


@dataclass(frozen=True)
class DatabaseSpec:
    """What is known of a database without its files.

    Example:
        >>> from aigciqa import database_info
        >>> database_info("agiqa-3k").score_range
        {'quality': (0.0, 5.0), 'correspondence': (0.0, 5.0)}

    Attributes:
        name: as `load_database` takes it.
        title: as its authors call it.
        homepage: where it can be downloaded.
        license: as its authors state it.
        source: the paper that describes it.
        layout: path below the root -> what is expected there.
        score_range: dimension -> (lowest, highest) of the scale its authors give scores on.
        protocols: the splits it has, the default first.
        published: the rule of the protocol `"paper"`, that of the PKU authors' training code; None where it has none.
    """

    name: str
    title: str
    homepage: str
    license: str
    source: str
    layout: Mapping[str, str]
    score_range: Mapping[str, tuple[float, float]]
    protocols: tuple[str, ...]
    published: Literal["every fourth", "shuffled"] | None


@dataclass(frozen=True)
class Database:
    """A database on disk: its labels, read and checked. `load_database` makes it.

    Example:
        >>> from pathlib import Path
        >>> from aigciqa import Database, Sample, database_info
        >>> rows = [(f"{n}.png", f"prompt {n}", {"quality": n / 2}) for n in range(10)]
        >>> samples = tuple(Sample(f"/db/{name}", None, None, None, group, mos, name) for name, group, mos in rows)
        >>> split = Database(database_info("folder"), Path("/db"), samples, {"quality": (0.0, 5.0)}).split(seed=0)
        >>> len(split.train), len(split.validation), len(split.test)
        (6, 2, 2)

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
            InputError: a protocol the database does not have, too few groups, or a wrong option or seed.
        """
        if protocol not in self.protocols:
            raise InputError(
                f"database {self.name!r} has no protocol {protocol!r}; it has: {', '.join(self.protocols)}"
            )
        options = checked_options(protocol, seed, options)
        rule = str(self.spec.published) if protocol == "paper" else protocol
        train, validation, test = divide(self.samples, rule, root=self.root, seed=seed, **options)
        if not (train and validation and test):
            raise InputError(
                f"protocol {protocol!r} leaves nothing to {'test on' if train else 'train on'}: "
                f"{self.name!r} has {len(self.samples)} samples here"
            )
        fixed = rule not in BY_PROMPT
        split = Split(
            database=self.name,
            protocol=protocol,
            seed=None if fixed else int(seed),
            options={**self.options, **options},
            root=self.root,
            train=train,
            validation=validation,
            test=test,
            selected_on_test=fixed,
        )
        warn_of_copies(split)
        return split

    def info(self) -> str:
        """The database in one line."""
        options = "".join(f" ({value})" for value in self.options.values())
        groups = len({sample.group for sample in self.samples})
        references = sum(sample.reference is not None for sample in self.samples)
        ranges = ", ".join(f"{name} [{low:g}, {high:g}]" for name, (low, high) in self.score_range.items())
        parts = (
            counted(self.samples, "image"),
            counted(groups, "prompt"),
            f"{references} with image prompt" if references else "no image prompts",
            f"{len(self.generators)} generators ({', '.join(self.generators)})" if self.generators else "",
            ranges,
            f"license: {self.spec.license}",
            self.spec.homepage,
        )
        return f"{self.name}{options}: {'; '.join(filter(None, parts))}"
