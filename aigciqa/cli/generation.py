"""`--columns` and `--group-by` of `aigciqa score`: generation parameters of images as columns and groups."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from aigciqa.images.generation.parameters import FIELDS
from aigciqa.scoring.generation import ALL, Wanted, check_fields
from aigciqa.utils.paths import counted


def fields_of(columns: str | None) -> tuple[str, ...]:
    """The fields that `--columns` names, separated by commas."""
    names = [name.strip() for name in (columns or "").split(",")]
    if ALL in names:
        return FIELDS
    found = tuple(dict.fromkeys(filter(None, names)))
    check_fields(found, "--columns")
    return found


def wanted_of(fields: Sequence[str], group_by: str | None) -> Wanted:
    """What is to be read of the files. Their prompts are in any case: intervals resample these."""
    return Wanted(tuple(fields), group_by if group_by in FIELDS else None)


def ungrouped_note(group_by: str | None, manifest_columns: Collection[str], without: int, images: int) -> str | None:
    """What `--group-by` says of images that it gave no group, if there are any that count."""
    if group_by is None or not without:
        return None
    if group_by in FIELDS or group_by in manifest_columns:
        return f"--group-by {group_by}: no {group_by} is known of {without} of {counted(images, 'image')}: no group"
    if without < images:
        return None
    near = difflib.get_close_matches(group_by, [*FIELDS, *manifest_columns, "parent"], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"--group-by {group_by} matches none of the images' paths: there are no groups{hint}"
