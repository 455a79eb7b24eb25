"""What the arguments of `aigciqa score` name, as items: listed, with references and groups."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from aigciqa.records import Item
from aigciqa.scoring import matching, sources
from aigciqa.scoring.items import Found
from aigciqa.scoring.sources import Source
from aigciqa.tables.columns import carried_names


@dataclass(frozen=True)
class ToItem:
    """Makes an item of what a source found."""

    pair: Callable[[Found], Item]  # gives it its reference
    group: Callable[[Item], Item]  # gives it its group
    renamed: dict[str, str] = field(default_factory=dict)  # column of a manifest -> what the table calls it

    def __call__(self, found: Found) -> Item:
        item = self.group(self.pair(found))
        if not item.extra:
            return item
        return replace(item, extra={self.renamed.get(name, name): cell for name, cell in item.extra.items()})


class Inputs:
    """The images that the arguments name, in order, but for those that `is_left_out` picks by their paths."""

    def __init__(
        self, arguments: Sequence[str], reference: str | None, group_by: str | None, is_left_out: Callable[[str], bool]
    ) -> None:
        self.skipped: sources.Skipped = {}  # what walks of folders have skipped so far
        self.sources: list[Source] = sources.open_sources(arguments, sys.stdin.buffer, self.skipped)
        references = matching.references_from(reference) if reference is not None else None
        self.columns = tuple(dict.fromkeys(name for source in self.sources for name in source.columns))
        self.can_be_listed_again = "-" not in arguments  # standard input can't
        self.to_item = ToItem(
            pair=references(self.listed() if self.can_be_listed_again else None)
            if references
            else operator.attrgetter("item"),
            group=sources.group_by(group_by, self.columns) if group_by is not None else lambda item: item,
        )
        listed = (each for each in self.listed() if not is_left_out(each.item.image))
        self._taken: list[Found] = []
        self.first = self._first(listed)  # the first image that can be scored, else the first
        self.found = itertools.chain(self._taken, listed)  # to be read once

    def listed(self) -> Iterator[Found]:
        """What the sources list, from the start."""
        return itertools.chain.from_iterable(source() for source in self.sources)

    def items(self) -> Iterator[Item]:
        """The images; to be read once."""
        return (self.to_item(each) for found in self.found for each in sources.opened(found))

    def bring_references(self, reference: str | None) -> bool:
        """Whether the images come with references."""
        if reference is not None or (self.first is not None and self.first.reference is not None):
            return True
        # In an archive they may come later, and its images must not get another metric.
        return bool(self._taken) and sources.brings_references(self._taken[-1])

    def carry(self, columns: Sequence[str]) -> list[str]:
        """The manifests' columns in a table that has other columns, too; items call them so from now on."""
        names = carried_names(self.columns, columns)
        self.to_item.renamed.update(names)
        return list(names.values())

    def _first(self, listed: Iterator[Found]) -> Item | None:
        for head in listed:
            self._taken.append(head)
            for item in map(self.to_item, sources.opened(head)):
                if item.error is None:
                    return item
        return self.to_item(self._taken[0]) if self._taken else None
