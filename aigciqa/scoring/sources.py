"""Where items come from: files, folders, patterns, archives, manifests, standard input; their references and groups."""

from __future__ import annotations

import csv
import glob
import json
import os
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from aigciqa import remote
from aigciqa.scoring import archives
from aigciqa.scoring.records import Item
from aigciqa.scoring.tar import ArchiveError

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp gif bmp tif tiff avif jp2 ppm pgm pbm pnm".split()  # noqa: SIM905
)
MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
MANIFEST_COLUMNS = ("image", "reference", "group")
#: So much of a name that can't be used is shown.
_SHOWN = 100


class SourceError(ValueError):
    """A source that can't be used at all: the command ends before it scores anything."""


@dataclass(frozen=True)
class Found:
    """An item as a source gives it: with its path below the folder it was found in, by which references are matched.

    An archive stands for the items in it: `opened` gives them.
    """

    item: Item
    relative: str
    is_archive: bool = False


def open_sources(arguments: Iterable[str], stdin: BinaryIO) -> list[Callable[[], Iterator[Found]]]:
    """Check the arguments of the command line; each becomes a function that lists its items, lazily.

    A source that can't be listed, or only in part, ends in an item with an error.

    Raises:
        SourceError: a pattern that matches nothing, a manifest that is missing or has no column `image`.
    """
    return [partial(_to_its_end, argument, _open_source(argument, stdin)) for argument in arguments]


def opened(found: Found) -> Iterator[Found]:
    """The items of an archive, read one after the other; what is none is itself.

    An archive that can't be read, or only in part, ends in an item with an error; so does one without pictures.
    """
    if not found.is_archive:
        yield found
        return
    path, picture = found.item.image, None
    try:
        for picture in archives.pictures(path, IMAGE_SUFFIXES):
            yield _found(path, picture)
        if picture is None:
            raise ArchiveError(f"{path}: no pictures in it")
    except ArchiveError as error:
        yield Found(Item(path, error=str(error)), found.relative)


def brings_references(found: Found) -> bool:
    """Whether it is an archive with references in it, beside their images or not; all of it may be read for that."""
    return found.is_archive and archives.has_references(found.item.image, IMAGE_SUFFIXES)


def _found(path: str, picture: archives.Picture) -> Found:
    """The item of an archive's image."""
    name = f"{path}/{picture.name}"
    if not archives.is_usable(picture.name):
        return Found(Item(path, error=f"{path}: {picture.name[:_SHOWN]!r}: {picture.error}"), "")
    item = Item(
        name,
        picture.reference and f"{path}/{picture.reference}",
        error=picture.error and f"{name}: {picture.error}",
        reference_error=picture.reference_error and f"{name}: {picture.reference_error}",
        content=picture.content,
        reference_content=picture.reference_content,
    )
    return Found(item, posixpath.normpath(picture.name))


def references_from(reference: str) -> Callable[[Found], Item]:
    """What gives items their reference: one file for all, or the matching file of a folder.

    In a folder, a reference is the file of the same relative path, else of the same relative path with another suffix,
    else of the same stem anywhere below the folder. Pictures are never paired by position. An item's own reference,
    from a manifest, stays.

    Raises:
        SourceError: there is no such file or folder.
    """
    if _is_folder(reference):
        return _ReferenceFolder(reference).give
    if not remote.is_url(reference) and not os.path.exists(reference):
        raise SourceError(f"reference {reference!r}: no such file or folder")
    return lambda found: found.item if found.item.reference else replace(found.item, reference=reference)


def group_by(rule: str) -> Callable[[Item], Item]:
    """What gives items their group: `parent`, the name of the image's folder, or a regular expression.

    The group is the expression's first capture group, else its whole match, anywhere in the path; none where it does
    not match.

    Raises:
        SourceError: not a regular expression.
    """
    if rule == "parent":
        return lambda item: replace(item, group=os.path.basename(os.path.dirname(os.path.abspath(item.image))))
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise SourceError(f"--group-by {rule!r} is neither 'parent' nor a regular expression: {error}") from None

    def by_pattern(item: Item) -> Item:
        match = pattern.search(item.image)
        return replace(item, group=match[1 if pattern.groups else 0] if match else None)

    return by_pattern


def _to_its_end(argument: str, opener: Callable[[], Iterator[Found]]) -> Iterator[Found]:
    try:
        yield from opener()
    except (OSError, SourceError) as error:
        yield Found(Item(argument, error=f"{argument}: {getattr(error, 'strerror', None) or error}"), "")


