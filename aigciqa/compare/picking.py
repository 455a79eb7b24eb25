"""The best of several checkpoints, and which others may be as good; how checkpoints are named and ordered."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aigciqa.utils.paths import absolute, name_key

if TYPE_CHECKING:
    from aigciqa.stats.groups import Difference, GroupSummary

#: Names of what comes after all steps.
_LAST = re.compile(r"(?<![a-z])(last|final|end)(?![a-z])", re.IGNORECASE)  # also of lora_final


@dataclass(frozen=True)
class Pick:
    """The best checkpoint by one dimension.

    p values are corrected for all pairs of checkpoints, whichever of them came out best.
    """

    best: GroupSummary
    runner_up: str
    leads: tuple[Difference, ...]  # of the best over each other checkpoint, in the order of these
    order: tuple[str, ...]  # the checkpoints that have scores

    @property
    def as_good(self) -> tuple[str, ...]:
        """The best and all that it is not significantly better than, in order."""
        worse = {lead.second for lead in self.leads if lead.is_significant and lead.difference > 0}
        return tuple(name for name in self.order if name not in worse)


def pick(summaries: Sequence[GroupSummary], differences: Sequence[Difference], names: Sequence[str]) -> Pick:
    """The best of the checkpoints: that whose lead over the others, averaged, is largest.

    Where all have the same prompts, equally often, it is the best mean's; else leads, which are within prompts, are not
    those of easier prompts.

    Args:
        summaries: of those with scores and without.
        differences: of all pairs.
        names: in the order of training.
    """
    scored = {each.name: each for each in summaries if each.n}
    order = tuple(name for name in names if name in scored)
    leads: dict[str, dict[str, Difference]] = {name: {} for name in scored}
    for each in differences:
        if each.first in scored and each.second in scored:
            leads[each.first][each.second] = each
            leads[each.second][each.first] = each.turned()
    best, runner_up, *_ = sorted(
        scored, key=lambda name: math.fsum(lead.difference for lead in leads[name].values()), reverse=True
    )
    return Pick(scored[best], runner_up, tuple(leads[best][name] for name in order if name != best), order)


def checkpoint_names(paths: Sequence[str]) -> list[str]:
    """What tells paths of checkpoints apart: `step-500` of `runs/step-500/samples`, beside `runs/step-1000/samples`."""
    parts = [name_key(absolute(path)).split("/") for path in paths]
    start = end = 0
    least = min(map(len, parts)) - 1
    while start < least and len({each[start] for each in parts}) == 1:
        start += 1
    while start + end < least and len({each[-1 - end] for each in parts}) == 1:
        end += 1
    return ["/".join(each[start : len(each) - end]) for each in parts]


def by_step(name: str) -> tuple[bool, bool, list[str | int]]:
    """What to sort checkpoints by: those without a number, then by the numbers in their names, then the last one."""
    parts = [int(part) if part.isdecimal() else part.lower() for part in re.split(r"(\d+)", name)]
    return bool(_LAST.search(name)), len(parts) > 1, parts
