"""The images that a table of ratings names, each once, and what is wrong with the table."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath

import numpy as np
from PIL import Image

from aigciqa.databases.sample import as_group
from aigciqa.errors import ImageError, InputError, shortened
from aigciqa.images.decode import load_image, readable_formats
from aigciqa.images.reading import may_be_image
from aigciqa.records import Item
from aigciqa.scoring.items import Found
from aigciqa.scoring.manifests import beside, path_on_disk
from aigciqa.scoring.matching import references_from
from aigciqa.tables.column_table import ColumnTable
from aigciqa.training.fit.rating_columns import is_empty
from aigciqa.utils.object_stores import open_file, refusal
from aigciqa.utils.paths import absolute, counted, shown

#: Of the problems of a table, an error lists so many.
_LISTED = 20


class Problems:
    """What is wrong with a table: with it as a whole, and with its rows."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.whole: list[str] = []
        self.rows: list[tuple[int, str]] = []

    def add(self, row: int, text: str) -> None:
        """Note a problem of a row."""
        self.rows.append((row, text))

    def raise_any(self) -> None:
        """Raise one InputError with all that was noted: the first ones in full, and how many more there are."""
        rows = sorted(self.rows, key=lambda each: each[0])
        found = [*self.whole, *(f"row {row}: {text}" for row, text in rows)]
        if found:
            lines = [f"- {shortened(text)}" for text in found[:_LISTED]]
            more = [f"- and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
            raise InputError("\n".join([f"{self.where}: {counted(found, 'problem')}", *lines, *more]))


@dataclass(frozen=True)
class RatedImage:
    """An image as its first row has it; `group` is None if nothing says which it belongs to."""

    row: int
    cell: str
    path: str
    reference: str | None
    group: str | None
    generator: str | None


class RatedImages:
    """The images of a table in the order of their first rows."""

    def __init__(self, problems: Problems, folder: str) -> None:
        self.problems = problems
        self.folder = folder
        self.listed: list[RatedImage] = []
        self._index: dict[str, int] = {}
        self._names: dict[str, dict[str, str]] = {}  # folder -> its files, by their names without regard to case

    def add(self, image: RatedImage) -> int:
        """The index of an image, which is noted if another row has it with another reference, group or generator."""
        index = self._index.setdefault(image.path, len(self.listed))
        if index == len(self.listed):
            self.listed.append(image)
        first = self.listed[index]
        if replace(image, row=first.row, cell=first.cell) != first:
            what = "another reference, prompt, group or generator"
            self.problems.add(image.row, f"{image.cell!r} has {what} than in row {first.row}")
        return index

    def indices(self, table: ColumnTable, column: str, kept: Sequence[bool]) -> list[int | None]:
        """The index of the image in each row's cell; None for rows that are not kept, or without an image."""
        names = ("reference", "prompt", "group", "generator")
        rows = zip(kept, texts(table, column), *(texts(table, name) for name in names), strict=True)
        indices: list[int | None] = []
        for row, (is_kept, cell, reference, prompt, group, generator) in enumerate(rows, table.first):
            if is_kept and cell:
                original = self._path(reference) if reference else None
                belongs_to = group or reference or as_group(prompt) or None
                image = RatedImage(row, cell, self._path(cell), original, belongs_to, generator or None)
                indices.append(self.add(image))
                continue
            if is_kept:
                self.problems.add(row, f"{column!r} is empty")
            indices.append(None)
        return indices

    def numbers(
        self,
        table: ColumnTable,
        name: str | None,
        indices: Sequence[int | None],
        low: float = -math.inf,
        high: float = math.inf,
    ) -> np.ndarray:
        """The number that a column has for each image, (n,); NaN where it has none. Cells that are wrong are noted."""
        found = np.full(len(self.listed), np.nan)
        if name is None or name not in table.columns:
            return found
        first: dict[int, int] = {}
        others: dict[int, list[str]] = defaultdict(list)
        cells = zip(indices, table.column(name), table.numbers(name), strict=True)
        for row, (index, cell, number) in enumerate(cells, table.first):
            if index is None or is_empty(cell):
                continue
            if math.isnan(number):
                comma = "; decimal commas are read where all of the column are, and not three digits behind each"
                hint = comma if "," in str(cell) else ""
                self.problems.add(row, f"{name!r} is {cell!r}; expected a number, or an empty cell for none{hint}")
            elif not low <= number <= high:
                expected = f"at least {low:g}" if math.isinf(high) else f"{low:g} to {high:g}"
                self.problems.add(row, f"{name!r} is {number:g}; expected {expected}")
            elif index not in first:
                first[index], found[index] = row, number
            elif number != found[index]:
                others[index].append(f"row {row} ({number:g})")
        for index, rows in others.items():
            self.problems.add(
                first[index],
                f"{name!r} of {self.listed[index].cell!r} is {found[index]:g}, and another in {shown(rows)}: keep one; "
                "of votes, aigciqa mos makes one score for each image",
            )
            found[index] = np.nan
        return found

    def _path(self, cell: str) -> str:
        """The absolute path of what a cell names: from the table's folder, else from the current one."""
        return absolute(beside(self.folder, path_on_disk(cell, self.folder)))

    def with_references(self, references: str | None) -> list[RatedImage]:
        """The images, those without a reference with the one that `references` has for them; their files are checked.

        What is missing or broken is noted.
        """
        images = self._matched(references) if references is not None else self.listed
        missing = [image for image in images if not may_be_image(image.path)]
        if len(missing) == len(images) > 1:
            cells = shown([repr(image.cell) for image in images])
            where = f"paths count from {self.folder!r}, else from the current folder"
            remedy = self._remedy(images[0].cell, images[0].path)
            self.problems.whole.append(f"none of its {len(images)} images is there: {cells}; {where}{remedy}")
        else:
            for image in images:
                self._check(image.row, "image", image.cell, image.path)
        for reference, image in {each.reference: each for each in reversed(images) if each.reference}.items():
            self._check(image.row, "reference", reference, reference)
        return images

    def _matched(self, references: str) -> list[RatedImage]:
        """The images with the references that a path, or the files of a folder, are for them."""
        found = [
            Found(
                Item(image.path, image.reference),
                os.path.basename(image.cell) if os.path.isabs(image.cell) else image.cell,
            )
            for image in self.listed
        ]
        items = list(map(references_from(references)(found), found))
        for image, item in zip(self.listed, items, strict=True):
            if item.reference_error is not None:
                self.problems.add(image.row, item.reference_error)
        paths = [item.reference and absolute(item.reference) for item in items]
        return [replace(image, reference=path) for image, path in zip(self.listed, paths, strict=True)]

    def _check(self, row: int, column: str, cell: str, path: str) -> None:
        """Note a file that is missing, or whose header is none of an image."""
        if (problem := refusal(path)) is not None:
            self.problems.add(row, problem)
        elif not may_be_image(path):
            self.problems.add(row, f"{column} {cell!r}: no such file{self._remedy(cell, path)}")
        elif (problem := _broken(path)) is not None:
            self.problems.add(row, f"{column} {cell!r} is none that can be read: {problem}")

    def _remedy(self, cell: str, path: str) -> str:
        """What to do about a path that leads nowhere here, as far as it can be told: it may be of another system."""
        if PureWindowsPath(cell).drive if os.name != "nt" else cell.startswith("/"):
            return ". This is a path of another system: write paths that count from the table's folder"
        folder, name = os.path.split(path)
        if folder not in self._names:
            with suppress(OSError, ValueError):
                self._names[folder] = {each.casefold(): each for each in os.listdir(folder)}
        near = self._names.get(folder, {}).get(name.casefold())
        return f". There is {near!r}: letters of another case make another name on this system" if near else ""


def texts(table: ColumnTable, name: str) -> list[str]:
    """A column of text; empty where there is no such column, or nothing or NaN in it."""
    cells = table.column(name) if name in table.columns else [None] * len(table.rows)
    return ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]


def _broken(path: str) -> str | None:
    """Why an image can't be opened; only one that Pillow refuses is decoded, to be sure."""
    with suppress(Exception), open_file(path) as file, Image.open(file, formats=readable_formats()):
        return None
    try:
        load_image(path)
    except ImageError as error:
        return str(error).removeprefix(f"{path}: ")
    return None