def _open_source(argument: str, stdin: BinaryIO) -> Callable[[], Iterator[Found]]:
    if argument == "-":
        return lambda: _from_lines(stdin)
    if _is_table_in_parts(argument):
        return _open_manifest(os.path.normpath(argument))
    if _is_folder(argument):
        return lambda: _walk(argument, "")
    if os.path.splitext(argument)[1].lower() in MANIFEST_SUFFIXES:
        return _open_manifest(argument)
    if glob.has_magic(argument) and not (remote.is_url(argument) or os.path.lexists(argument)):
        matches = _glob(argument)
        if not matches:
            raise SourceError(f"{argument!r} matches no file")
        return lambda: (found for match in matches for found in _matched(match))
    return lambda: iter([_file(argument)])


def _is_table_in_parts(path: str) -> bool:
    """Whether it is a folder of Parquet files, as `--engine ray` writes it."""
    return os.path.isdir(path) and os.path.normpath(path).lower().endswith(".parquet")


def _is_folder(path: str) -> bool:
    """Whether it is a folder, of this machine or of an object store.

    Raises:
        SourceError: the object store can't be reached.
    """
    try:
        return remote.is_folder(path) if remote.is_url(path) else os.path.isdir(path)
    except OSError as error:
        raise SourceError(f"{path!r}: {error}") from None


def _file(path: str) -> Found:
    return Found(Item(path), os.path.basename(path), is_archive=path.lower().endswith(archives.SUFFIX))


def _glob(pattern: str) -> list[str]:
    """Matches of a pattern, sorted; what `**` reaches through links to folders as well counts once."""
    longest_first = sorted(glob.glob(pattern, recursive=True), key=len, reverse=True)
    unique = {(os.path.realpath(os.path.dirname(path)), os.path.basename(path)): path for path in longest_first}
    return sorted(unique.values())


def _matched(path: str) -> Iterator[Found]:
    return _walk(path, "") if os.path.isdir(path) else iter([_file(path)])


def _from_lines(stream: BinaryIO) -> Iterator[Found]:
    for line in stream:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield _file(path)


def _walk(folder: str, below: str) -> Iterator[Found]:
    """Images of a folder and the folders in it, sorted by name; links to folders are not followed."""
    if remote.is_url(folder):
        yield from _walk_url(folder)
        return
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(Item(folder, error=f"{folder}: {error.strerror}"), below)
        return
    for entry in entries:
        relative = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, relative)
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES and not os.path.isdir(entry.path):
            yield Found(Item(entry.path), relative)


def _walk_url(folder: str) -> Iterator[Found]:
    for relative in remote.files_below(folder):
        if posixpath.splitext(relative)[1].lower() in IMAGE_SUFFIXES:
            yield Found(Item(posixpath.join(folder, relative)), relative)


