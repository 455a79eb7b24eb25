"""`aigciqa select`: images chosen by their scores, into a folder or as a list."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from aigciqa.cli.common import (
    EXIT_DONE,
    EXIT_ERRORS,
    EXIT_INTERRUPTED,
    check_not_read,
    check_table_output,
    command,
    complain,
    overwrite_option,
    put,
    say,
)
from aigciqa.compare import selection
from aigciqa.compare.buckets import Buckets
from aigciqa.errors import InputError
from aigciqa.tables.scores import read_table
from aigciqa.tables.text import SHOWN_DECIMALS, printable
from aigciqa.utils.object_stores import check_is_path, scheme_of
from aigciqa.utils.paths import counted, shown
from aigciqa.utils.place_files import LASTING

if TYPE_CHECKING:
    from typing import TypeAlias

    from aigciqa.tables.columns import Row
    from aigciqa.tables.scores import ScoreTable
    from aigciqa.utils.place_files import Method, Step

    _Steps: TypeAlias = "Mapping[Step, Sequence[Step]]"  # each image's, and those of its sidecars

#: Of the images that could not be put in place, these many are named.
_SHOWN = 20
_LABELS = {"there": "already there", "different": "another file is there", "gone": "no such file any more"}


def _bounds(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> list[tuple[str, float]]:
    """DIMENSION=SCORE, or SCORE alone, whose dimension is the empty string."""
    bounds = []
    for value in values:
        name, _, number = value.rpartition("=")
        try:
            bounds.append((name, _finite(number)))
        except ValueError:
            raise click.BadParameter(f"{value!r}: expected DIMENSION=SCORE, such as quality=3.5, or SCORE") from None
    return bounds


def _count(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise click.BadParameter(f"{value!r}: expected how many images, such as 100; for a score, there is --min")
    return int(value)


def _buckets(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Buckets | None:
    try:
        return None if value is None else Buckets.parse(value)
    except InputError as error:
        raise click.BadParameter(str(error)) from None


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError
    return number


@command("select")
@click.argument("path", metavar="TABLE")
@click.option("-m", "--metric", metavar="METRIC", help="Whose scores, where the table has several.")
@click.option("--dimension", metavar="D", help="The score that ranks and divides. [default: the table's first]")
@click.option(
    "--min", "minimum", multiple=True, metavar="D=SCORE", callback=_bounds,
    help="Lowest score, such as quality=3.5; may be given more than once.",
)  # fmt: skip
@click.option("--max", "maximum", multiple=True, metavar="D=SCORE", callback=_bounds, help="Highest score, likewise.")
@click.option("--top", callback=_count, metavar="N", help="The N best.")
@click.option("--bottom", callback=_count, metavar="N", help="The N worst.")
@click.option(
    "--per", metavar="COLUMN",
    help="So many of each prompt, seed, model, group, parent (the folder), or value of another column.",
)  # fmt: skip
@click.option(
    "--list", "listed", metavar="FILE.csv", help="Only images of this list, such as a report's gallery exports."
)
@click.option(
    "--buckets", metavar="NAME=LOWEST,...", callback=_buckets,
    help="Divide by score, such as great=4,ok=3 or 2,3,4: a folder for each.",
)  # fmt: skip
@click.option(
    "--to", "folder", metavar="DIR", help="Put the images into a folder, by their paths below their common one."
)
@click.option("--by", type=click.Choice(["copy", "hardlink", "symlink"]), default="copy", help="How, with --to.")
@click.option("--apply", is_flag=True, help="Do it, with --to: without, what would be done is shown.")
@click.option("--scores", is_flag=True, help="Put its score and a tab before each path, as on a terminal.")
@click.option("-o", "--output", metavar="FILE", help="Write the rows and their ranks: .csv, .json, .jsonl or .parquet.")
@overwrite_option
def main(
    path: str,
    metric: str | None,
    dimension: str | None,
    minimum: list[tuple[str, float]],
    maximum: list[tuple[str, float]],
    top: int | None,
    bottom: int | None,
    per: str | None,
    listed: str | None,
    buckets: Buckets | None,
    folder: str | None,
    by: Method,
    apply: bool,
    scores: bool,
    output: str | None,
    overwrite: bool,
) -> None:
    """Select images by their scores. TABLE is what aigciqa score -o wrote.

    The paths of the images go to standard output, a line each, or with --to the images into a folder: what would be
    done is shown first, and done with --apply. No image is overwritten or deleted; run again, it goes on.

    Exit status: 0 done, 1 some images are gone or can't be put in place, 2 usage error.
    """
    if top is not None and bottom is not None:
        raise click.UsageError("--top and --bottom: give one of them")
    if per is not None and top is None and bottom is None and output is None:
        raise click.UsageError("--per says of what --top or --bottom takes so many, and within what -o ranks")
    if apply and folder is None:
        raise click.UsageError("--apply puts images into a folder: name it with --to")
    check_table_output("-o", output, [path, listed])
    if folder is not None:
        check_is_path(folder)
        if os.path.lexists(folder) and not os.path.isdir(folder):
            raise click.UsageError(f"--to {folder} is no folder")
    check_not_read("--to", folder, [path])  # a table may be a folder of parts
    named = [name for name in (dimension, *dict(minimum), *dict(maximum)) if name]
    table = read_table(path, named)
    rows = selection.rows_by(table, metric)
    if folder is not None and any(scheme_of(row["image"]) for row in rows):
        raise click.UsageError(f"{path} has images in an object store: leave --to out for a list of them")
    dimension = dimension or selection.first_scored(table, rows)
    lowest, highest = _by_dimension("--min", minimum, dimension), _by_dimension("--max", maximum, dimension)
    for name in (dimension, *lowest, *highest):
        if name not in table.dimensions:
            raise click.UsageError(f"{path} has no scores of {name!r}; it has {', '.join(table.dimensions)}")
    images = selection.read_list(listed, table) if listed is not None else None
    if per is not None:
        rows = selection.with_column(rows, table, per)
    criteria = selection.Criteria(dimension, lowest, highest, top or bottom, bottom is None, per, images)
    chosen = selection.select(rows, criteria)
    _say_what(chosen, criteria, buckets, listed)
    if output is not None:
        try:
            _write(output, table, chosen, criteria, buckets)
        except InputError:
            raise
        except OSError as error:
            raise click.ClickException(f"can't write -o {output}: {error.strerror or error}") from None
    missing = EXIT_ERRORS if chosen.missing else EXIT_DONE
    if folder is None:
        if output is None:
            _print_paths(chosen.rows, dimension, buckets, scores or sys.stdout.isatty())
        sys.exit(missing)
    steps = selection.steps_into(folder, rows, chosen.rows, dimension, buckets)
    if sidecars := sum(map(len, steps.values())):
        say(f"{counted(sidecars, 'sidecar')} beside them")
    try:
        found = [row[dimension] for row in chosen.rows]
        sys.exit((_place(steps, by) if apply else _show(steps, found, by)) or missing)
    except KeyboardInterrupt:
        complain("interrupted; what is done stays done, and the same command goes on")
        sys.exit(EXIT_INTERRUPTED)


def _by_dimension(option: str, bounds: Iterable[tuple[str, float]], dimension: str) -> dict[str, float]:
    """Bounds by dimension; those that name none are of `dimension`."""
    found: dict[str, float] = {}
    for name, score in bounds:
        if (name or dimension) in found:
            raise click.UsageError(f"{option} is given twice for {name or dimension}")
        found[name or dimension] = score
    return found


def _say_what(
    chosen: selection.Selection, criteria: selection.Criteria, buckets: Buckets | None, listed: str | None
) -> None:
    per, keep = criteria.per, criteria.keep
    found = len({row[per] for row in chosen.rows}) if per is not None else 1
    how = "ranked" if keep is None else f"the {'best' if criteria.best else 'worst'} {keep}"
    of_each = f" for each {per} ({found} of them)" if per is not None else ""
    ranked = f": {how}{of_each}" if keep is not None or per is not None else ""
    say(f"{len(chosen.rows)} of {counted(chosen.offered, 'image')} selected{ranked}")
    if per is not None and found < chosen.values:
        say(f"no image selected: {chosen.values - found} of {chosen.values} different values of {per}")
    if buckets is not None:
        held = Counter(buckets.of(row[criteria.dimension]) for row in chosen.rows)
        say(", ".join(f"{name} {held[name]}" for name in reversed(buckets.names)))
    if chosen.unscored:
        say(f"left out, without such a score: {counted(chosen.unscored, 'image')}")
    if chosen.unvalued:
        say(f"left out, without a known {per}: {counted(chosen.unvalued, 'image')}")
    if chosen.repeated:
        say(f"of an image that is repeated, the first row counts: {counted(chosen.repeated, 'row')} left out")
    if chosen.missing:
        say(f"not in the table: {counted(chosen.missing, 'image')} of {listed}")


def _write(
    output: str,
    table: ScoreTable,
    chosen: selection.Selection,
    criteria: selection.Criteria,
    buckets: Buckets | None,
) -> None:
    """Write the rows with what was found of them: their value if the table lacks it, their rank, their bucket."""
    added = [] if criteria.per in (None, *table.columns) else [str(criteria.per)]
    added += [selection.RANK, *([selection.BUCKET] if buckets is not None else [])]
    if replaced := [name for name in added if name in table.others]:
        say(f"{output} has a {' and a '.join(replaced)} of its own, in place of those in {table.path}")
    rows = [
        {**row, selection.RANK: str(rank)}
        | ({selection.BUCKET: buckets.of(row[criteria.dimension])} if buckets is not None else {})
        for row, rank in zip(chosen.rows, chosen.ranks, strict=True)
    ]
    selection.write_selection(output, table, rows, added)


def _print_paths(rows: Sequence[Row], dimension: str, buckets: Buckets | None, with_scores: bool) -> None:
    """A path a line, after its bucket if there are buckets, and its score if it is asked for, each with a tab."""
    for row in rows:
        before = f"{buckets.of(row[dimension])}\t" if buckets is not None else ""
        before += f"{row[dimension]:.{SHOWN_DECIMALS}f}\t" if with_scores else ""
        image = printable(row["image"]) if sys.stdout.isatty() else row["image"]
        put(f"{before}{image}")


def _in_order(steps: _Steps, refused: Container[Step]) -> Iterator[Step]:
    """Each image's step, then its sidecars' unless it is `refused` by then: they would lie beside another image."""
    for step, sidecars in steps.items():
        yield step
        if step not in refused:
            yield from sidecars


def _show(steps: _Steps, scores: Iterable[float], by: str) -> int:
    """Say what would be done, after each image's score; returns the exit status."""
    states: Counter[str] = Counter()
    before = {step: f"{score:.{SHOWN_DECIMALS}f} " for step, score in zip(steps, scores, strict=True)}
    refused: set[Step] = set()
    there: list[str] = []
    for step in _in_order(steps, refused):
        try:
            state: str = step.state()
            what = {"new": by, **_LABELS}[state]
        except OSError as error:
            state, what = "failed", str(error.strerror)
        states[state] += 1
        if state == "there":
            there.append(printable(step.target))
            continue
        if state != "new":
            refused.add(step)
        put(printable(f"{before.get(step, '')}{what}: {step.source} -> {step.target}"))
    if there:
        put(f"{_LABELS['there']}: {counted(there, 'file')}: {shown(there)}")
    say(_summary(states, "to do"))
    if states["new"]:
        say("nothing is done yet: add --apply")
    return EXIT_ERRORS if refused else EXIT_DONE


