"""Votes read: in long form, in a spreadsheet with a column per rater, as pairs, from the file of a study.

All that is wrong with a table is collected first and raised in one error that names the rows.
"""

from __future__ import annotations

import difflib
import math
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigciqa.databases.folder import METADATA
from aigciqa.errors import InputError
from aigciqa.tables.column_table import ColumnTable, TableError, read_columns, unblank
from aigciqa.tables.csv_text import encoding_of
from aigciqa.utils.paths import counted, relative, shown

if TYPE_CHECKING:
    from aigciqa.evaluation import study

#: What an image's row says besides; it is carried into the table of opinion scores.
CARRIED = METADATA[1:]
#: The files of `aigciqa rate`.
STUDY_SUFFIXES = (".db", ".sqlite", ".sqlite3")
SUFFIXES = (".csv", ".xlsx", ".parquet", *STUDY_SUFFIXES)
QUESTION = "quality"
#: What `choice` may say -> the share of the choice that is the left one's.
CHOICES = {"left": 1.0, "right": 0.0, "same": 0.5, "tie": 0.5}
#: Of `kind`, in a study's votes: training, gold and repeated images are not scored.
_RATED = "rated"
_LONG = ("image", "rater", "score")
_OPTIONAL = ("question", "kind", "seconds", "at", *CARRIED)
#: Columns by which spreadsheets sum up what the raters said.
_SUMS = ("mos", "mean", "average", "avg", "median", "std", "stdev", "var", "variance", "count", "sum")  # no initials
#: How near a column's name is to a known one that it is taken for a slip.
_SLIP = 0.8


@dataclass(frozen=True)
class Vote:
    """A vote on an image, or on a pair of them.

    Attributes:
        image: its path.
        rater: who voted; empty if that is not known.
        question: what was asked.
        score: the vote; of a pair 1 where `image` is the better, 0 where `other` is, 0.5 for the same.
        other: the image beside it, in a pair.
        count: how many such votes there are.

    Example:
        >>> from aigciqa.evaluation.votes import Vote
        >>> Vote("cat.png", "ann", "quality", 4.0).count
        1
    """

    image: str
    rater: str
    question: str
    score: float
    other: str | None = None
    count: float = 1


@dataclass(frozen=True)
class VoteTable:
    """The votes of one source, in its order.

    Attributes:
        votes: all of them; of pairs, or of single images.
        about: image -> what else is said of it: its `reference`, `prompt`, `generator` and `group`.
        folder: where relative paths of images count from.
        name: of the source.

    Example:
        >>> from aigciqa.evaluation.votes import read_votes
        >>> table = read_votes([{"image": "cat.png", "rater": "ann", "score": 4}])
        >>> len(table.votes), table.is_pairs
        (1, False)
    """

    votes: tuple[Vote, ...]
    about: Mapping[str, Mapping[str, str]]
    folder: Path
    name: str

    @property
    def is_pairs(self) -> bool:
        """Whether images were compared, not rated."""
        return self.votes[0].other is not None


@dataclass
class _Reading:
    """What is read of a table, and what is wrong with it."""

    name: str
    table: ColumnTable
    votes: list[Vote] = field(default_factory=list)
    about: dict[str, dict[str, str]] = field(default_factory=dict)
    problems: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def row(self, index: int) -> str:
        return f"row {index + self.table.first}"

    def texts(self, name: str, default: str = "") -> list[str]:
        """A column of text, or the default if there is none."""
        return self.table.texts(name) if name in self.table.columns else [default] * len(self.table.rows)

    def required(self, name: str) -> list[str]:
        """A column of text whose empty cells are noted."""
        texts = self.table.texts(name)
        self.problems[f"empty {name!r}"] += [self.row(index) for index, text in enumerate(texts) if not text]
        return texts

    def number(self, index: int, column: str, cell: Any, number: float, scale: tuple[float, float] | None) -> float:
        """A vote; one that is no number or off the scale is noted."""
        where = self.row(index) if column in ("score", "votes") else f"{self.row(index)}, {column}"
        if math.isnan(number):
            said = "empty" if cell is None else repr(cell)
            self.problems["vote without a number"].append(f"{where} is {said}")
        elif scale is not None and not scale[0] <= number <= scale[1]:
            low, high = scale
            self.problems[f"vote off the scale {low:g} to {high:g}"].append(f"{where} is {number:g}")
        return number

    def carry(self, images: Sequence[str]) -> None:
        """Note what the table says of images besides; two different things of one image are a problem."""
        for name in CARRIED:
            for index, (image, text) in enumerate(zip(images, self.texts(name), strict=True)):
                known = self.about.setdefault(image, {}).setdefault(name, text)
                if known != text:
                    self.problems[f"{name!r} unlike in another row of the image"].append(self.row(index))