class _ReferenceFolder:
    """The references below a folder, by relative path and by stem."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        relatives = [found.relative for found in _walk(folder, "") if found.item.error is None]
        self.exact = frozenset(relatives)
        self.by_path = _unique((os.path.splitext(relative)[0], relative) for relative in relatives)
        self.by_stem = _unique((Path(relative).stem, relative) for relative in relatives)

    def give(self, found: Found) -> Item:
        if found.item.reference:
            return found.item
        if found.relative in self.exact:
            return self._with(found.item, found.relative)
        for index, key in (
            (self.by_path, os.path.splitext(found.relative)[0]),
            (self.by_stem, Path(found.relative).stem),
        ):
            if key in index:
                match = index[key]
                if match is not None:
                    return self._with(found.item, match)
                problem = f"several references in {self.folder} are called {key!r}"
                return replace(found.item, reference_error=f"{found.item.image}: {problem}")
        problem = f"no reference in {self.folder} has its relative path or its stem"
        return replace(found.item, reference_error=f"{found.item.image}: {problem}")

    def _with(self, item: Item, relative: str) -> Item:
        return replace(item, reference=os.path.join(self.folder, relative))


def _unique(pairs: Iterable[tuple[str, str]]) -> dict[str, str | None]:
    """Key -> value; None where a key has several."""
    listed = list(pairs)
    counts = Counter(key for key, _ in listed)
    return {key: value if counts[key] == 1 else None for key, value in listed}


def _open_manifest(path: str) -> Callable[[], Iterator[Found]]:
    if not os.path.isfile(path) and not _is_table_in_parts(path):
        raise SourceError(f"manifest {path!r}: no such file")
    next(read_rows(path, MANIFEST_COLUMNS), None)  # raises for a file that is no manifest
    folder = os.path.dirname(path)
    return lambda: (
        _listed(row, folder, f"{path}: row {number}") for number, row in enumerate(read_rows(path, MANIFEST_COLUMNS), 1)
    )


def _listed(row: dict[str, Any] | str, folder: str, where: str) -> Found:
    """The item of a manifest's row; a row that can't be read is an item with an error."""
    if isinstance(row, str):
        return Found(Item("", error=f"{where}: {row}"), "")
    cells = {name: row.get(name) for name in MANIFEST_COLUMNS}
    wrong = [name for name, cell in cells.items() if cell is not None and not _is_text(cell)]
    if wrong:
        return Found(Item("", error=f"{where}: {wrong[0]!r} is {cells[wrong[0]]!r}; expected text"), "")
    image, reference, group = (str(cell) if cell not in (None, "") else None for cell in cells.values())
    if image is None:
        return Found(Item("", error=f"{where}: the column 'image' is empty"), "")
    item = Item(beside(folder, image), beside(folder, reference) if reference else None, group)
    return Found(item, image if not os.path.isabs(image) else os.path.basename(image))


def _is_text(cell: Any) -> bool:
    """Whether a cell is text, or a number that stands for text; half a surrogate pair, which JSON can hold, is not."""
    try:
        os.fsencode(str(cell))
    except ValueError:
        return False
    return isinstance(cell, (str, int))


def beside(folder: str, path: str) -> str:
    """A manifest's path is relative to the manifest; where there is nothing, to the current folder."""
    joined = os.path.join(folder, path)
    if remote.is_url(path):
        return path
    return path if not os.path.lexists(joined) and os.path.lexists(path) else joined


def read_rows(path: str, columns: Iterable[str] | None = None) -> Iterator[dict[str, Any] | str]:
    """Rows of a table ending in `.csv`, `.json`, `.jsonl` or `.parquet`; instead of one that can't be read, why.

    Args:
        path: of the table; of Parquet, also a folder of files that are read in the order of their names. JSON is read
            whole, the others as rows are asked for.
        columns: those that are needed; a format that stores columns apart leaves the others out.

    Raises:
        SourceError: not a table, or one without a column `image`.
    """
    suffix = os.path.splitext(path)[1].lower()
    if _is_table_in_parts(path):
        parts = sorted(glob.glob(os.path.join(glob.escape(path), "*.parquet")))
        return (row for part in parts for row in _parquet_rows(part, columns))
    if suffix == ".parquet":
        return _parquet_rows(path, columns)
    return {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}[suffix](path)


def _csv_rows(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
        reader = csv.DictReader(stream)
        try:
            _check_columns(path, reader.fieldnames or [])
            yield from reader
        except csv.Error as error:
            yield f"not CSV: {error}"


def _jsonl_rows(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
        for line in filter(str.strip, stream):
            try:
                row = json.loads(line)
            except ValueError as error:
                yield f"not JSON: {error}"
                continue
            yield _object(row)


def _json_rows(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            rows = json.load(stream)
        except ValueError as error:
            raise SourceError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise SourceError(f"{path!r} holds no list of rows but {type(rows).__name__}")
    yield from map(_object, rows)


def _object(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"


def _parquet_rows(path: str, columns: Iterable[str] | None) -> Iterator[dict[str, Any] | str]:
    try:
        file = import_parquet().ParquetFile(path)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path!r} is not Parquet: {error}") from None
    with file:
        names = file.schema_arrow.names
        _check_columns(path, names)
        try:
            for batch in file.iter_batches(columns=[name for name in columns if name in names] if columns else names):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            yield f"not Parquet: {error}"


def import_parquet() -> Any:
    """pyarrow's parquet module, which is in the extra `parquet`."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise SourceError("Parquet files need pyarrow: pip install 'aigciqa[parquet]'") from None
    return parquet


def _check_columns(path: str, columns: Iterable[str]) -> None:
    names = list(columns)
    if "image" not in names:
        raise SourceError(f"{path!r} has no column 'image'; it has: {', '.join(names) or 'nothing'}")
