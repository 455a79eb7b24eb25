"""Where items come from: files, folders, patterns, archives, manifests, standard input; their references and groups."""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from aigciqa import remote
from aigciqa.csv_text import CsvError, read_csv
from aigciqa.scoring import archives
from aigciqa.scoring.records import Item, shortened

IMAGE_SUFFIXES = frozenset(
    f".{name}"
    for name in "png jpg jpeg jpe jfif webp gif bmp tif tiff avif jp2 ppm pgm pbm pnm".split()  # noqa: SIM905
)
MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
MANIFEST_COLUMNS = ("image", "reference", "group")
#: Columns of a manifest, at most: each is one in every row of the table.
MAX_COLUMNS = 1000
#: Bytes of images that are read from a Parquet file at a time, about.
_PARQUET_BYTES = 8 << 20
_PARQUET = ".parquet"
_PARQUET_ROWS = 65_536
_PARQUET_BUFFER = 1 << 20  # of a column; otherwise all of a row group is read at once


class SourceError(ValueError):
    """A source that can't be used at all: the command ends before it scores anything."""

    def __init__(self, message: str) -> None:
        super().__init__(shortened(message))


@dataclass(frozen=True)
class Found:
    """An item as a source gives it: with its path below the folder it was found in, by which references are matched.

    An archive, or a Parquet file with images in it, stands for the items in it: `opened` gives them.
    """

    item: Item
    relative: str
    is_archive: bool = False


@dataclass(frozen=True)
class Source:
    """What an argument of the command line names; called, it lists its items, lazily.

    Attributes:
        opener: lists them.
        columns: of a manifest, those that are carried into the table: all but `image`, `reference` and `group`.
    """

    opener: Callable[[], Iterator[Found]]
    columns: tuple[str, ...] = ()

    def __call__(self) -> Iterator[Found]:
        return self.opener()


def open_sources(arguments: Iterable[str], stdin: BinaryIO) -> list[Source]:
    """Check the arguments of the command line. Manifests in CSV and JSON lines are read once for that.

    A source that can't be listed, or only in part, ends in an item with an error.

    Raises:
        SourceError: a pattern that matches nothing; a manifest that is missing, has no column `image`, or is no CSV.
    """
    sources = [(argument, _open_source(argument, stdin)) for argument in arguments]
    return [replace(source, opener=partial(_to_its_end, argument, source.opener)) for argument, source in sources]


def opened(found: Found) -> Iterator[Found]:
    """The items of an archive or a Parquet file, read one after the other; what is none is itself.

    An archive that can't be read, or only in part, ends in an item with an error; so does one without pictures.
    """
    if not found.is_archive:
        yield found
        return
    path, picture = found.item.image, None
    if path.lower().endswith(_PARQUET):
        yield from _to_its_end(path, lambda: _rows(path, _carried(_parquet_columns(path))))
        return
    try:
        for picture in archives.pictures(path, IMAGE_SUFFIXES):
            name, reference = f"{path}/{picture.name}", picture.reference and f"{path}/{picture.reference}"
            item = Item(name, reference, content=picture.content, reference_content=picture.reference_content)
            yield Found(item, posixpath.normpath(picture.name))
        if picture is None:
            raise archives.ArchiveError(f"{path}: no pictures in it")
    except archives.ArchiveError as error:
        yield Found(Item(path, error=str(error)), found.relative)


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


def _open_source(argument: str, stdin: BinaryIO) -> Source:
    if argument == "-":
        return Source(lambda: _from_lines(stdin))
    if _is_table_in_parts(argument):
        return _open_manifest(os.path.normpath(argument))
    if _is_folder(argument):
        return Source(lambda: _walk(argument, ""))
    if os.path.splitext(argument)[1].lower() in MANIFEST_SUFFIXES:
        return _open_manifest(argument)
    if glob.has_magic(argument) and not (remote.is_url(argument) or os.path.lexists(argument)):
        matches = _glob(argument)
        if not matches:
            raise SourceError(f"{argument!r} matches no file")
        return Source(lambda: (found for match in matches for found in _matched(match)))
    return Source(lambda: iter([_file(argument)]))


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
            problem = remote.refusal(path)
            yield _file(path) if problem is None else Found(Item(path, error=problem), "")


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


