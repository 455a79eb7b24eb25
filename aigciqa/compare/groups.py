"""Groups of scored images against each other: matched by prompt, compared by each metric and dimension."""

from __future__ import annotations

import itertools
import math
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from aigciqa.compare.picking import Pick, pick
from aigciqa.errors import InputError
from aigciqa.stats.groups import (
    MIN_MATCHED,
    Difference,
    GroupSummary,
    NonInferiority,
    Scores,
    differences,
    non_inferiority,
    summaries,
)
from aigciqa.stats.means import prompt_of
from aigciqa.tables.columns import Row
from aigciqa.tables.scores import ScoreTable, below_common_folder
from aigciqa.utils.paths import absolute, name_key

#: More groups are compared with a baseline only: the pairs of these are 19,900.
GROUP_LIMIT = 200
#: Key of a row that has no scores, or that nothing is matched with.
_NO_KEY = ""


@dataclass(frozen=True)
class Group:
    """The rows of one generator or checkpoint."""

    name: str
    rows: Sequence[Row]  # as `tables.columns.to_row` makes them; a dimension may be missing
    relative_paths: Sequence[str]  # of each row with scores, the image's path below the group's folder
    table: ScoreTable | None = None  # where the rows were read from, if from a table

    @classmethod
    def of_rows(cls, name: str, rows: Sequence[Row], table: ScoreTable | None = None) -> Group:
        """A group whose folder is the deepest one that holds all its images with scores."""
        scored = [row["image"] for row in rows if row["error"] is None]
        relative_paths = dict(zip(scored, below_common_folder(scored), strict=True))
        return cls(name, rows, [relative_paths.get(row["image"], _NO_KEY) for row in rows], table)

    def score(self, row: Row, dimension: str) -> Any:
        """A row's score; None where that is a column of which its table does not say that it holds scores."""
        return None if self.table is not None and dimension in self.table.others else row.get(dimension)

    @property
    def failures(self) -> list[Row]:
        """The rows that have an error instead of scores."""
        return [row for row in self.rows if row["error"] is not None]


@dataclass(frozen=True)
class Matching:
    """How the images of groups belong together."""

    rule: str | None  # what two images of one prompt have in common; None if groups can't be matched
    keys: Mapping[str, Sequence[str]]  # group -> the prompt of each of its rows; empty without a rule
    seeds: Mapping[str, Sequence[str]] | None = None  # group -> the seed of each of its rows, if these are matched, too


@dataclass(frozen=True)
class Comparison:
    """Groups compared by one dimension of one metric."""

    metric: str
    dimension: str
    summaries: tuple[GroupSummary, ...]  # best mean first
    differences: tuple[Difference, ...]  # of all pairs, or of each group from the baseline
    non_inferiority: tuple[NonInferiority, ...] = ()  # to the baseline; empty if no share of it has to be reached
    pick: Pick | None = None  # the best checkpoint, if one was to be picked

    @property
    def label(self) -> str:
        """What tables call it."""
        return f"{self.metric} · {self.dimension}"

    @property
    def below(self) -> tuple[NonInferiority, ...]:
        """The groups that do not reach the share, or have no scores to reach it with."""
        return tuple(each for each in self.non_inferiority if not each.margin >= 0)


@dataclass(frozen=True)
class Result:
    """What `compare` found."""

    groups: tuple[Group, ...]
    matching: Matching
    comparisons: tuple[Comparison, ...]  # by each metric and dimension that at least two groups have scores of
    uncompared: tuple[tuple[str, str, str], ...]  # metric, dimension and name of the only group that has such scores
    baseline: str | None  # the group that others are compared with; None: all pairs
    share: float | None  # of the baseline's mean that the others have to reach

    @property
    def failures(self) -> list[tuple[str, Row]]:
        """(group, row) of all images that could not be scored."""
        return [(group.name, row) for group in self.groups for row in group.failures]

    @property
    def strays(self) -> list[str]:
        """The images without a prompt in groups that are matched by prompts."""
        if self.matching.rule not in ("prompt", "prompt and seed"):
            return []
        rows = [row for group in self.groups if group.name in self.matching.keys for row in group.rows]
        return list(dict.fromkeys(row["image"] for row in rows if row["error"] is None and not row.get("prompt")))

    @property
    def below(self) -> list[tuple[Comparison, NonInferiority]]:
        """All groups that do not reach the share of the baseline."""
        return [(comparison, each) for comparison in self.comparisons for each in comparison.below]


