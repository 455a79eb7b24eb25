"""How samples are divided: as published, and so that no prompt falls on two sides.

In the published protocols images of one prompt fall on both sides, and the epoch is chosen on the test set. Results
got with them compare with the papers' tables; results got with `prompt-disjoint` tell how a metric does on prompts it
has not seen.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from aigciqa.databases.base import Database, Sample, below
from aigciqa.databases.copies import originals
from aigciqa.databases.splits import Split, warn_of_copies
from aigciqa.errors import InputError
from aigciqa.utils.paths import shown

#: Of the groups; what is left trains.
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.16
#: The paper authors' training code: row i is test where i % 4 == 3.
PERIOD, TESTED = 4, 3
#: The paper authors' training code: seed of the shuffle, and the share that trains.
SHUFFLE_SEED, SHUFFLED_TRAIN_SHARE = 1, 0.8

Samples = tuple[Sample, ...]
Parts = tuple[Samples, Samples, Samples]


def make_split(database: Database, protocol: str, seed: int = 0, **options: Any) -> Split:
    """Divide a database's samples into a part to train on, one to choose the epoch on, and one to test on.

    Raises:
        InputError: a protocol the database does not have, too few samples or groups, or a wrong option or seed.
    """
    if protocol not in database.protocols:
        raise InputError(
            f"database {database.name!r} has no protocol {protocol!r}; it has: {', '.join(database.protocols)}"
        )
    _check_integer("seed", seed, 0)
    divide = _PROTOCOLS[protocol]
    defaults = {name: given.default for name, given in list(inspect.signature(divide).parameters.items())[2:]}
    unknown = [name for name in options if name not in defaults]
    if unknown:
        has = f"its options: {', '.join(defaults)}" if defaults else "it has none"
        raise InputError(f"protocol {protocol!r} has no option {unknown[0]!r}; {has}")
    options = {**defaults, **options}
    train, validation, test = divide(database, seed, **options)
    if not (train and validation and test):
        raise InputError(
            f"protocol {protocol!r} leaves nothing to {'train on' if not train else 'test on'}: "
            f"{database.name!r} has {len(database.samples)} samples here"
        )
    fixed = protocol not in _SEEDED
    split = Split(
        database=database.name,
        protocol=protocol,
        seed=None if fixed else int(seed),
        options={**database.options, **{name: int(value) for name, value in options.items()}},
        root=database.root,
        train=train,
        validation=validation,
        test=test,
        selected_on_test=fixed,
    )
    warn_of_copies(split)
    return split


def _prompt_disjoint(database: Database, seed: int) -> Parts:
    of_sample = _joined_groups(database)
    groups = _permuted(of_sample, seed)
    if len(groups) < 3:
        raise InputError(f"'prompt-disjoint' needs at least 3 prompts; {database.name!r} has {len(groups)} here")
    tested = max(1, round(TEST_SHARE * len(groups)))
    chosen = tested + max(1, round(VALIDATION_SHARE * len(groups)))
    return _by_group(database.samples, of_sample, validation=groups[tested:chosen], test=groups[:tested])


def _k_fold(database: Database, seed: int, folds: int = 5, fold: int = 0) -> Parts:
    of_sample = _joined_groups(database)
    groups = _permuted(of_sample, seed)
    _check_integer("folds", folds, 2)
    _check_integer("fold", fold, 0)
    if fold >= folds:
        raise InputError(f"fold={fold}: expected 0 to {folds - 1}, for there are {folds} folds")
    needed = 4 if folds == 2 else folds  # one fold tests, one prompt or more chooses, one or more trains
    if len(groups) < needed:
        raise InputError(f"{folds} folds need at least {needed} prompts; {database.name!r} has {len(groups)} here")
    test = groups[fold::folds]
    rest = [group for index, group in enumerate(groups) if index % folds != fold]
    share = VALIDATION_SHARE / (1 - TEST_SHARE)
    return _by_group(database.samples, of_sample, validation=rest[: max(1, round(share * len(rest)))], test=test)


def _paper(database: Database, seed: int) -> Parts:
    divide = {"every fourth": _every_fourth, "shuffled": _shuffled}[str(database.spec.published)]
    return _as_published(*divide(database.samples))


def _one_generator(generator: str) -> Callable[[Database, int], Parts]:
    def divide(database: Database, seed: int) -> Parts:
        return _as_published(*_every_fourth(_made_by(database, generator)))

    return divide


def _cross_generator(trained: str, tested: str) -> Callable[[Database, int], Parts]:
    def divide(database: Database, seed: int) -> Parts:
        return _as_published(_made_by(database, trained), _made_by(database, tested))

    return divide


_PROTOCOLS: Mapping[str, Callable[..., Parts]] = MappingProxyType(
    {
        "prompt-disjoint": _prompt_disjoint,
        "k-fold": _k_fold,
        "paper": _paper,
        "sd": _one_generator("SD"),
        "mj": _one_generator("MJ"),
        "sd-mj": _cross_generator("SD", "MJ"),
        "mj-sd": _cross_generator("MJ", "SD"),
    }
)
_SEEDED = frozenset({"prompt-disjoint", "k-fold"})


def _every_fourth(samples: Sequence[Sample]) -> tuple[Samples, Samples]:
    """The split of the paper authors' training code for their own databases: every fourth row tests."""
    test = tuple(sample for index, sample in enumerate(samples) if index % PERIOD == TESTED)
    return tuple(sample for index, sample in enumerate(samples) if index % PERIOD != TESTED), test


