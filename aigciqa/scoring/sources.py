"""Where items come from: files, folders, patterns, archives, manifests, standard input; their references and groups."""

from __future__ import annotations

import glob
import json
import os
import posixpath
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO, TypeAlias

from aigciqa.errors import SourceError
from aigciqa.images.names import IMAGE_SUFFIXES, SKIPPED_SUFFIXES
from aigciqa.records import Item
from aigciqa.scoring import archives
from aigciqa.scoring.tar import ArchiveError
from aigciqa.tables import parquet
from aigciqa.tables.columns import MANIFEST_COLUMNS
from aigciqa.tables.csv_text import from_windows
from aigciqa.tables.formats import read_rows
from aigciqa.utils import object_stores
from aigciqa.utils.paths import absolute, at_home, name_key, shown

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})
#: Columns of a manifest, at most: each is one in every row of the table.
MAX_COLUMNS = 1000
#: So much of a name that can't be used is shown.
_SHOWN = 100
_NUL = "no file's name has a NUL in it"

#: Folder -> how many of its images a walk skipped, by suffix; however often it is walked.
Skipped: TypeAlias = "dict[str, Counter[str]]"


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
        files: that hold its images, if they are in Parquet.
    """

    opener: Callable[[], Iterator[Found]]
    columns: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def __call__(self) -> Iterator[Found]:
        return self.opener()


def open_sources(arguments: Iterable[str], stdin: BinaryIO, skipped: Skipped | None = None) -> list[Source]:
    """Check the arguments of the command line. Manifests in CSV and JSON lines are read once for that.

    A source that can't be listed, or only in part, ends in an item with an error.

    Args:
        arguments: files, folders, patterns, archives, manifests, URLs, `-`.
        stdin: what `-` reads.
        skipped: filled while folders are walked.

    Raises:
        SourceError: a pattern that matches nothing; a manifest that is missing, has no column `image`, or is no CSV.
    """
    skipped = {} if skipped is None else skipped
    sources = [(argument, _open_source(argument, stdin, skipped)) for argument in arguments]
    return [replace(source, opener=partial(_to_its_end, argument, source.opener)) for argument, source in sources]


def told(skipped: Skipped) -> list[str]:
    """A line on what walks skipped, if there is anything."""
    total: Counter[str] = sum(list(skipped.values()), Counter())
    counts = ", ".join(f"{total[suffix]} {suffix}" for suffix in sorted(total, key=lambda each: (-total[each], each)))
    return [f"skipped in folders: {counts}: not among the suffixes that are looked for there"] if total else []


def opened(found: Found) -> Iterator[Found]:
    """The items of an archive or a Parquet file, read one after the other; what is none is itself.

    An archive that can't be read, or only in part, ends in an item with an error; so does one without images.
    """
    if not found.is_archive:
        yield found
        return
    path, image = found.item.image, None
    if path.lower().endswith(parquet.SUFFIX):
        yield from _to_its_end(path, lambda: _rows(path, _carried(parquet.text_columns(path))))
        return
    try:
        for image in archives.images(path, IMAGE_SUFFIXES):
            yield _found(path, image)
        if image is None:
            raise ArchiveError(f"{path}: no images in it")
    except ArchiveError as error:
        yield Found(Item(path, error=str(error)), found.relative)


def brings_references(found: Found) -> bool:
    """Whether it is an archive with references in it, beside their images or not; all of it may be read for that."""
    if not found.is_archive or found.item.image.lower().endswith(parquet.SUFFIX):
        return False
    return archives.has_references(found.item.image, IMAGE_SUFFIXES)


def _found(path: str, image: archives.ArchiveImage) -> Found:
    """The item of an archive's image."""
    name = f"{path}/{image.name}"
    if not archives.is_usable(image.name):
        return Found(Item(path, error=f"{path}: {image.name[:_SHOWN]!r}: {image.error}"), "")
    item = Item(
        name,
        image.reference and f"{path}/{image.reference}",
        error=image.error and f"{name}: {image.error}",
        reference_error=image.reference_error and f"{name}: {image.reference_error}",
        content=image.content,
        reference_content=image.reference_content,
    )
    return Found(item, posixpath.normpath(image.name))