def compare(
    groups: Sequence[Group],
    dimensions: Sequence[str],
    *,
    baseline: str | None = None,
    share: float | None = None,
    pick_best: bool = False,
) -> Result:
    """Compare groups by every metric and dimension.

    Intervals of means resample prompts as `aigciqa.stats.means.prompt_of` finds them. Differences are within the
    prompts that `match` finds.

    Args:
        groups: at least two, of different names.
        dimensions: columns of scores.
        baseline: name of the group that others are compared with; None: all pairs.
        share: of the baseline's mean, > 0, that each other group's mean should reach. It is the means over the prompts
            compared that decide, not their intervals.
        pick_best: the groups are checkpoints, in order: pick one by each metric and dimension.

    Raises:
        InputError: as `check_names`; a share without a baseline, or of a mean that is missing or not positive; nothing
            that two groups have in common.
    """
    names = [group.name for group in groups]
    check_names(names, baseline)
    if share is not None and baseline is None:
        raise InputError(f"a share of {share} of what? Name the baseline: one of {', '.join(names)}")
    matching = match(groups)
    prompts = {group.name: list(map(prompt_of, group.rows)) for group in groups}
    metrics = dict.fromkeys(row["metric"] for group in groups for row in group.rows)
    comparisons = []
    uncompared: list[tuple[str, str, str]] = []
    for metric, dimension in itertools.product(metrics, dimensions):
        by_prompt = {group.name: _scores(group, prompts, metric, dimension) for group in groups}
        scored = [name for name, each in by_prompt.items() if np.isfinite(each.values).any()]
        if len(scored) > 1:
            matched = {group.name: _scores(group, matching.keys, metric, dimension, matching.seeds) for group in groups}
            comparisons.append(_comparison(metric, dimension, by_prompt, matched, baseline, share, pick_best))
        elif scored:
            uncompared.append((metric, dimension, scored[0]))
    if not comparisons:
        raise InputError(f"no two groups have scores of the same metric: {_shown(uncompared)}")
    return Result(tuple(groups), matching, tuple(comparisons), tuple(uncompared), baseline, share)


def check_names(names: Sequence[str], baseline: str | None) -> None:
    """Raise InputError unless groups of these names can be compared."""
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"at least two groups of different names are compared; got {', '.join(names) or 'none'}")
    if baseline is not None and baseline not in names:
        raise InputError(f"the baseline {baseline!r} is none of the groups: {', '.join(names)}")
    if baseline is None and len(names) > GROUP_LIMIT:
        raise InputError(f"at most {GROUP_LIMIT} groups are compared pair by pair; of {len(names)}, name a baseline")


def match(groups: Sequence[Group]) -> Matching:
    """Find what tells the images of one prompt.

    By their reference if all that have scores have one and groups share some: by its path, or, where no two groups
    share a path, by its file name. Likewise by the text in their cell `prompt`, and only the same `seed`, too, where
    that matches every prompt that the text alone does. Where they have prompts and no two groups share any, by nothing:
    what else they have in common, such as numbers in their names, are different prompts. Otherwise by the image's
    relative path, with or without its suffix, whichever matches more, or, where no two groups share a path, by its
    stem; never by what two images of a group have in common. NFC and NFD make no difference, nor do blanks and line
    breaks of a prompt.
    """
    for by_path, by_name in ((_REFERENCE_PATHS, _REFERENCE_NAMES), (_PROMPTS, ()), (_IMAGE_PATHS, _IMAGE_NAMES)):
        rules = by_path if any(_have_common_keys(groups, rule) for rule in by_path) else by_name
        candidates = [Matching(rule.name, keys) for rule in rules if (keys := _keys(groups, rule)) is not None]
        best = max(candidates, key=_matched, default=None)  # the first of equals
        if best is not None and _matched(best):
            return _by_seed(groups, best) if by_path is _PROMPTS else best
        if by_path is _PROMPTS and have_prompts(groups):
            break
    return Matching(None, {})


