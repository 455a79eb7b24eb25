"""What the files of images say of how they were generated, as columns and groups of a table of scores."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from aigciqa.errors import InputError
from aigciqa.images.generation.parameters import FIELDS, GenerationParameters
from aigciqa.records import Item

#: Stands for all fields.
ALL = "all"


@dataclass(frozen=True)
class Wanted:
    """What is wanted of generation parameters.

    Attributes:
        columns: fields that fill what an item's `extra` has not.
        group_by: the field, or key of an item's `extra`, that gives images their group.

    Raises:
        InputError: a column that is no field.
    """

    columns: tuple[str, ...] = ()
    group_by: str | None = None

    def __post_init__(self) -> None:
        check_fields(self.columns, "generation")

    @property
    def filled(self) -> tuple[str, ...]:
        """Columns of the table whose cells are not all known before the files are read."""
        return (*self.columns, *(() if self.group_by is None else ("group",)))

    def options(self) -> dict[str, object]:
        """What `FILE.meta.json` says of it; nothing where nothing is asked for."""
        named = {"columns": list(self.columns), "group-by": self.group_by}
        return {name: value for name, value in named.items() if value}

    def complete(self, item: Item, found: GenerationParameters | None = None) -> Item:
        """An item with the columns and the group of what was found; what its `extra` says itself counts first."""
        cells = found.cells() if found is not None else {}
        extra = {**item.extra, **{name: item.extra.get(name) or cells.get(name) for name in self.columns}}
        group = item.group if self.group_by is None else extra.get(self.group_by) or cells.get(self.group_by)
        return replace(item, extra=extra, group=group)


def wanted(columns: Sequence[str] | None, group_by: str | None) -> Wanted | None:
    """What arguments of `score_files` ask for, if anything."""
    if columns is None and group_by is None:
        return None
    if columns == ALL:
        columns = FIELDS
    if isinstance(columns, str) or not isinstance(columns or (), Iterable):
        raise InputError(f"generation is {ALL!r} or a sequence of fields, such as ('prompt', 'seed'); got {columns!r}")
    return Wanted(tuple(dict.fromkeys(columns or ())), group_by)


def check_fields(names: Sequence[str], what: str) -> None:
    """Raise InputError unless all names are fields of generation parameters; `what` is what errors call them."""
    for name in names:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise InputError(f"{what}: there is no generation parameter {name!r}{hint} There are {', '.join(FIELDS)}")