def _open_manifest(path: str) -> Source:
    if not os.path.isfile(path) and not _is_table_in_parts(path):
        raise SourceError(f"manifest {path!r}: no such file")
    carried = _carried(_columns(path))
    if path.lower().endswith(_PARQUET) and any(map(_holds_images, parts := _parquet_parts(path))):
        return Source(lambda: (Found(Item(part), os.path.basename(part), is_archive=True) for part in parts), carried)
    return Source(lambda: _rows(path, carried), carried)


def _rows(path: str, carried: Sequence[str]) -> Iterator[Found]:
    """The items of a manifest."""
    for number, row in enumerate(read_rows(path, (*MANIFEST_COLUMNS, *carried)), 1):
        yield _listed(row, carried, path, number)


def _columns(path: str) -> list[str]:
    """The columns of a manifest, whose rows are all read unless the format has the columns apart.

    Raises:
        SourceError: no column `image`, too many columns, or CSV that can't be told apart.
    """
    if path.lower().endswith(_PARQUET):
        return list(dict.fromkeys(name for part in _parquet_parts(path) for name in _parquet_columns(part)))
    names: dict[str, None] = {}
    for row in read_rows(path):
        if isinstance(row, dict) and not row.keys() <= names.keys():
            names |= dict.fromkeys(row)
            if len(names) > MAX_COLUMNS:
                raise SourceError(f"{path!r} has more than {MAX_COLUMNS} columns")
    return list(names)


def _carried(names: Sequence[str]) -> tuple[str, ...]:
    """The columns that are carried into the table of scores; of another such table, not its metric, scores, error."""
    left_out = {"", *MANIFEST_COLUMNS}
    if {*MANIFEST_COLUMNS, "metric", "error"} <= set(names):
        left_out |= set(names[names.index("metric") : names.index("error") + 1])
    return tuple(name for name in names if name not in left_out and _is_text(name))


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
    """What a cell says of an image: its path, or what is in its file, or both, as Hugging Face's data sets have it.

    Raises:
        SourceError: neither, or a path that a manifest may not name.
    """
    cell: Any = row.get(column)
    content = None
    if isinstance(cell, dict) and cell.keys() <= {"bytes", "path"}:
        cell, content = cell.get("path"), cell.get("bytes")
    elif isinstance(cell, bytes):
        cell, content = None, cell
    if content is not None and not isinstance(content, bytes):
        raise SourceError(f"{column!r} holds no bytes but {type(content).__name__}")
    if cell is None or cell == "":
        return None, content
    if not _is_text(cell):
        raise SourceError(f"{column!r} is {cell!r}; expected text")
    path = _spelled(str(cell), folder) if content is None else str(cell)
    if (problem := remote.refusal(path)) is not None:
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
        text.encode()
    except UnicodeEncodeError:
        text = _from_windows(text) or text.encode("utf-8", "backslashreplace").decode()
    return text or None


