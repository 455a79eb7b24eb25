"""What the page's script reads: the gallery with its scores and maps."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from aigciqa.images.colour_maps import levels_below, palette
from aigciqa.report.collection import PEOPLE, Collection, Column, SmallMap
from aigciqa.report.prompts import clipped, distinct_names
from aigciqa.report.sections import Members
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.tables.text import without_nan
from aigciqa.utils import object_stores

#: Images in the gallery. With more, a third are the lowest of the first column, a third the highest, and a third are
#: drawn at random from all, prompt by prompt.
GALLERY_LIMIT = 10_000
#: Groups that charts show in a colour of their own: the largest. The others share one.
COLOURED_LIMIT = 7
_SEED = 0


@dataclass(frozen=True)
class Gallery:
    """The images that are shown."""

    indices: list[int]  # of the images, ascending
    sample: list[int]  # positions in `indices` of those drawn at random; all if nothing was left out
    references: list[str]  # distinct


def select_gallery(collection: Collection, columns: Sequence[Column], matches: Sequence[str | None]) -> Gallery:
    """All images, or of very many a part."""
    count = len(collection.images)
    if count <= GALLERY_LIMIT or not columns:
        indices, drawn = list(range(count)), list(range(count))
    else:
        third = GALLERY_LIMIT // 3
        drawn = _draw(matches, third)
        ordered = np.argsort(columns[0].values)  # NaN comes last
        ordered = ordered[: np.count_nonzero(np.isfinite(columns[0].values))]
        indices = sorted({*drawn, *ordered[:third].tolist(), *ordered[-third:].tolist()})
    sample = np.flatnonzero(np.isin(indices, drawn)).tolist()
    references = dict.fromkeys(collection.images[index].reference for index in indices)
    return Gallery(indices, sample, [each for each in references if each is not None])


def _draw(matches: Sequence[str | None], limit: int) -> list[int]:
    """Indices of images drawn at random, those that share a match together: all of them, unless they are too many."""
    together: dict[str | int, list[int]] = {}
    for index, match in enumerate(matches):
        together.setdefault(index if match is None else match, []).append(index)
    drawn: list[int] = []
    sets = list(together.values())
    for number in np.random.default_rng(_SEED).permutation(len(sets)):
        if not drawn or len(drawn) + len(sets[number]) <= limit:
            drawn += sets[number][:limit]
    return drawn


def payload(
    collection: Collection, columns: Sequence[Column], members: Members, gallery: Gallery, folder: Path
) -> dict[str, Any]:
    """The data of the page's script; its links are relative to the page's folder."""
    images = [collection.images[index] for index in gallery.indices]
    groups = list(dict.fromkeys(image.group for image in images))
    largest = sorted(members, key=lambda group: -len(members[group]))[:COLOURED_LIMIT]
    coloured = [group for group in members if group in largest]
    group_index = {group: index for index, group in enumerate(groups)}
    texts = {text: index for index, text in enumerate(dict.fromkeys(image.text for image in images if image.text))}
    reference_index = {reference: index for index, reference in enumerate(gallery.references)}
    return {
        "columns": [
            {
                "label": column.label,
                "metric": column.metric,
                "isPeople": column.metric == PEOPLE,
                "dimension": column.dimension,
                "values": without_nan(column.values[gallery.indices].tolist()),
                "means": [_mean(column, members.get(group)) for group in groups],
                "std": _known(column.deviations[gallery.indices]),
                "percentiles": _percentiles(column, gallery, collection.facts_of(column.metric).reference_sets),
            }
            for column in columns
        ],
        "groups": groups,
        "coloured": coloured,
        "images": [image.path for image in images],
        "names": distinct_names([image.path for image in images]),
        "prompts": [clipped(text) for text in texts],
        "prompt": [None if image.text is None else texts[image.text] for image in images],
        "seeds": [image.seed for image in images],
        "models": [image.model for image in images],
        "links": [_link(image.path, folder) for image in images],
        "group": [group_index[image.group] for image in images],
        "reference": [None if image.reference is None else reference_index[image.reference] for image in images],
        "references": gallery.references,
        "referenceLinks": [_link(reference, folder) for reference in gallery.references],
        "sample": gallery.sample,
        "maps": _maps(collection, columns, gallery),
        "palette": base64.b64encode(palette().tobytes()).decode(),
    }


def _mean(column: Column, indices: NDArray[np.intp] | None) -> float | None:
    """Of a group's images; None without scores, and of a group that is not listed."""
    values = column.values[indices] if indices is not None else np.empty(0)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else None


