"""Images of one prompt by several groups, which the page shows side by side; and what images are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aigciqa.compare.groups import Group, match
from aigciqa.report.collection import Collection

if TYPE_CHECKING:
    from aigciqa.report.payload import Gallery
    from aigciqa.report.sections import Members


def matches_of(collection: Collection, members: Members) -> list[str | None]:
    """What each image has in common with those of other groups; None: nothing.

    As the rows were given it, if any was, else as `aigciqa.compare` finds it for the listed groups.
    """
    images = collection.images
    if any(image.match is not None for image in images):
        return [image.match or None for image in images]
    matches: list[str | None] = [None] * len(images)
    if len(members) < 2:
        return matches
    groups = []
    for group, indices in members.items():
        rows = [
            {"image": image.path, "reference": image.reference, "prompt": image.text, "error": None}
            for image in map(images.__getitem__, indices)
        ]
        groups.append(Group.of_rows(group, rows))
    for group, keys in match(groups).keys.items():
        for index, key in zip(members[group], keys, strict=True):
            matches[index] = key
    return matches


def shared_prompts(
    collection: Collection, gallery: Gallery, matches: Sequence[str | None]
) -> dict[str, list[Any]] | None:
    """The rows of the view prompts x generators, and the row of each image of the gallery; None if no groups share any.

    Of a gallery that is a part, prompts are there that were drawn at random, with all their images.
    """
    groups: dict[str, set[str]] = {}
    numbers: dict[str, int] = {}
    rows: list[dict[str, Any]] = []
    row_of: list[int | None] = [None] * len(gallery.indices)
    for position in gallery.sample:
        image, key = collection.images[gallery.indices[position]], matches[gallery.indices[position]]
        if key is None:
            continue
        number = row_of[position] = numbers.setdefault(key, len(rows))
        if number == len(rows):
            rows.append({"key": key, "texts": {}, "reference": None})
        row = rows[number]
        row["reference"] = row["reference"] or image.reference
        row["texts"] |= {image.text: None} if image.text else {}
        groups.setdefault(key, set()).add(image.group)
    if not any(len(sharing) > 1 for sharing in groups.values()):
        return None
    references = {reference: index for index, reference in enumerate(gallery.references)}
    return {
        "row": row_of,
        "rows": [
            {
                "name": file_name(row["reference"] or row["key"]),
                "text": " / ".join(row["texts"]),
                "reference": references.get(row["reference"]),
            }
            for row in rows
        ],
    }


def distinct_names(paths: Sequence[str]) -> list[str]:
    """The file name of each path, after as many of its folders as tell it from the other paths."""
    names: dict[str, str] = {}
    parts = {path: _parts(path) for path in paths}
    depth = 1
    while parts:
        tails = {path: "/".join(each[-depth:]) for path, each in parts.items()}
        times = Counter(tails.values())
        for path, tail in tails.items():
            if times[tail] == 1 or depth >= len(parts[path]):
                names[path] = tail
                del parts[path]
        depth += 1
    return [names[path] for path in paths]


def file_name(path: str) -> str:
    """The last part of a path."""
    return _parts(path)[-1]


def _parts(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part] or [path]
