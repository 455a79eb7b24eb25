"""Tables that list images, their references and groups."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aigciqa.errors import SourceError
from aigciqa.records import Item
from aigciqa.scoring.items import Found
from aigciqa.tables import parquet
from aigciqa.tables.columns import MANIFEST_COLUMNS
from aigciqa.tables.csv_text import from_windows, without_nul
from aigciqa.tables.formats import read_rows
from aigciqa.utils import object_stores

#: Columns of a manifest, at most: each is one in every row of the table.
MAX_COLUMNS = 1000
#: So much of a name that can't be used is shown.
SHOWN = 100
NUL = "no file's name has a NUL in it"


def carried_columns(path: str) -> tuple[str, ...]:
    """The columns that are carried into the table of scores; of another such table, not its metric, scores, error.

    All rows are read unless the format stores the columns apart.
    """
    names = _columns(path)
    left_out = {"", *MANIFEST_COLUMNS}
    if {*MANIFEST_COLUMNS, "metric", "error"} <= set(names):
        left_out |= set(names[names.index("metric") : names.index("error") + 1])
    return tuple(name for name in names if name not in left_out and _is_text(name))


def rows(path: str, carried: Sequence[str]) -> Iterator[Found]:
    """The items of a manifest."""
    for number, row in enumerate(read_rows(path, (*MANIFEST_COLUMNS, *carried)), 1):
        yield _listed(row, carried, path, number)


def path_on_disk(cell: str, folder: str) -> str:
    """The path in a cell as the disk spells it.

    If there is no such file: without blanks around it, with slashes for backslashes, below the home folder for `~`, out
    of Windows' code page, in the other normal form of Unicode, or several of these, if there is a file of that name.
    """
    stripped = cell.strip()
    plain = stripped.replace("\\", "/")
    slashed = dict.fromkeys((cell, stripped, plain, os.path.expanduser(plain)))
    if len(slashed) == 1 and cell.isascii():
        return cell
    decoded = list(slashed)
    with suppress(UnicodeError):
        decoded += map(from_windows, slashed)
    forms = (form for path in decoded for form in (path, *(unicodedata.normalize(n, path) for n in ("NFC", "NFD"))))
    return next((form for form in forms if os.path.lexists(beside(folder, form))), os.path.expanduser(stripped))


def beside(folder: str, path: str) -> str:
    """A manifest's path is relative to the manifest; where there is nothing, to the current folder."""
    joined = os.path.join(folder, path)
    return path if not os.path.lexists(joined) and object_stores.may_exist(path) else joined


def _columns(path: str) -> list[str]:
    if path.lower().endswith(parquet.SUFFIX):
        return list(dict.fromkeys(name for part in parquet.parts_of(path) for name in parquet.text_columns(part)))
    names: dict[str, None] = {}
    for row in read_rows(path):
        if isinstance(row, dict) and not row.keys() <= names.keys():
            names |= dict.fromkeys(row)
            if len(names) > MAX_COLUMNS:
                raise SourceError(f"{path!r} has more than {MAX_COLUMNS} columns")
    return list(names)


def _listed(row: dict[str, Any] | str, carried: Iterable[str], path: str, number: int) -> Found:
    """The item of a manifest's row; a row that can't be read is an item with an error."""
    where = f"{path}: row {number}"
    if isinstance(row, str):
        return Found(Item("", error=f"{where}: {row}"), "")
    extra = {name: _as_text(row.get(name)) for name in carried}
    folder, name = os.path.dirname(path), f"{path}#{number}"
    try:
        image, content = _image(row, "image", folder)
        reference, reference_content = _image(row, "reference", folder)
        if image is None and content is None:
            raise SourceError("the column 'image' is empty")
    except SourceError as error:
        return Found(Item("", error=f"{where}: {error}", extra=extra), "")
    item = Item(
        beside(folder, image) if image and content is None else image or name,
        beside(folder, reference) if reference and reference_content is None else reference,
        _as_text(row.get("group")),
        content=content,
        reference_content=reference_content,
        extra=extra,
    )
    if reference_content is not None and reference is None:
        item = replace(item, reference=name)
    relative = image or name
    return Found(item, os.path.basename(relative) if os.path.isabs(relative) else relative)


def _image(row: Mapping[str, Any], column: str, folder: str) -> tuple[str | None, bytes | None]:
    """The path of an image in a cell, or the bytes of its file, or both, as Hugging Face's data sets have it."""
    cell: Any = row.get(column)
    content = None
    if isinstance(cell, dict) and not cell.keys().isdisjoint({"bytes", "path"}):
        cell, content = cell.get("path"), cell.get("bytes")
    elif isinstance(cell, bytes):
        cell, content = None, cell
    if content is not None and not isinstance(content, bytes):
        raise SourceError(f"{column!r} holds no bytes but {type(content).__name__}")
    if cell is None or cell == "":
        return None, content
    if not _is_text(cell):
        raise SourceError(f"{column!r} is {cell!r}; expected text")
    if "\0" in str(cell):
        raise SourceError(f"{column!r} is {str(cell)[:SHOWN]!r}: {NUL}")
    path = path_on_disk(str(cell), folder) if content is None else str(cell)
    if (problem := object_stores.refusal(path)) is not None:
        raise SourceError(problem)
    return path or None, content


def _is_text(cell: Any) -> bool:
    """Whether a cell is text, or a number that stands for text; half a surrogate pair, which JSON can hold, is not."""
    try:
        os.fsencode(str(cell))
    except ValueError:
        return False
    return isinstance(cell, (str, int))


def _as_text(cell: Any) -> str | None:
    """What a cell says, as text without blanks around it; None if it is empty, which pandas writes as NaN."""
    if cell is None or cell != cell:
        return None
    text = json.dumps(cell, ensure_ascii=False) if isinstance(cell, (bool, dict, list)) else str(cell).strip()
    try:
        text = from_windows(without_nul(text))
    except UnicodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text or None