def have_prompts(groups: Sequence[Group]) -> bool:
    """Whether the text of the prompt is known of most images with scores, in every group that has some.

    A screenshot among them is no reason to match the others by the numbers in their names.
    """
    known = [[bool(row.get("prompt")) for row in group.rows if row["error"] is None] for group in groups]
    return any(known) and all(sum(each) > len(each) / 2 for each in known if each)


def _by_seed(groups: Sequence[Group], by_prompt: Matching) -> Matching:
    """Matched by prompt and seed where this leaves out no prompt that two groups share; else as it was.

    Images that failed count as if they had scores: the rule is that of how the images were made.
    """
    matched = [group for group in groups if group.name in by_prompt.keys]
    seeds = {group.name: list(map(_seed, group.rows)) for group in matched}
    found = []
    for group in matched:
        rows = list(zip(group.rows, by_prompt.keys[group.name], seeds[group.name], strict=True))
        if not all(seed for row, key, seed in rows if row["error"] is None and key):
            return by_prompt
        found.append({(key, seed) for _, key, seed in rows if key and seed})
    for one, other in itertools.combinations(found, 2):
        if {key for key, _ in one & other} != {key for key, _ in one} & {key for key, _ in other}:
            return by_prompt
    return Matching("prompt and seed", by_prompt.keys, seeds)


def _seed(row: Row) -> str:
    """The text of a row's seed; a table that had gaps in its column may say 7.0 for 7."""
    seed = "" if row.get("seed") is None else str(row["seed"]).strip()
    return seed.removesuffix(".0")


class _Rule(NamedTuple):
    """How to tell the prompt of a row."""

    name: str
    identity: Callable[[Row, str], str | None]  # of a row and its relative path: what identifies its group's prompt
    key: Callable[[str], str]  # of an identity: what groups are matched by

    def __call__(self, row: Row, relative_path: str) -> tuple[str | None, str | None]:
        """What identifies the prompt in its group, and the key to match by; None where the row does not say."""
        identity = self.identity(row, relative_path)
        return identity, None if identity is None else self.key(identity)


def _reference(row: Row, _: str) -> str | None:
    return None if row["reference"] is None else name_key(absolute(row["reference"]))


def _prompt(row: Row, _: str) -> str | None:
    return unicodedata.normalize("NFC", " ".join(str(row["prompt"]).split())) if row.get("prompt") else None


def _image(_: Row, relative_path: str) -> str:
    return name_key(relative_path)


def _without_suffix(path: str) -> str:
    return os.path.splitext(path)[0]


_REFERENCE_PATHS = (_Rule("reference", _reference, str),)
_REFERENCE_NAMES = (_Rule("name of the reference", _reference, posixpath.basename),)
_PROMPTS = (_Rule("prompt", _prompt, str),)
_IMAGE_PATHS = (_Rule("relative path", _image, str), _Rule("relative path without its suffix", _image, _without_suffix))
_IMAGE_NAMES = (_Rule("stem", _image, lambda path: posixpath.basename(_without_suffix(path))),)


def _have_common_keys(groups: Sequence[Group], rule: _Rule) -> bool:
    """Whether images with scores, of any two groups, have the same key."""
    keys: set[str | None] = set()
    for group in groups:
        pairs = zip(group.rows, group.relative_paths, strict=True)
        own = {rule(row, relative_path)[1] for row, relative_path in pairs if row["error"] is None} - {None}
        if own & keys:
            return True
        keys |= own
    return False