def references_from(reference: str) -> Callable[[Iterable[Found] | None], Callable[[Found], Item]]:
    """What pairs images with their reference: one file for all, or the matching file of a folder.

    Called with a listing of the images, it returns what gives each of them its reference. In a folder, that is the file
    of the same relative path, else of the same relative path with another suffix. Else it is the file of the same stem:
    in a folder without folders in it, which many images may share; in any other only if no image of the listing has a
    reference of its path, where one file and one image have that stem. NFC and NFD make no difference. Images are never
    paired by position. An item's own reference, from a manifest, stays.

    The listing is read up to the first image that matches by path. It is None where images can't be listed twice
    (standard input): unless the folder has no folders, stems are not tried then, and neither where it has archives.

    Raises:
        SourceError: there is no such file or folder.
    """
    if _is_folder(reference):
        return _ReferenceFolder(reference).pairing
    if not object_stores.is_url(reference) and not os.path.exists(reference):
        raise SourceError(f"reference {reference!r}: no such file or folder")
    return lambda _: lambda found: found.item if found.item.reference else replace(found.item, reference=reference)


def group_by(rule: str) -> Callable[[Item], Item]:
    """What gives items their group: `parent`, the name of the image's folder, or a regular expression.

    The group is the expression's first capture group, else its whole match, anywhere in the path; none where it does
    not match.

    Raises:
        SourceError: not a regular expression.
    """
    if rule == "parent":
        return lambda item: replace(item, group=os.path.basename(os.path.dirname(absolute(item.image))))
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


def _open_source(argument: str, stdin: BinaryIO, skipped: Skipped) -> Source:
    if argument == "-":
        return Source(lambda: _from_lines(stdin))
    if parquet.is_folder_of_parts(argument):
        return _open_manifest(os.path.normpath(argument))
    if _is_folder(argument):
        return Source(lambda: _walk(argument, "", skipped))
    if os.path.splitext(argument)[1].lower() in MANIFEST_SUFFIXES:
        return _open_manifest(argument)
    if glob.has_magic(argument) and not (object_stores.is_url(argument) or os.path.lexists(argument)):
        matches = _glob(argument)
        if not matches:
            raise SourceError(f"{argument!r} matches no file")
        return Source(lambda: (found for match in matches for found in _matched(match, skipped)))
    return Source(lambda: iter([_file(argument)]))


def _is_folder(path: str) -> bool:
    """Whether it is a folder, of this machine or of an object store.

    Raises:
        SourceError: the object store can't be reached.
    """
    try:
        return object_stores.is_folder(path) if object_stores.is_url(path) else os.path.isdir(path)
    except OSError as error:
        raise SourceError(f"{path!r}: {error}") from None


def _file(path: str) -> Found:
    return Found(Item(path), os.path.basename(path), is_archive=path.lower().endswith(archives.SUFFIX))


def _glob(pattern: str) -> list[str]:
    """Matches of a pattern, sorted; what `**` reaches through links to folders as well counts once."""
    longest_first = sorted(glob.glob(pattern, recursive=True), key=len, reverse=True)
    unique = {(os.path.realpath(os.path.dirname(path)), os.path.basename(path)): path for path in longest_first}
    return sorted(unique.values())


def _matched(path: str, skipped: Skipped) -> Iterator[Found]:
    return _walk(path, "", skipped) if os.path.isdir(path) else iter([_file(path)])


def _from_lines(stream: BinaryIO) -> Iterator[Found]:
    for line in stream:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if "\0" in path:
            yield Found(Item("", error=f"{path[:_SHOWN]!r}: {_NUL}"), "")
        elif path := at_home(path):
            problem = object_stores.refusal(path)
            yield _file(path) if problem is None else Found(Item(path, error=problem), "")


def _walk(folder: str, below: str, skipped: Skipped) -> Iterator[Found]:
    """Images of a folder and the folders in it, sorted by name; links to folders are not followed."""
    if object_stores.is_url(folder):
        yield from _walk_url(folder, skipped)
        return
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError as error:
        yield Found(Item(folder, error=f"{folder}: {error.strerror}"), below)
        return
    counts: Counter[str] = Counter()
    for entry in entries:
        relative = os.path.join(below, entry.name)
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, relative, skipped)
        elif _is_listed(entry.name, counts) and not os.path.isdir(entry.path):
            yield Found(Item(entry.path), relative)
    skipped[folder] = counts


def _walk_url(folder: str, skipped: Skipped) -> Iterator[Found]:
    counts: Counter[str] = Counter()
    for relative in object_stores.files_below(folder):
        if _is_listed(posixpath.basename(relative), counts):
            yield Found(Item(posixpath.join(folder, relative)), relative)
    skipped[folder] = counts


def _is_listed(name: str, counts: Counter[str]) -> bool:
    """Whether a file is an image by its name; of others, those of images that are skipped are counted.

    What macOS puts beside a file on other file systems, `._` and its name, is none.
    """
    suffix = os.path.splitext(name)[1].lower()
    if name.startswith("._"):
        return False
    if suffix in SKIPPED_SUFFIXES:
        counts[suffix] += 1
    return suffix in IMAGE_SUFFIXES