def _place(steps: _Steps, by: Method) -> int:
    """Put files in their places; returns the exit status."""
    from tqdm import tqdm

    states: Counter[str] = Counter()
    refused: set[Step] = set()
    problems: list[str] = []
    total = len(steps) + sum(map(len, steps.values()))
    for step in tqdm(_in_order(steps, refused), total=total, unit="file", disable=None, leave=False):
        try:
            state = step.state()
            if state == "new":
                step.place(by)
            elif state != "there":
                refused.add(step)
                problems.append(f"{_LABELS[state]}: {step.source if state == 'gone' else step.target}")
            states[state] += 1
        except OSError as error:
            refused.add(step)
            problems.append(f"{error.strerror}: {step.source} -> {step.target}")
            states["failed"] += 1
            if error.errno in LASTING:
                problems.append(_remedy(error, by))
                break
    for problem in problems[:_SHOWN]:
        complain(problem)
    if len(problems) > _SHOWN:
        complain(f"and {len(problems) - _SHOWN} more")
    states["not tried"] = total - states.total()
    say(_summary(states, "done"))
    return EXIT_ERRORS if problems else EXIT_DONE


def _summary(states: Mapping[str, int], what: str) -> str:
    """The counts of a run, such as "3 done, 1 already there"."""
    named = {"new": what, **_LABELS, "failed": "failed", "not tried": "not tried"}
    return ", ".join(f"{states[state]} {name}" for state, name in named.items() if states[state]) or f"0 {what}"


def _remedy(error: OSError, by: Method) -> str:
    """What to do about an error that every file would meet."""
    if error.errno == errno.ENOSPC:
        return "the disk is full: make room, and run the same command again; it goes on"
    if by == "hardlink":
        return "no hard link can be made there: use --by copy or --by symlink"
    return "the other files would meet the same: use another --to or --by"