def _keys(groups: Sequence[Group], rule: _Rule) -> dict[str, Sequence[str]] | None:
    """The key of each row by a rule; None if a scored row has none, or two prompts of a group have the same.

    A group of which no prompt's text is known is left out, and matched with no other. A few images of which it is not
    known have no key.
    """
    found: dict[str, Sequence[str]] = {}
    for group in groups:
        pairs = [rule(row, relative_path) for row, relative_path in zip(group.rows, group.relative_paths, strict=True)]
        scored = {pair for pair, row in zip(pairs, group.rows, strict=True) if row["error"] is None}
        keys = {key for _, key in scored}
        if rule in _PROMPTS and keys <= {None}:
            continue
        is_known = have_prompts([group]) if rule in _PROMPTS else None not in keys
        if not is_known or len(keys) < len({identity for identity, _ in scored}):
            return None
        found[group.name] = [key or _NO_KEY for _, key in pairs]
    return found


def _matched(matching: Matching) -> int:
    """Prompts in common, added up over all pairs of groups that can be matched."""
    keys = [frozenset(each) - {_NO_KEY} for each in matching.keys.values()]
    shared = [len(one & other) for one, other in itertools.combinations(keys, 2)]
    return sum(count for count in shared if count >= MIN_MATCHED)


def _scores(
    group: Group,
    keys_of: Mapping[str, Sequence[str]],
    metric: str,
    dimension: str,
    seeds_of: Mapping[str, Sequence[str]] | None = None,
) -> Scores:
    """A group's scores of a dimension, with their keys and seeds; `keys_of`: group -> the key of each of its rows."""
    indices = [index for index, row in enumerate(group.rows) if row["metric"] == metric]
    scores = [group.score(group.rows[index], dimension) for index in indices]
    values = np.array(scores, dtype=np.float64)  # None becomes NaN
    keys, seeds = keys_of.get(group.name), (seeds_of or {}).get(group.name)
    return Scores(
        values,
        tuple(keys[index] or _alone(group, index) for index in indices) if keys is not None else None,
        tuple(seeds[index] for index in indices) if seeds is not None else None,
    )


def _alone(group: Group, index: int) -> str:
    """The key of an image that is a prompt of its own."""
    return f"{group.name}/{group.rows[index]['image']}"


def _comparison(
    metric: str,
    dimension: str,
    by_prompt: Mapping[str, Scores],
    matched: Mapping[str, Scores],
    baseline: str | None,
    share: float | None,
    pick_best: bool,
) -> Comparison:
    ordered = summaries(by_prompt)
    best_first = {each.name: matched[each.name] for each in ordered}
    pairs = differences(best_first, baseline=baseline)
    reached = non_inferiority(matched, baseline, share) if share is not None and baseline is not None else []
    picked = None
    if pick_best:
        picked = pick(ordered, pairs if baseline is None else differences(best_first), list(by_prompt))
    comparison = Comparison(metric, dimension, tuple(ordered), tuple(pairs), tuple(reached), picked)
    _check_share(comparison, baseline)
    return comparison


def _check_share(comparison: Comparison, baseline: str | None) -> None:
    """Raise InputError where a share of the baseline says nothing."""
    for each in comparison.non_inferiority:
        if math.isnan(each.baseline_mean):
            raise InputError(
                f"{comparison.label}: the baseline {baseline!r} has no scores of it: "
                "leave it out with -m or --dimension, or score the baseline by it"
            )
        if each.n and each.baseline_mean <= 0:
            over = f" over the {each.n} prompts that {each.name} has, too" if each.matched else ""
            raise InputError(
                f"{comparison.label}: the baseline's mean is {each.baseline_mean:.3f}{over}; a share needs one above 0"
            )


def _shown(uncompared: Iterable[tuple[str, str, str]]) -> str:
    by_group: dict[str, list[str]] = {}
    for metric, dimension, name in uncompared:
        by_group.setdefault(name, []).append(f"{metric} · {dimension}")
    return "; ".join(f"{name} has {', '.join(found)}" for name, found in by_group.items()) or "there are none"
