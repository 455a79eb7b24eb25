"""Images of one prompt by several groups, which the page shows side by side; and what images are called."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from aigciqa.compare.groups import Group, match
from aigciqa.report.collection import Collection

if TYPE_CHECKING:
    from aigciqa.report.payload import Gallery
    from aigciqa.report.sections import Members

#: Characters of a prompt on the page.
TEXT_LIMIT = 2000


class Matches(NamedTuple):
    """What each image has in common with those of other groups; None: nothing."""

    keys: list[str | None]  # its prompt
    seeds: list[str | None]  # of its prompt, if only the same seeds are compared


def matches_of(collection: Collection, members: Members, by_seed: bool) -> Matches:
    """What images have in common.

    As the rows were given it, if any was, and by seed if that is given, too; else as `aigciqa.compare` finds it for the
    listed groups.
    """
    images = collection.images
    nothing: list[str | None] = [None] * len(images)
    if any(image.match is not None for image in images):
        return Matches(
            [image.match or None for image in images], [each.seed for each in images] if by_seed else nothing
        )
    matches = Matches(nothing, nothing.copy())
    if len(members) < 2:
        return matches
    groups = []
    for group, indices in members.items():
        rows = [
            {
                "image": image.path, "reference": image.reference, "prompt": image.text, "seed": image.seed,
                "error": None,
            }
            for image in map(images.__getitem__, indices)
        ]  # fmt: skip
        groups.append(Group.of_rows(group, rows))
    found = match(groups)
    for known, by_group in zip(matches, (found.keys, found.seeds or {}), strict=True):
        for group, values in by_group.items():
            for index, value in zip(members[group], values, strict=True):
                known[index] = value or None
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
                "text": clipped(" / ".join(row["texts"])),
                "reference": references.get(row["reference"]),
            }
            for row in rows
        ],
    }


def clipped(text: str) -> str:
    """A text as the page has it: a long one loses its end."""
    return text if len(text) <= TEXT_LIMIT else f"{text[: TEXT_LIMIT - 1]}…"


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