def read_votes(
    source: str | os.PathLike[str] | Iterable[Mapping[str, Any]],
    *,
    scale: tuple[float, float] | None = (1, 5),
    question: str = QUESTION,
) -> VoteTable:
    """Votes of any kind.

    A table is `.csv` as spreadsheets and programs write it (UTF-8, UTF-16 or Windows' code page; commas, semicolons or
    tabs), `.xlsx` or `.parquet`, with one of these sets of columns:

    - `image`, `rater`, `score`: a row for each vote, with `question` where several were asked;
    - `image` and a column of numbers per rater, whose empty cells are images that the rater did not see;
    - `left`, `right`, `choice` (left, right or same), or `winner`, `loser`, and `votes` for how many chose so;
      optionally `rater` and `question`;
    - those that `aigciqa rate` exports.

    An image's `reference`, `prompt`, `generator` and `group` are carried along; other columns of a long form are left
    out with a warning.

    Args:
        source: path of a table or a study; or rows, as column -> cell.
        scale: lowest and highest vote; None for any. A study's votes are on its own scale.
        question: what was asked, where the table does not say.

    Raises:
        InputError: with everything that is wrong, and in which rows.
    """
    if scale is not None and not scale[0] < scale[1]:
        raise InputError(f"a scale goes from its lowest vote to its highest; got {scale[0]:g} to {scale[1]:g}")
    if not isinstance(source, (str, os.PathLike)):
        rows = list(source)
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        table = ColumnTable(columns, tuple(tuple(unblank(row.get(name)) for name in columns) for row in rows), first=1)
        return _of_table(table, Path(), "votes", scale, question)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"{str(path)!r}: votes are in a file that ends in one of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{str(path)!r}: no such file")
    if suffix in STUDY_SUFFIXES:
        from aigciqa.evaluation import study

        return _of_study(study.read_votes(path), study.votes.places(path), path)
    try:
        table = read_columns(path, [_column_of_csv(path)] if suffix == ".csv" else [])
    except TableError as error:
        raise InputError(f"{path}: {error}") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    return _of_table(table, path.parent, str(path), scale, question)


def _of_study(votes: Iterable[study.Vote], places: Mapping[str, str], path: Path) -> VoteTable:
    """The votes of a study that count; paths count from it, wherever it was made."""
    rated = sorted((vote for vote in votes if vote.kind == _RATED), key=lambda vote: vote.image)
    if not rated:
        raise InputError(f"{path}: no votes yet")
    names = {name: relative(found, path.parent) for name, found in places.items() if os.path.lexists(found)}

    def place(name: str) -> str:
        return names.get(name, name)

    rated = [
        each._replace(
            image=place(each.image),
            other=each.other and place(each.other),
            reference=each.reference and place(each.reference),
        )
        for each in rated
    ]
    about = {vote.image: {name: getattr(vote, name) or "" for name in CARRIED} for vote in rated}
    found = [Vote(each.image, each.rater, each.question, each.score, each.other) for each in rated]
    _share(about, found)
    return VoteTable(tuple(found), about, path.parent, str(path))


def _share(about: dict[str, dict[str, str]], pairs: Iterable[Vote]) -> None:
    """Say of the other image of a pair what is said of both: its prompts and its group, not its generator."""
    for vote in pairs:
        if vote.other is not None:
            both = {name: text for name, text in about[vote.image].items() if name != "generator"}
            about.setdefault(vote.other, both)


def _column_of_csv(path: Path) -> str:
    """The column by which the header of a CSV shows what stands between its cells."""
    with open(path, encoding=encoding_of(path), errors="replace") as stream:
        names = {name.strip().strip('"').strip() for name in re.split(r"[,;\t]", stream.readline())}
    return next((name for name in ("image", "left", "winner") if name in names), "image")


def _of_table(
    table: ColumnTable, folder: Path, name: str, scale: tuple[float, float] | None, question: str
) -> VoteTable:
    reading = _Reading(name, table)
    columns = set(table.columns)
    if {"winner", "loser"} <= columns or {"left", "right"} <= columns:
        _read_pairs(reading, question)
    elif "image" in columns and "other" in columns:
        _read_exported_pairs(reading, question)
    elif "image" in columns and columns & {"rater", "score"}:
        _read_long(reading, scale, question)
    elif "image" in columns:
        _read_wide(reading, scale, question)
    else:
        found = ", ".join(map(repr, filter(None, table.columns))) or "none"
        raise InputError(
            f"{name}: expected the columns image, rater, score; image and one per rater; left, right, choice; or "
            f"winner, loser; found: {found}"
        )
    problems = {what: rows for what, rows in reading.problems.items() if rows}
    if problems:
        lines = (f"- {what}: {counted(rows, 'cell')}: {shown(rows)}" for what, rows in problems.items())
        hint = ""
        if any("off the scale" in what for what in problems):
            hint = "\nIf votes were on another scale, say so, such as `scale=(0, 100)`."
        raise InputError("\n".join([f"{name} can't be used:", *lines]) + hint)
    if not reading.votes:
        raise InputError(f"{name}: no votes")
    return VoteTable(tuple(reading.votes), reading.about, folder, name)