def _from_windows(text: str) -> str | None:
    """Text whose bytes are not UTF-8, as the code page of Western Europe has it; None if it is not that, either."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("cp1252")
    except UnicodeError:
        return None


def _spelled(cell: str, folder: str) -> str:
    """The path in a cell as the disk spells it.

    If there is no such file: without blanks around it, with slashes for backslashes, out of Windows' code page, in the
    other normal form of Unicode, or several of these, if there is a file of that name.
    """
    stripped = cell.strip()
    if remote.is_url(stripped):
        return stripped
    slashed = dict.fromkeys((cell, stripped, stripped.replace("\\", "/")))
    if len(slashed) == 1 and cell.isascii():
        return cell
    decoded = dict.fromkeys(each for path in slashed for each in (path, _from_windows(path)) if each is not None)
    forms = (form for path in decoded for form in (path, *(unicodedata.normalize(n, path) for n in ("NFC", "NFD"))))
    return next((form for form in forms if os.path.lexists(beside(folder, form))), stripped)


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
        SourceError: not a table, one without a column `image` or with two of a name; CSV that can't be told apart.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix == ".parquet" or _is_table_in_parts(path):
        return (row for part in _parquet_parts(path) for row in _parquet_rows(part, columns))
    return {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _jsonl_rows}[suffix](path)


def _csv_rows(path: str) -> Iterator[dict[str, Any] | str]:
    rows = read_csv(path, "image", _is_image_name)
    try:
        _, header = next(rows, (0, []))
        header = [name.strip() for name in header]
        _check_columns(path, header)
        for line, cells in rows:
            if any(cells[len(header) :]):
                raise SourceError(
                    f"{path}: line {line} has {len(cells)} cells, the header {len(header)}: quote a cell with a "
                    "delimiter in it"
                )
            given: dict[str, Any] = dict.fromkeys(header) | dict(zip(header, cells, strict=False))
            given.pop("", None)
            yield given | ({"": None} if len(cells) > len(header) else {})  # whoever is strict about cells sees it
    except CsvError as error:
        raise SourceError(str(error)) from None


def _is_image_name(text: str) -> bool:
    return os.path.splitext(text)[1].lower() in IMAGE_SUFFIXES


def _jsonl_rows(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
        for line in filter(str.strip, stream):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield f"not JSON: {error}"
                continue
            yield _object(row)


def _json_rows(path: str) -> Iterator[dict[str, Any] | str]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
        try:
            rows = json.load(stream)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{path!r} is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise SourceError(f"{path!r} holds no list of rows but {type(rows).__name__}")
    yield from map(_object, rows)


def _object(row: Any) -> dict[str, Any] | str:
    return row if isinstance(row, dict) else f"expected an object, got {type(row).__name__}"


def _parquet_parts(path: str) -> list[str]:
    return sorted(glob.glob(os.path.join(glob.escape(path), "*.parquet"))) if _is_table_in_parts(path) else [path]


def _parquet_rows(path: str, columns: Iterable[str] | None) -> Iterator[dict[str, Any] | str]:
    with _open_parquet(path) as file:
        names = file.schema_arrow.names
        _check_columns(path, names)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size // max(1, group.num_rows) for group in groups), default=0)
        rows = min(_PARQUET_ROWS, max(1, _PARQUET_BYTES // max(1, largest)))
        wanted = [name for name in columns if name in names] if columns else names
        try:
            for batch in file.iter_batches(rows, columns=wanted):
                yield from batch.to_pylist()
        except (OSError, ValueError) as error:
            yield f"not Parquet: {error}"


def _parquet_columns(path: str) -> list[str]:
    """The columns of a Parquet file that can be those of a manifest; lists, structs and bytes are no text."""
    from pyarrow import types

    with _open_parquet(path) as file:
        _check_columns(path, file.schema_arrow.names)
        other = (types.is_nested, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
        return [
            field.name
            for field in file.schema_arrow
            if field.name in MANIFEST_COLUMNS or not any(check(field.type) for check in other)
        ]


def _holds_images(path: str) -> bool:
    """Whether images are in a Parquet file, not only their paths."""
    from pyarrow import types

    with _open_parquet(path) as file:
        columns = {field.name: field.type for field in file.schema_arrow}
    kinds = (columns[name] for name in ("image", "reference") if name in columns)
    return any(types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind) for kind in kinds)


def _open_parquet(path: str) -> Any:
    try:
        return import_parquet().ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise SourceError(f"{path!r} is not Parquet: {error}") from None


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
    twice = [name for name in names if name and names.count(name) > 1]
    if twice:
        raise SourceError(f"{path!r} has two columns {twice[0]!r}: rename one")
