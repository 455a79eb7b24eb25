"""What made a table of scores, in `FILE.meta.json` beside it: a run is resumed if it would make the same."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError, SourceError
from aigciqa.registry import Preprocess
from aigciqa.stats.reference_sets import ReferenceSet
from aigciqa.utils import object_stores
from aigciqa.utils.files import write_file

FORMAT = 1
SUFFIX = ".meta.json"
#: What to do about a table that can't be resumed.
WAY_OUT = "Name another output, or start anew: `overwrite=True` in place of `resume=True`"
#: Characters of a value that are shown where it differs: enough of a sha256.
_SHOWN = 60


def path_of(table: str | os.PathLike[str]) -> str:
    """Where it says what made a table."""
    return os.fspath(table).rstrip("/") + SUFFIX


def write(table: str, made_by: Mapping[str, Any]) -> None:
    """Write it beside a table, a path or URL."""
    data = (json.dumps(made_by, indent=2, allow_nan=False) + "\n").encode()
    write_file(path_of(table), data)


def copy(table: str, other: str) -> None:
    """Say beside another table what made a table; where that is not known, nothing says it of the other either."""
    found = None
    with contextlib.suppress(SourceError):
        found = read(table)
    if found is not None:
        write(other, found)
    else:
        forget(other)


def forget(table: str | os.PathLike[str]) -> None:
    """Remove what made a table, a path, that another has replaced."""
    Path(path_of(table)).unlink(missing_ok=True)


def read(table: str) -> dict[str, Any] | None:
    """What made a table, a path or URL; None if nothing says so.

    Raises:
        SourceError: another file has that name.
    """
    path = path_of(table)
    try:
        with object_stores.open_file(path) as stream:
            found = json.loads(stream.read())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise SourceError(f"{path!r} can't be read: {error}. It is to say what made {table!r}: move it away") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise SourceError(
            f"{path!r} is no file of aigciqa, or of a later version: move it away, or name another output"
        )
    return found


@dataclass(frozen=True)
class MetricFacts:
    """What is known of a metric that made scores.

    Attributes:
        score_ranges: dimension -> (lowest, highest) score.
        seen: side of the square in the middle of an image that it sees, as a share of the short side; None: it sees
            all.
        reference_sets: sets of images that it has scored, for percentiles; the first is the one that tables tell.

    Example:
        >>> from aigciqa.tables.provenance import MetricFacts
        >>> MetricFacts({"quality": (1, 7)}, seen=320 / 480).score_ranges["quality"]
        (1, 7)
    """

    score_ranges: Mapping[str, tuple[float, float]]
    seen: float | None = None
    reference_sets: tuple[ReferenceSet, ...] = ()


def declared_ranges(table: str) -> dict[str, tuple[float, float]]:
    """Dimension -> (lowest, highest) score of a table, a path or URL, as far as what made it is known."""
    try:
        declared = (read(table) or {}).get("dimensions")
        return {name: (float(low), float(high)) for name, (low, high) in declared.items()} if declared else {}
    except (SourceError, AttributeError, TypeError, ValueError):  # of another program
        return {}


def metric_facts(table: str) -> dict[str, MetricFacts]:
    """Metric -> what is known of it, of those that made a table, a path or URL; none where nothing says so."""
    ranges = declared_ranges(table)
    try:
        metrics = (read(table) or {})["metrics"]
        return {each["name"]: MetricFacts(ranges, _seen(each), _reference_sets(each)) for each in metrics}
    except (SourceError, InputError, KeyError, TypeError):  # of another program
        return {}


def _seen(metric: Mapping[str, Any]) -> float | None:
    preprocess = metric["preprocess"]
    return Preprocess(preprocess["resize"], preprocess["crop"]).seen


def _reference_sets(metric: Mapping[str, Any]) -> tuple[ReferenceSet, ...]:
    return tuple(map(ReferenceSet.from_dict, metric.get("reference_sets", ())))  # earlier versions wrote none


def check_same(table: str, made_by: Mapping[str, Any]) -> None:
    """Refuse to resume a table that something else made, or of which nothing says what did: a `SourceError`."""
    found = read(table)
    if found is None:
        raise SourceError(
            f"can't resume: {path_of(table)} is missing, which says what made {table} (aigciqa 0.1 did not write it); "
            f"scores of other weights or options might come into one table. {WAY_OUT}"
        )
    there, wanted = _flat(found), _flat(json.loads(json.dumps(made_by)))
    for name in {**wanted, **there}:
        if there.get(name) != wanted.get(name):
            one, other = (_shown(each.get(name)) for each in (there, wanted))
            raise SourceError(f"can't resume: {table} is of another run: {name} was {one}, is {other} now. {WAY_OUT}")


def _flat(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Its values by what an error calls them, such as "weights of nr-lite"."""
    listed = made_by.get("metrics")
    listed = listed if isinstance(listed, list) else []
    metrics = {str(each.get("name")): each for each in listed if isinstance(each, dict)}
    found = {"the metric": list(metrics)}

    def add(value: Any, names: tuple[str, ...]) -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                add(each, (str(key), *names))
        else:
            found[" of ".join(names)] = value

    add(made_by.get("options"), ())
    add({**made_by, "options": None, "metrics": None}, ())
    add(metrics, ())
    return found


def _shown(value: Any) -> str:
    text = "not given" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
