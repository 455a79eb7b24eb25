"""Where items come from: files, folders, patterns, archives, manifests, standard input."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, TypeAlias

from aigciqa.errors import SourceError
from aigciqa.images.generation.parameters import FIELDS
from aigciqa.images.names import IMAGE_SUFFIXES, SKIPPED_SUFFIXES
from aigciqa.images.plugins import PLUGINS
from aigciqa.records import Item
from aigciqa.scoring import archives, manifests
from aigciqa.scoring.items import Found
from aigciqa.scoring.manifests import NUL, SHOWN
from aigciqa.scoring.tar import ArchiveError
from aigciqa.tables import parquet
from aigciqa.utils import object_stores
from aigciqa.utils.paths import absolute, at_home

MANIFEST_SUFFIXES = frozenset({".csv", ".jsonl", ".parquet"})

#: Folder -> how many of its images a walk skipped, by suffix; however often it is walked.
Skipped: TypeAlias = "dict[str, Counter[str]]"


@dataclass(frozen=True)
class Source:
    """What an argument of the command line names; called, it lists its items, lazily."""

    argument: str
    opener: Callable[[], Iterator[Found]]
    columns: tuple[str, ...] = ()  # of a manifest, those that are carried into the table
    files: tuple[str, ...] = ()  # that hold its images, if they are in Parquet

    def __call__(self) -> Iterator[Found]:
        return _to_its_end(self.argument, self.opener)


def open_sources(arguments: Iterable[str], stdin: BinaryIO, skipped: Skipped) -> list[Source]:
    """Check the arguments of the command line. Manifests in CSV and JSON lines are read once for that.

    A source that can't be listed, or only in part, ends in an item with an error. `skipped` is filled while folders are
    walked.

    Raises:
        SourceError: a pattern that matches nothing; a manifest that is missing, has no column `image`, or is no CSV.
    """
    return [_open_source(argument, stdin, skipped) for argument in arguments]


def describe_skipped(skipped: Skipped) -> list[str]:
    """A line on what walks skipped and why, if there is anything."""
    total: Counter[str] = sum(list(skipped.values()), Counter())
    by_count = sorted(total, key=lambda suffix: (-total[suffix], suffix))
    kinds = (
        ([each for each in by_count if each in PLUGINS], "pip install 'aigciqa[formats]' to read them"),
        ([each for each in by_count if each not in PLUGINS], "not among the suffixes that are looked for there"),
    )
    parts = [f"{', '.join(f'{total[each]} {each}' for each in found)} ({why})" for found, why in kinds if found]
    return [f"skipped in folders: {'; '.join(parts)}"] if parts else []


def opened(found: Found) -> Iterator[Found]:
    """The items of an archive or a Parquet file, read one after the other; what is none is itself.

    An archive that can't be read, or only in part, ends in an item with an error; so does one without images.
    """
    if not found.is_archive:
        yield found
        return
    path, image = found.item.image, None
    if path.lower().endswith(parquet.SUFFIX):
        yield from _to_its_end(path, lambda: manifests.rows(path, manifests.carried_columns(path)))
        return
    try:
        for image in archives.images(path):
            yield _of_archive(path, image)
        if image is None:
            raise ArchiveError(f"{path}: no images in it")
    except ArchiveError as error:
        yield Found(Item(path, error=str(error)), found.relative)


def brings_references(found: Found) -> bool:
    """Whether it is an archive with references in it, beside their images or not; all of it may be read for that."""
    if not found.is_archive or found.item.image.lower().endswith(parquet.SUFFIX):
        return False
    return archives.has_references(found.item.image)


def _of_archive(path: str, image: archives.ArchiveImage) -> Found:
    """The item of an archive's image."""
    name = f"{path}/{image.name}"
    if not archives.is_usable(image.name):
        return Found(Item(path, error=f"{path}: {image.name[:SHOWN]!r}: {image.error}"), "")
    item = Item(
        name,
        image.reference and f"{path}/{image.reference}",
        error=image.error and f"{name}: {image.error}",
        reference_error=image.reference_error and f"{name}: {image.reference_error}",
        content=image.content,
        reference_content=image.reference_content,
    )
    return Found(item, posixpath.normpath(image.name))


def group_by(rule: str, columns: Collection[str] = ()) -> Callable[[Item], Item]:
    """What gives items their group.

    `parent` is the name of the image's folder. A field of generation parameters is left to who reads the file
    (`generation.Wanted`). One of the manifests' columns is its cell. Anything else is a regular expression: the group
    is its first capture group, else its whole match, anywhere in the path; none where it does not match.
    """
    if rule == "parent":
        return lambda item: replace(item, group=os.path.basename(os.path.dirname(absolute(item.image))))
    if rule in FIELDS:
        return lambda item: item
    if rule in columns:
        return lambda item: replace(item, group=item.extra.get(rule))
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise SourceError(
            f"--group-by {rule!r} is neither 'parent', a generation parameter ({', '.join(FIELDS)}), a column of a "
            f"manifest nor a regular expression: {error}"
        ) from None

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
        return Source(argument, lambda: _from_lines(stdin))
    if parquet.is_folder_of_parts(argument):
        return _open_manifest(os.path.normpath(argument))
    if is_folder(argument):
        return Source(argument, lambda: walk(argument, skipped))
    if os.path.splitext(argument)[1].lower() in MANIFEST_SUFFIXES:
        return _open_manifest(argument)
    if glob.has_magic(argument) and not object_stores.may_exist(argument):
        matches = _glob(argument)
        if not matches:
            raise SourceError(f"{argument!r} matches no file")
        return Source(argument, lambda: (found for match in matches for found in _matched(match, skipped)))
    return Source(argument, lambda: iter([_file(argument)]))


def _open_manifest(path: str) -> Source:
    if not os.path.isfile(path) and not parquet.is_folder_of_parts(path):
        raise SourceError(f"manifest {path!r}: no such file")
    carried = manifests.carried_columns(path)
    if path.lower().endswith(parquet.SUFFIX) and any(map(parquet.holds_images, parts := parquet.parts_of(path))):
        files = [Found(Item(part), os.path.basename(part), is_archive=True) for part in parts]
        return Source(path, lambda: iter(files), carried, tuple(parts))
    return Source(path, lambda: manifests.rows(path, carried), carried)


def is_folder(path: str) -> bool:
    """Whether it is a folder, of this machine or of an object store; raises SourceError if that can't be reached."""
    try:
        return object_stores.is_folder(path)
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
    return walk(path, skipped) if os.path.isdir(path) else iter([_file(path)])


def _from_lines(stream: BinaryIO) -> Iterator[Found]:
    for line in stream:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if "\0" in path:
            yield Found(Item("", error=f"{path[:SHOWN]!r}: {NUL}"), "")
        elif path := at_home(path):
            problem = object_stores.refusal(path)
            yield _file(path) if problem is None else Found(Item(path, error=problem), "")


def walk(folder: str, skipped: Skipped) -> Iterator[Found]:
    """Images of a folder and the folders in it, sorted by name; links to folders are not followed."""
    counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path, relative, error in object_stores.files_below(folder):
        if error is not None:
            yield Found(Item(path, error=f"{path}: {error}"), relative)
        elif _is_listed(os.path.basename(path), counts[os.path.dirname(path)]):
            yield Found(Item(path), relative)
    skipped.update(counts)


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
