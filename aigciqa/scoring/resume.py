"""Whether the rows of an earlier run are those that this run would write."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aigciqa.errors import SourceError
from aigciqa.tables.columns import Row, scores_of
from aigciqa.tables.parquet import utf8
from aigciqa.tables.provenance import WAY_OUT


def is_same(row: Row, other: Row, columns: Sequence[str]) -> bool:
    """Whether two rows are of one image, with one reference, group and metric, and say the same of it but scores."""
    scored = {*scores_of(columns), "error"}
    return all(name in scored or (utf8(row.get(name)) or None) == (utf8(other.get(name)) or None) for name in columns)


def refuse_changed(table: str, paths: Sequence[str | None], written: float) -> None:
    """Refuse to resume a table if files with its images were changed since it was written.

    Args:
        table: what errors call it.
        paths: of images and references; None and "" are left out.
        written: when the table was last written to, in seconds since 1970.

    Raises:
        SourceError: naming the file.
    """
    for path in paths:
        if path and _changed(path) > written:
            raise SourceError(
                f"can't resume: {path} was changed after {table} was written, so its score may be another by now. "
                f"{WAY_OUT}"
            )


def of_another_run(table: str, difference: str) -> SourceError:
    """The error that says so."""
    return SourceError(f"can't resume: {table} is of another run: {difference}. {WAY_OUT}")


def difference(row: Row, expected: Row | None, columns: Sequence[str]) -> str:
    """What a row has that this run would write otherwise.

    Args:
        row: of the table.
        expected: what stands there by this run; None if nothing does.
        columns: of this run.
    """
    has, wants = f"{row['image']!r} by {row['metric']}", "nothing more"
    if expected is not None:
        wants = f"{expected['image']!r} by {expected['metric']}"
        if wants == has:
            name = next(name for name in columns if not is_same(row, {**row, name: expected.get(name)}, columns))
            has += f" with {name} {row.get(name)!r}"
            wants = f"{name} {expected.get(name)!r}"
    return f"it has {has}, this run {wants}"


def _changed(path: str) -> float:
    """When a file was changed, in seconds since 1970; of an image in another file, that file; 0 if it is no file."""
    try:
        return os.stat(path).st_mtime
    except NotADirectoryError:  # ARCHIVE/MEMBER
        return _changed(os.path.dirname(path))
    except FileNotFoundError:  # FILE.parquet#ROW
        return _changed(path.rpartition("#")[0]) if "#" in path else 0.0
    except (OSError, ValueError):
        return 0.0