def _read_long(reading: _Reading, scale: tuple[float, float] | None, question: str) -> None:
    table = reading.table
    _check_columns(reading, _LONG, (*_LONG, *_OPTIONAL))
    images, raters = reading.required("image"), reading.required("rater")
    questions = reading.required("question") if "question" in table.columns else reading.texts("question", question)
    kinds = reading.texts("kind", _RATED)
    cells = zip(table.column("score"), table.numbers("score"), strict=True)
    for index, (cell, number) in enumerate(cells):
        if kinds[index] == _RATED:
            score = reading.number(index, "score", cell, number, scale)
            reading.votes.append(Vote(images[index], raters[index], questions[index], score))
    reading.carry(images)


def _read_wide(reading: _Reading, scale: tuple[float, float] | None, question: str) -> None:
    table = reading.table
    images = reading.required("image")
    questions = reading.texts("question", question)
    raters = [name for name in table.columns if name and name not in ("image", "question", *CARRIED)]
    if not raters:
        raise InputError(
            f"{reading.name}: no column of a rater: expected image, rater, score, or image and a column for each rater"
        )
    for rater in raters:
        cells, numbers = table.column(rater), table.numbers(rater)
        if rater.lower() in _SUMS:
            reading.problems["column that sums up raters: leave it out"].append(repr(rater))
            continue
        if not any(map(math.isfinite, numbers)) and any(cell is not None for cell in cells):
            reading.problems["column that is no rater's: it holds no number"].append(repr(rater))
            continue
        for index, (cell, number) in enumerate(zip(cells, numbers, strict=True)):
            if cell is not None:
                score = reading.number(index, rater, cell, number, scale)
                reading.votes.append(Vote(images[index], rater, questions[index], score))
    voted = {vote.image for vote in reading.votes}
    unseen = [f"{reading.row(index)}: {image}" for index, image in enumerate(images) if image and image not in voted]
    reading.problems["image without a vote"] += unseen
    reading.carry(images)


def _read_pairs(reading: _Reading, question: str) -> None:
    table = reading.table
    chosen = "winner" not in table.columns
    pair = ("left", "right", "choice") if chosen else ("winner", "loser")
    _check_columns(reading, pair, (*pair, "votes", "rater", "question", "kind", "seconds", "at"))
    first, second = reading.required(pair[0]), reading.required(pair[1])
    raters, questions, kinds = (
        reading.texts("rater"),
        reading.texts("question", question),
        reading.texts("kind", _RATED),
    )
    shares = [CHOICES.get(text.lower(), math.nan) for text in table.texts("choice")] if chosen else [1.0] * len(first)
    counts = table.numbers("votes") if "votes" in table.columns else [1.0] * len(first)
    for index, (share, count) in enumerate(zip(shares, counts, strict=True)):
        if kinds[index] != _RATED:
            continue
        if math.isnan(share):
            reading.problems[f"choice that is none of {', '.join(CHOICES)}"].append(reading.row(index))
        if not count >= 0:
            reading.problems["number of votes that is none"].append(reading.row(index))
        if first[index] and first[index] == second[index]:
            reading.problems["image beside itself"].append(reading.row(index))
        if count != 0:
            reading.votes.append(
                Vote(first[index], raters[index], questions[index], share, other=second[index], count=count)
            )


def _read_exported_pairs(reading: _Reading, question: str) -> None:
    columns = ("image", "other", "rater", "score")
    table = reading.table
    _check_columns(reading, columns, (*columns, *_OPTIONAL))
    images, others, raters = (reading.required(name) for name in columns[:3])
    questions, kinds = reading.texts("question", question), reading.texts("kind", _RATED)
    for index, (cell, number) in enumerate(zip(table.column("score"), table.numbers("score"), strict=True)):
        if kinds[index] == _RATED:
            if images[index] and images[index] == others[index]:
                reading.problems["image beside itself"].append(reading.row(index))
            score = reading.number(index, "score", cell, number, (0, 1))
            if 0 < score < 1 and score != CHOICES["same"]:
                reading.problems["score of a pair that is none of 0, 0.5, 1"].append(
                    f"{reading.row(index)} is {score:g}"
                )
            reading.votes.append(Vote(images[index], raters[index], questions[index], score, other=others[index]))
    reading.carry(images)
    _share(reading.about, reading.votes)


def _check_columns(reading: _Reading, needed: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a table without a column; of the unknown ones, refuse a slip and warn of the others."""
    columns = reading.table.columns
    unknown = [name for name in columns if name and name not in known]
    for name in unknown:
        near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=_SLIP)
        if near and near[0] not in columns:
            raise InputError(f"{reading.name}: unknown column {name!r}: is it {near[0]!r}? Rename it, or leave it out")
    missing = [name for name in needed if name not in columns]
    if missing:
        found = ", ".join(map(repr, filter(None, columns)))
        raise InputError(f"{reading.name}: no column {', '.join(map(repr, missing))}; found: {found}")
    if unknown:
        left_out = shown([repr(name) for name in unknown])
        warnings.warn(f"{reading.name}: columns that are not read: {left_out}", stacklevel=5)
