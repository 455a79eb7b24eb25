"""Your own ratings: images anywhere and a manifest `.csv` beside them, or images in a `.parquet` manifest."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from aigciqa.databases.database import Database, DatabaseSpec
from aigciqa.databases.labels import Labels, read_samples
from aigciqa.databases.sample import SUMMED, Sample, as_group, below, with_overall
from aigciqa.errors import InputError
from aigciqa.images import parquet
from aigciqa.registry import SCORE_RANGES, check_score_ranges, known_dimensions
from aigciqa.scoring.manifests import path_on_disk
from aigciqa.utils.paths import absolute, shown

MANIFEST = "manifest.csv"
#: Columns of a manifest that say something else than a score.
METADATA = ("image", "reference", "prompt", "generator", "group")
#: What `aigciqa mos` and `score` write beside a column of scores: their spread, ends of intervals, percentiles.
OF_SCORES = ("_std", "_low", "_high", "_percentile")
#: Of scores in a table, at most.
ROUNDING = 0.02
SPEC = DatabaseSpec(
    name="folder",
    title="The folder of rated images",
    homepage="",
    license="your own",
    source="your own ratings",
    layout={
        MANIFEST: "a table with the column image, one or more columns of scores (quality, authenticity, "
        "correspondence, overall, or others that are named), and optionally reference, prompt, generator, group; "
        "images' paths are relative to it"
    },
    score_range={},
    protocols=("prompt-disjoint", "k-fold"),
    published=None,
)


def load(
    root: Path,
    manifest: str | None = None,
    score_range: Mapping[str, Sequence[float]] | Sequence[float] | None = None,
    dimensions: Sequence[str] = (),
) -> Database:
    """Read a folder of rated images.

    Scores are in the columns named after a dimension: of a metric in `aigciqa.registry`, or one of `score_range` or
    `dimensions`, or with a column `NAME_std` beside it, as `aigciqa mos` writes them. Any other column of numbers is
    left out with a warning.

    Args:
        root: the folder, or the manifest itself.
        manifest: path of the `.csv` or `.parquet` below the root; `manifest.csv`, else the only `.csv`, else the only
            `.parquet` there, if absent. In Parquet, `image` and `reference` may hold images: bytes, or structs of
            `bytes` and `path`.
        score_range: dimension -> (lowest, highest) of the scale, or one pair for all; from the lowest to the highest
            score if absent.
        dimensions: names of more columns that hold scores.

    Raises:
        DatabaseError: no manifest, or what it lists is not there, is listed twice or has no score.
        InputError: a range for what is not rated, or that does not hold the scores.
    """
    if root.is_file():
        root, manifest = root.parent, root.name
    name = manifest or manifest_in(root)
    ranges = dict(score_range) if isinstance(score_range, Mapping) else {}
    spec = replace(SPEC, layout={name: SPEC.layout[MANIFEST]})
    columns = ("image", *(dimension for dimension in dimensions if dimension != "overall"))  # which may be the sum
    samples = read_samples(spec, root, name, columns, lambda labels: _samples(labels, {*dimensions, *ranges}))
    options = {} if name == MANIFEST else {"manifest": name}
    if score_range is not None and not isinstance(score_range, Mapping):
        ranges = dict.fromkeys(samples[0].scores, score_range)
        if all(name in ranges for name in SUMMED) and all(map(_is_summed, samples)):
            del ranges["overall"]  # whose scale is the sum of theirs
    return Database(SPEC, root, samples, _ranges(samples, ranges), options)


def manifest_in(root: Path) -> str:
    """The name of the manifest that is meant where none is given: `manifest.csv` if there is none or several."""
    for pattern in ("*.csv", f"*{parquet.SUFFIX}"):
        found = sorted(path.name for path in root.glob(pattern))
        if found:
            return found[0] if len(found) == 1 else MANIFEST
    return MANIFEST


def _samples(labels: Labels, named: set[str]) -> Iterator[Sample]:
    rated = _rated(labels, named)
    scores = [labels.numbers(dimension) for dimension in rated]
    texts = [labels.optional_texts(name) for name in METADATA[1:]]
    folder = (labels.root / labels.where).parent
    for image, reference, prompt, generator, group, *values in zip(labels.texts("image"), *texts, *scores, strict=True):
        original = _beside(folder, reference) if reference else None
        yield Sample(
            image=_beside(folder, image),
            reference=original,
            prompt=prompt or None,
            generator=generator or None,
            group=group or (original and below(labels.root, original)) or as_group(prompt) or image,
            scores=with_overall(dict(zip(rated, values, strict=True))),
        )


def _rated(labels: Labels, named: set[str]) -> list[str]:
    """The columns that hold scores, those of the paper first."""
    of_scores = {f"{name}{end}" for name in labels.table.columns for end in OF_SCORES} - named
    others = [name for name in labels.table.columns if name not in METADATA and name not in of_scores]
    known = named | known_dimensions() | {name for name in others if f"{name}_std" in labels.table.columns}
    rated = [name for name in dict.fromkeys((*SCORE_RANGES, *others)) if name in known and name in others]
    if not rated:
        found = shown([repr(name) for name in labels.table.columns])
        expected = f"no column of scores ({', '.join(SCORE_RANGES)}, or another that `dimensions=` names)"
        labels.problems.add(labels.where, f"{expected}; found: {found}")
    left_out = [
        name
        for name in others
        if name and name not in (*rated, "votes") and not any(map(math.isnan, labels.table.numbers(name)))
    ]
    if left_out and rated:
        warnings.warn(
            f"{labels.where}: columns of numbers that are not read as scores: {shown(left_out)}; name those that are: "
            f"`dimensions=[{left_out[0]!r}]`",
            stacklevel=7,
        )
    return rated


def _beside(folder: Path, path: str) -> str:
    """The absolute path of what a manifest names, as the disk spells it."""
    return absolute(folder / path_on_disk(path, str(folder)))


def _is_summed(sample: Sample) -> bool:
    """Whether `overall` is the sum of the others, up to the rounding of a table."""
    total = sum(sample.scores[name] for name in SUMMED)
    return math.isclose(sample.scores["overall"], total, abs_tol=ROUNDING)


def _ranges(samples: tuple[Sample, ...], stated: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float]]:
    columns = {dimension: [sample.scores[dimension] for sample in samples] for dimension in samples[0].scores}
    ranges = {dimension: (min(scores), max(scores)) for dimension, scores in columns.items()}
    given = check_score_ranges(stated) if stated else {}
    for dimension, (low, high) in given.items():
        if dimension not in ranges:
            raise InputError(f"a score range of {dimension!r}, which is not rated; rated: {', '.join(ranges)}")
        if not low <= ranges[dimension][0] <= ranges[dimension][1] <= high:
            least, most = ranges[dimension]
            raise InputError(
                f"the score range of {dimension!r} is {low:g} to {high:g}, but scores are in {least:g} to {most:g}"
            )
    if all(name in given for name in SUMMED) and all(map(_is_summed, samples)):
        ranges["overall"] = (sum(given[name][0] for name in SUMMED), sum(given[name][1] for name in SUMMED))
    return {**ranges, **given}