class _ReferenceFolder:
    """The references below a folder, by relative path and by stem."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.by_path: defaultdict[str, list[str]] = defaultdict(list)  # without suffix
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self.is_whole = True
        for found in _walk(folder, "", {}):
            if found.item.error is not None:
                self.is_whole = False
                continue
            self.by_path[_path_key(found.relative)].append(found.relative)
            self.by_stem[_stem_key(found.relative)].append(found.relative)
        self.is_flat = self.is_whole and all(_stem_key(path) == path for path in self.by_path)

    def pairing(self, images: Iterable[Found] | None) -> Callable[[Found], Item]:
        """What gives these images their reference."""
        if self.is_flat:
            return partial(self._give, frozenset(key for key, found in self.by_stem.items() if len(found) == 1))
        return partial(self._give, self._stems(images) if images is not None and self.is_whole else frozenset())

    def _give(self, stems: frozenset[str], found: Found) -> Item:
        item = found.item
        if item.reference or item.error is not None:
            return item
        matches, key = self._of_path(found.relative), _stem_key(found.relative)
        namesakes = self.by_stem.get(key, [])
        if len(matches) == 1 or (not matches and key in stems):
            return replace(item, reference=os.path.join(self.folder, (matches or namesakes)[0]))
        if matches:
            problem = f"several references in {self.folder} have its relative path: {shown(matches)}"
        elif namesakes:
            problem = (
                f"no reference in {self.folder} has its relative path {found.relative!r}. Only the stem is that of "
                f"{shown(namesakes)}, and stems count only where no image matches by path and the stem is unique on "
                "both sides: name the folders below which the paths agree (as in gen/*), or list both in a manifest"
            )
        else:
            problem = f"no reference in {self.folder} has its relative path or its stem"
        return replace(item, reference_error=f"{item.image}: {problem}")

    def _of_path(self, relative: str) -> list[str]:
        """The references of an image's relative path; of the same with another suffix only if there are no others."""
        matches = self.by_path.get(_path_key(relative), [])
        same = [match for match in matches if name_key(match) == name_key(relative)]
        return [match for match in same if match == relative] or same or matches

    def _stems(self, images: Iterable[Found]) -> frozenset[str]:
        """Stems that one image and one reference have; none if some image matches by path, or is in an archive."""
        found_in: dict[str, set[str]] = {}
        for found in images:
            if found.item.reference or found.item.error is not None:
                continue
            if found.is_archive or self._of_path(found.relative):
                return frozenset()
            key = _stem_key(found.relative)
            if len(self.by_stem.get(key, ())) == 1 and len(having := found_in.setdefault(key, set())) < 2:
                having.add(found.item.image)
        return frozenset(key for key, having in found_in.items() if len(having) == 1)


def _path_key(relative: str) -> str:
    """What relative paths that differ in their suffix have in common."""
    return os.path.splitext(name_key(relative))[0]


def _stem_key(relative: str) -> str:
    return posixpath.basename(_path_key(relative))


def _open_manifest(path: str) -> Source:
    if not os.path.isfile(path) and not parquet.is_folder_of_parts(path):
        raise SourceError(f"manifest {path!r}: no such file")
    carried = _carried(_columns(path))
    if path.lower().endswith(parquet.SUFFIX) and any(map(parquet.holds_images, parts := parquet.parts_of(path))):
        files = [Found(Item(part), os.path.basename(part), is_archive=True) for part in parts]
        return Source(lambda: iter(files), carried, tuple(parts))
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
    if path.lower().endswith(parquet.SUFFIX):
        return list(dict.fromkeys(name for part in parquet.parts_of(path) for name in parquet.text_columns(part)))
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
        raise SourceError(f"{column!r} is {str(cell)[:_SHOWN]!r}: {_NUL}")
    path = spelled(str(cell), folder) if content is None else str(cell)
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
    text = text.replace("\0", r"\x00")  # a table in CSV that has it can't be told from a damaged one
    try:
        text = from_windows(text)
    except UnicodeError:
        text = text.encode("utf-8", "backslashreplace").decode()
    return text or None


def spelled(cell: str, folder: str) -> str:
    """The path in a cell as the disk spells it.

    If there is no such file: without blanks around it, with slashes for backslashes, below the home folder for `~`, out
    of Windows' code page, in the other normal form of Unicode, or several of these, if there is a file of that name.
    """
    stripped = cell.strip()
    if object_stores.is_url(stripped):
        return stripped
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
    if object_stores.is_url(path):
        return path
    return path if not os.path.lexists(joined) and os.path.lexists(path) else joined
