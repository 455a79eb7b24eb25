"""Images and the references below a folder, matched by their paths."""

from __future__ import annotations

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from aigciqa.errors import SourceError
from aigciqa.records import Item
from aigciqa.scoring.items import Found
from aigciqa.scoring.sources import walk
from aigciqa.utils.object_stores import is_folder, may_exist
from aigciqa.utils.paths import name_key, shown


def references_from(reference: str) -> Callable[[Iterable[Found] | None], Callable[[Found], Item]]:
    """What pairs images with their reference: one file for all, or the matching file of a folder.

    Called with a listing of the images, it returns what gives each of them its reference. In a folder, that is the file
    of the same relative path, else of the same relative path with another suffix. Else it is the file of the same stem:
    in a folder without folders in it, which many images may share; in any other only if no image of the listing has a
    reference of its path, where one file and one image have that stem. NFC and NFD make no difference. Images are never
    paired by position. An item's own reference, from a manifest, stays.

    The listing is read up to the first image that matches by path. It is None where images can't be listed twice
    (standard input): unless the folder has no folders, stems are not tried then, and neither where it has archives.
    """
    if is_folder(reference):
        return _ReferenceFolder(reference).pairing
    if not may_exist(reference):
        raise SourceError(f"reference {reference!r}: no such file or folder")
    return lambda _: lambda found: found.item if found.item.reference else replace(found.item, reference=reference)


class _ReferenceFolder:
    """The references below a folder, by relative path and by stem."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.by_path: defaultdict[str, list[str]] = defaultdict(list)  # without suffix
        self.by_stem: defaultdict[str, list[str]] = defaultdict(list)
        self.is_whole = True
        for found in walk(folder, {}):
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