def _known(values: NDArray[np.float64]) -> list[float | None] | None:
    """Numbers with gaps; None if there is none."""
    return without_nan(values.tolist()) if np.isfinite(values).any() else None


def _percentiles(column: Column, gallery: Gallery, known: Sequence[ReferenceSet]) -> list[dict[str, Any]]:
    """Where the gallery's scores stand in each reference set: whole percentages, null where there is no score.

    0 and 100 are below all of the set and above all of it.
    """
    scores = column.values[gallery.indices]
    found = {
        each.label: each.percentiles(column.dimension, scores) for each in known if column.dimension in each.quantiles
    }
    return [
        {"of": label, "values": without_nan(np.where(each % 100 == 0, each, each.round().clip(1, 99)).tolist())}
        for label, each in found.items()
    ]


def _link(path: str, folder: Path) -> str | None:
    """URL of a file, relative to the page where it can be; None where it is not on this machine, or no file's name."""
    if object_stores.scheme_of(path):
        return None
    try:
        return quote(os.fsencode(os.path.relpath(path, folder)).replace(os.fsencode(os.sep), b"/"))
    except UnicodeEncodeError:
        return None
    except ValueError:  # on another drive, or another machine's share, which a stranger's table may name
        address = Path(path).absolute().as_uri()
        return address if address.startswith("file:///") else None


def _maps(collection: Collection, columns: Sequence[Column], gallery: Gallery) -> dict[str, Any]:
    """Metric -> its maps and their scale, and the part of an image that they cover."""
    main = _mapped(collection, columns)
    positions = {index: position for position, index in enumerate(gallery.indices)}
    found: dict[str, dict[int, SmallMap]] = {}
    for (index, metric), small in collection.maps.items():
        if index in positions and metric in main and np.isfinite(main[metric].values[index]):
            found.setdefault(metric, {})[index] = small
    return {metric: _drawn(collection, main[metric], positions, maps) for metric, maps in found.items()}


def _mapped(collection: Collection, columns: Sequence[Column]) -> dict[str, Column]:
    """Metric -> the column that its maps are of: its first dimension's; where that is unknown, its first."""
    found: dict[str, Column] = {}
    for metric in dict.fromkeys(column.metric for column in columns):
        own = {column.dimension: column for column in columns if column.metric == metric}
        ranges = collection.facts_of(metric).score_ranges
        found[metric] = next(own[name] for name in (*ranges, *own) if name in own)
    return found


def _drawn(
    collection: Collection, column: Column, positions: Mapping[int, int], maps: Mapping[int, SmallMap]
) -> dict[str, Any]:
    """Maps of one metric by position, as levels of the palette; without a known scale, what they span is the scale."""
    facts = collection.facts_of(column.metric)
    spanned = (min(each.low for each in maps.values()), max(each.high for each in maps.values()) + 1e-6)
    low, high = facts.score_ranges.get(column.dimension, spanned)
    levels = {
        index: levels_below(small.scores(), column.values[index], low, high).tobytes() for index, small in maps.items()
    }
    return {
        "low": low,
        "high": high,
        "crop": facts.seen,
        "shapes": {positions[index]: small.shape for index, small in maps.items()},
        "levels": {positions[index]: base64.b64encode(each).decode() for index, each in levels.items()},
        "scores": {positions[index]: float(column.values[index]) for index in maps},
    }
