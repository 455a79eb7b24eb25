"""The state of a run after its last whole epoch, from which the run goes on, and the check that it is the same run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from aigciqa.databases.sample import below
from aigciqa.databases.splits import PARTS, Split
from aigciqa.errors import CheckpointError, InputError
from aigciqa.images.reading import read_content
from aigciqa.utils.files import replacing
from aigciqa.utils.paths import shown

#: 1 had no format in it and other targets, 2 other names of settings.
FORMAT = 3
#: Settings that may be others when a run goes on: they don't change what was done.
FREE = ("epochs", "patience", "activation_checkpointing")


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state whole or not at all.

    Raises:
        OSError: it can't be written.
    """
    with replacing(path) as partial, partial.open("wb") as file:
        try:
            torch.save({"format": FORMAT, **state}, file)
        except RuntimeError as error:  # torch's own, raised after the one that stopped it
            raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def read_state(path: Path, settings: Mapping[str, Any], split: Split) -> dict[str, Any]:
    """Read the state of a run and check that it is one of these settings and of this split.

    Raises:
        CheckpointError: it can't be read.
        InputError: naming what differs.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # torch raises anything on broken data
        raise CheckpointError(f"{path} is damaged, or of another kind: train anew in another folder") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} was written by another version of aigciqa: train anew in another folder")
    changed = [key for key, value in settings.items() if state["settings"].get(key) != value and key not in FREE]
    _refuse(path, [*changed, *_changed_split(state, split)])
    return state


def check_images(path: Path, state: Mapping[str, Any], images: Mapping[str, str]) -> None:
    """Raise InputError if images are not those that a run was trained on.

    Args:
        path: of the run's state.
        state: what it holds.
        images: as `digests` gives them.
    """
    known = state["images"]
    changed = [name for name, digest in images.items() if known.get(name) != digest]
    _refuse(path, [f"the images {shown(changed)}"] if changed else [])


def split_metadata(split: Split) -> dict[str, Any]:
    """What a state keeps of the split, so that what differs can be named."""
    ratings = {sample.name: dict(sample.scores) for part in PARTS for sample in getattr(split, part)}
    parts = {part: [sample.name for sample in getattr(split, part)] for part in PARTS}
    return {"split": split.digest, "parts": parts, "ratings": ratings}


def digests(paths: Iterable[str], root: Path, workers: int) -> dict[str, str]:
    """The sha256 of images' files, or of images inside a Parquet file, by their paths below the root."""
    distinct = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(workers) as pool:
        found = pool.map(lambda path: hashlib.sha256(read_content(path)).hexdigest(), distinct)
        return {below(root, path): digest for path, digest in zip(distinct, found, strict=True)}


def _changed_split(state: Mapping[str, Any], split: Split) -> list[str]:
    if state["split"] == split.digest:
        return []
    now = split_metadata(split)
    if state["parts"] == now["parts"]:
        changed = [name for name, scores in now["ratings"].items() if state["ratings"][name] != scores]
        if changed:
            return [f"the ratings of {shown(changed)}"]
    return ["the split of the database"]


def _refuse(path: Path, changed: list[str]) -> None:
    if changed:
        differing = ", ".join(changed)
        raise InputError(f"the run of {path} differs in {differing}: train as it did, or in another folder")