def _shuffled(samples: Sequence[Sample]) -> tuple[Samples, Samples]:
    """The split of the paper authors' training code for the other databases: NumPy's legacy shuffle, 80 to 20."""
    order = list(range(len(samples)))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    trained = int(SHUFFLED_TRAIN_SHARE * len(order))
    return tuple(samples[index] for index in order[:trained]), tuple(samples[index] for index in order[trained:])


def _as_published(train: Samples, test: Samples) -> Parts:
    """The epoch is chosen on what is tested."""
    return train, test, test


def _made_by(database: Database, generator: str) -> Samples:
    return tuple(sample for sample in database.samples if sample.generator == generator)


def _joined_groups(database: Database) -> list[str]:
    """The group of each sample; those that hold the same file under two names are one, named after the first of them.

    That file is an image, or an image prompt that is the group.
    """
    files = [[sample.image] for sample in database.samples]
    for sample, mine in zip(database.samples, files, strict=True):
        if sample.reference is not None and below(database.root, sample.reference).endswith(sample.group):
            mine.append(sample.reference)
    copied = originals(path for mine in files for path in mine)
    stands_for = {sample.group: sample.group for sample in database.samples}

    def joined(group: str) -> str:
        while stands_for[group] != group:
            group = stands_for[group]
        return group

    group_of: dict[str, str] = {}
    found = set()
    for sample, mine in zip(database.samples, files, strict=True):
        for path in mine:
            original = copied.get(path, path)
            one, other = sorted((joined(sample.group), joined(group_of.setdefault(original, sample.group))))
            if one != other and original != path:
                stands_for[other] = one
                found.add(f"{below(database.root, path)} = {below(database.root, original)}")
    if found:
        warnings.warn(
            f"{database.name}: prompts that share a file under two names are kept on one side: {shown(sorted(found))}",
            stacklevel=2,
        )
    return [joined(sample.group) for sample in database.samples]


def _permuted(groups: Sequence[str], seed: int) -> list[str]:
    """The groups in an order that depends on them and the seed alone, on every machine and with every NumPy."""
    distinct = sorted(set(groups))
    return [distinct[index] for index in np.random.RandomState(seed).permutation(len(distinct))]


def _by_group(
    samples: Sequence[Sample], groups: Sequence[str], validation: Collection[str], test: Collection[str]
) -> Parts:
    """Samples whose group is neither in `validation` nor in `test` train; each part keeps the order of the files."""
    held_out = {**dict.fromkeys(validation, 1), **dict.fromkeys(test, 2)}
    parts: tuple[list[Sample], ...] = ([], [], [])
    for sample, group in zip(samples, groups, strict=True):
        parts[held_out.get(group, 0)].append(sample)
    train, chosen, tested = map(tuple, parts)
    return train, chosen, tested


def _check_integer(name: str, value: object, lowest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} is an integer; got {value!r}")
    if not lowest <= value < 2**32:
        raise InputError(f"{name}={value}: expected {lowest} to {2**32 - 1}")
