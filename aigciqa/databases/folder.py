"""Your own ratings: images anywhere and a manifest `.csv` beside them, or images in a `.parquet` manifest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from aigciqa.databases.base import (
    DIMENSIONS,
    SUMMED,
    Database,
    DatabaseSpec,
    Sample,
    as_group,
    below,
    check_images,
    named,
    open_root,
    with_overall,
)
from aigciqa.databases.labels import Reader, Table
from aigciqa.errors import InputError
from aigciqa.images import parquet
from aigciqa.scoring.manifests import path_on_disk
from aigciqa.utils.paths import absolute, shown

MANIFEST = "manifest.csv"
#: Of scores in a table, at most.
ROUNDING = 0.02
SPEC = DatabaseSpec(
    name="folder",
    title="The folder of rated images",
    homepage="",
    licence="your own",
    source="your own ratings",
    layout={
        MANIFEST: "a table with the column image, one or more of quality, authenticity, correspondence, overall, and "
        "optionally reference, prompt, generator, group; images' paths are relative to it"
    },
    score_range={},
    protocols=("prompt-disjoint", "k-fold"),
    published=None,
)


def load(
    root: Path, manifest: str | None = None, score_range: Mapping[str, tuple[float, float]] | None = None
) -> Database:
    """Read a folder of rated images.

    Args:
        root: the folder, or the manifest itself.
        manifest: path of the `.csv` or `.parquet` below the root; `manifest.csv`, else the only `.csv`, else the only
            `.parquet` there, if absent. In Parquet, `image` and `reference` may hold images: bytes, or structs of
            `bytes` and `path`.
        score_range: dimension -> (lowest, highest) of the scale; from the lowest to the highest score if absent.

    Raises:
        DatabaseError: no manifest, or what it lists is not there, is listed twice or has no score.
        ValueError: a range for what is not rated, or that does not hold the scores.
    """
    if root.is_file():
        root, manifest = root.parent, root.name
    name = manifest or _only_manifest(root)
    problems = open_root(replace(SPEC, layout={name: SPEC.layout[MANIFEST]}), root, [name])
    samples: tuple[Sample, ...] = ()
    if problems.has(name):
        reader = Reader(root, problems)
        read = reader.parquet if name.lower().endswith(parquet.SUFFIX) else reader.csv
        table = read(name, ("image",))
        samples = _samples(root, reader, table) if table else ()
        check_images(problems, name, samples)
    problems.raise_any()
    options = {} if name == MANIFEST else {"manifest": name}
    return Database(SPEC, root, samples, _ranges(samples, score_range or {}), options)


def _only_manifest(root: Path) -> str:
    """The name of the manifest that is meant where none is given."""
    for pattern in ("*.csv", f"*{parquet.SUFFIX}"):
        found = sorted(path.name for path in root.glob(pattern))
        if found:
            return found[0] if len(found) == 1 else MANIFEST
    return MANIFEST


def _samples(root: Path, reader: Reader, table: Table) -> tuple[Sample, ...]:
    rated = [dimension for dimension in DIMENSIONS if dimension in table.columns]
    if not rated:
        found = shown([repr(name) for name in table.columns])
        reader.problems.add(table.where, f"no column of scores ({', '.join(DIMENSIONS)}); found: {found}")
    scores = [reader.numbers(table, dimension) for dimension in rated]
    folder = (root / table.where).parent
    texts = [_optional(reader, table, name) for name in ("reference", "prompt", "generator", "group")]
    rows = zip(reader.texts(table, "image"), *texts, *scores, strict=True)
    return named((_sample(root, folder, row[:5], dict(zip(rated, row[5:], strict=True))) for row in rows), root)


def _optional(reader: Reader, table: Table, name: str) -> list[str]:
    return reader.texts(table, name, blank=True) if name in table.columns else [""] * len(table.rows)


def _sample(root: Path, folder: Path, texts: tuple[str, ...], scores: Mapping[str, float]) -> Sample:
    image, reference, prompt, generator, group = texts
    original = _beside(folder, reference) if reference else None
    return Sample(
        image=_beside(folder, image),
        reference=original,
        prompt=prompt or None,
        generator=generator or None,
        group=group or (original and below(root, original)) or as_group(prompt) or image,
        scores=with_overall(scores),
    )


def _beside(folder: Path, path: str) -> str:
    """The absolute path of what a manifest names, as the disk spells it."""
    return absolute(folder / path_on_disk(path, str(folder)))


def _is_summed(sample: Sample) -> bool:
    """Whether `overall` is the sum of the others, up to the rounding of a table."""
    total = sum(sample.scores[name] for name in SUMMED)
    return math.isclose(sample.scores["overall"], total, abs_tol=ROUNDING)


def _ranges(samples: tuple[Sample, ...], given: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    columns = {dimension: [sample.scores[dimension] for sample in samples] for dimension in samples[0].scores}
    ranges = {dimension: (min(scores), max(scores)) for dimension, scores in columns.items()}
    for dimension, (low, high) in given.items():
        if dimension not in ranges:
            raise InputError(f"score_range for {dimension!r}, which is not rated; rated: {', '.join(ranges)}")
        if not low <= ranges[dimension][0] <= ranges[dimension][1] <= high:
            raise InputError(f"score_range of {dimension!r} is {(low, high)}, but scores are in {ranges[dimension]}")
    if all(name in given for name in SUMMED) and all(map(_is_summed, samples)):
        ranges["overall"] = (sum(given[name][0] for name in SUMMED), sum(given[name][1] for name in SUMMED))
    return {**ranges, **{dimension: (float(low), float(high)) for dimension, (low, high) in given.items()}}
