"""How samples are divided: as published, and so that no prompt falls on two sides.

In the published protocols images of one prompt fall on both sides, and the epoch is chosen on the test set. Results
got with them compare with the papers' tables; results got with `prompt-disjoint` tell how a metric does on prompts it
has not seen.
"""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aigciqa.databases.copies import joined_groups
from aigciqa.databases.sample import Sample
from aigciqa.errors import InputError

#: Of the groups; what is left trains.
TEST_SHARE = 0.2
VALIDATION_SHARE = 0.16
#: The paper authors' training code: row i is test where i % 4 == 3.
PERIOD, TESTED = 4, 3
#: The paper authors' training code: seed of the shuffle, and the share that trains.
SHUFFLE_SEED, SHUFFLED_TRAIN_SHARE = 1, 0.8

Samples = tuple[Sample, ...]


def divide(
    samples: Samples, rule: str, *, root: Path, seed: int = 0, **options: int
) -> tuple[Samples, Samples, Samples]:
    """The samples to train on, to choose the epoch on, and to test on; an `InputError` if there are too few groups.

    Args:
        samples: of a database in the folder `root`, in the order of its files.
        rule: a key of `BY_PROMPT` or of `PUBLISHED`, which takes no seed.
        seed, options: of the rule.
    """
    if rule in PUBLISHED:
        train, test = PUBLISHED[rule](samples)
        return train, test, test
    groups = joined_groups(samples, root)
    validation, tested = map(set, BY_PROMPT[rule](_permuted(groups, seed), **options))
    sides = [validation, tested, set(groups) - validation - tested]
    chosen, test, train = (
        tuple(sample for sample, group in zip(samples, groups, strict=True) if group in side) for side in sides
    )
    return train, chosen, test


def checked_options(protocol: str, seed: int, options: Mapping[str, Any]) -> dict[str, int]:
    """The options of a protocol, checked, with the defaults of those that are not given."""
    _check_integer("seed", seed)
    parameters = inspect.signature(BY_PROMPT[protocol]).parameters if protocol in BY_PROMPT else {}
    defaults = {name: given.default for name, given in list(parameters.items())[1:]}
    unknown = [name for name in options if name not in defaults]
    if unknown:
        has = f"its options: {', '.join(defaults)}" if defaults else "it has none"
        raise InputError(f"protocol {protocol!r} has no option {unknown[0]!r}; {has}")
    for name, value in options.items():
        _check_integer(name, value)
    return {name: int(value) for name, value in {**defaults, **options}.items()}


Groups = Collection[str]


def _prompt_disjoint(groups: Sequence[str]) -> tuple[Groups, Groups]:
    if len(groups) < 3:
        raise InputError(f"'prompt-disjoint' needs at least 3 prompts; there are {len(groups)} here")
    tested = max(1, round(TEST_SHARE * len(groups)))
    chosen = tested + max(1, round(VALIDATION_SHARE * len(groups)))
    return groups[tested:chosen], groups[:tested]


def _k_fold(groups: Sequence[str], folds: int = 5, fold: int = 0) -> tuple[Groups, Groups]:
    if folds < 2:
        raise InputError(f"`folds={folds}`: expected 2 or more")
    if fold >= folds:
        raise InputError(f"`fold={fold}`: expected 0 to {folds - 1}, for there are {folds} folds")
    needed = 4 if folds == 2 else folds  # one fold tests, one prompt or more chooses, one or more trains
    if len(groups) < needed:
        raise InputError(f"{folds} folds need at least {needed} prompts; there are {len(groups)} here")
    rest = [group for index, group in enumerate(groups) if index % folds != fold]
    share = VALIDATION_SHARE / (1 - TEST_SHARE)
    return rest[: max(1, round(share * len(rest)))], groups[fold::folds]


#: Permuted groups -> those to choose the epoch on, and those to test on.
BY_PROMPT: Mapping[str, Callable[..., tuple[Groups, Groups]]] = MappingProxyType(
    {"prompt-disjoint": _prompt_disjoint, "k-fold": _k_fold}
)


def _every_fourth(samples: Samples) -> tuple[Samples, Samples]:
    """The split of the paper authors' training code for their own databases: every fourth row tests."""
    test = tuple(sample for index, sample in enumerate(samples) if index % PERIOD == TESTED)
    return tuple(sample for index, sample in enumerate(samples) if index % PERIOD != TESTED), test


def _shuffled(samples: Samples) -> tuple[Samples, Samples]:
    """The split of the paper authors' training code for the other databases: NumPy's legacy shuffle, 80 to 20."""
    import numpy as np

    order = list(range(len(samples)))
    np.random.RandomState(SHUFFLE_SEED).shuffle(order)
    trained = int(SHUFFLED_TRAIN_SHARE * len(order))
    return tuple(samples[index] for index in order[:trained]), tuple(samples[index] for index in order[trained:])


def _made_by(samples: Samples, generator: str) -> Samples:
    return tuple(sample for sample in samples if sample.generator == generator)


#: Samples -> those to train on, and those to test and to choose the epoch on.
PUBLISHED: Mapping[str, Callable[[Samples], tuple[Samples, Samples]]] = MappingProxyType(
    {
        "every fourth": _every_fourth,
        "shuffled": _shuffled,
        "sd": lambda samples: _every_fourth(_made_by(samples, "SD")),
        "mj": lambda samples: _every_fourth(_made_by(samples, "MJ")),
        "sd-mj": lambda samples: (_made_by(samples, "SD"), _made_by(samples, "MJ")),
        "mj-sd": lambda samples: (_made_by(samples, "MJ"), _made_by(samples, "SD")),
    }
)


def _permuted(groups: Sequence[str], seed: int) -> list[str]:
    """The groups in an order that depends on them and the seed alone, on every machine and with every NumPy."""
    import numpy as np

    distinct = sorted(set(groups))
    return [distinct[index] for index in np.random.RandomState(seed).permutation(len(distinct))]


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputError(f"{name} is an integer; got {value!r}")
    if not 0 <= int(value) < 2**32:
        raise InputError(f"{name}={value}: expected 0 to {2**32 - 1}")
