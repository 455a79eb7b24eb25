"""Opinion scores from people's votes: a row per image with intervals, a row per rater, and how far the raters agree."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aigciqa.errors import InputError
from aigciqa.evaluation.question_scores import METHODS, RaterAgreement, score_pairs, score_ratings
from aigciqa.evaluation.votes import CARRIED, QUESTION, Vote, VoteTable, read_votes
from aigciqa.scoring.manifests import beside, path_on_disk
from aigciqa.tables import provenance
from aigciqa.tables.csv_text import csv_lines
from aigciqa.tables.text import TextTable, rounded, with_interval, without_nan, write_text
from aigciqa.utils.paths import counted, is_absolute, relative, shown

PAIRS = "bradley-terry"
#: Decimals in files.
DECIMALS = 6


@dataclass(frozen=True)
class OpinionScores:
    """What people's votes come to.

    Attributes:
        method: how scores were made: one of `METHODS`, or `bradley-terry`.
        questions: what was asked.
        rows: a row per image: `image`; `reference`, `prompt`, `generator`, `group` where the votes say; for each
            question `Q` its score, `Q_std` (standard deviation of a vote: the score's error is about that by the root
            of votes), `Q_low` and `Q_high` (95% interval); `votes` that count, of the question with the fewest.
            NaN where there is no figure.
        raters: a row per question and rater: `votes`, `bias`, `inconsistency`, `correlation` with the means of the
            others, `rejected` (yes or no), and `why`, or what else is odd.
        agreement: of each question.
        notes: what one should know of the scores.
        folder: where relative paths of images count from.

    Example:
        >>> import aigciqa
        >>> cast = {("cat.png", "ann"): 5, ("cat.png", "bob"): 4, ("dog.png", "ann"): 3, ("dog.png", "bob"): 1}
        >>> votes = [{"image": image, "rater": rater, "score": score} for (image, rater), score in cast.items()]
        >>> found = aigciqa.mean_opinion_scores(votes, method="mean")
        >>> found.questions, found.rows[0]["votes"], found.agreement[0].raters
        (('quality',), 2, 2)
    """

    method: str
    questions: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    raters: tuple[Mapping[str, Any], ...]
    agreement: tuple[RaterAgreement, ...]
    notes: tuple[str, ...]
    folder: Path

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write `rows` as CSV: a manifest of the database `folder`, from which its paths are relative."""
        folder = Path(os.path.abspath(path)).parent
        paths = [name for name in ("image", "reference") if name in self.rows[0]]
        _write_csv(
            path, [{**row, **{name: _moved(row[name], self.folder, folder) for name in paths}} for row in self.rows]
        )

    def write_raters(self, path: str | os.PathLike[str]) -> None:
        """Write `raters` as CSV; an `InputError` if the votes do not say whose they are."""
        if not self.raters:
            raise InputError("no table of raters: the votes do not say whose they are")
        _write_csv(path, self.raters)

    def scores(self) -> TextTable:
        """A row per image, with intervals."""
        thing = next(iter(self.rows[0]))
        rows = tuple(
            (
                str(row[thing]),
                *(with_interval(row[each], row[f"{each}_low"], row[f"{each}_high"]) for each in self.questions),
                str(row["votes"]),
            )
            for row in self.rows
        )
        return TextTable("Opinion scores", (thing, *self.questions, "votes"), rows, left=1)

    def summary(self) -> list[TextTable]:
        """The raters' agreement, and the raters who are rejected or odd; only tables that have rows."""
        agreed = tuple(
            (
                each.question, str(each.images), str(each.raters), str(each.votes), rounded(each.icc),
                rounded(each.icc_mean), rounded(each.alpha), rounded(each.split_half),
            )
            for each in self.agreement
        )  # fmt: skip
        header = ("question", "images", "raters", "votes", "ICC", "ICC mean", "Krippendorff", "split-half")
        odd = tuple(
            (row["question"], row["rater"], row["rejected"], row["why"], str(row["votes"]))
            for row in self.raters
            if row["why"]
        )
        tables = (
            TextTable("Agreement of the raters", header, agreed, left=1),
            TextTable("Raters to look at", ("question", "rater", "rejected", "why", "votes"), odd, left=4),
        )
        return [table for table in tables if table.rows]


def mean_opinion_scores(
    votes: str | os.PathLike[str] | Iterable[Mapping[str, Any]] | VoteTable,
    *,
    method: str = "p910",
    scale: tuple[float, float] | None = (1, 5),
    question: str = QUESTION,
    by: str | None = None,
) -> OpinionScores:
    """Opinion scores of images, from votes on them or on pairs of them.

    A rater who voted on an image more than once has one vote there, the mean of them. Pairs become strengths by the
    model of Bradley and Terry with Davidson's ties, in natural logarithms around 0.

    Example:
        >>> import aigciqa
        >>> cast = {("cat.png", "ann"): 5, ("cat.png", "bob"): 4, ("dog.png", "ann"): 3, ("dog.png", "bob"): 1}
        >>> votes = [{"image": image, "rater": rater, "score": score} for (image, rater), score in cast.items()]
        >>> for row in aigciqa.mean_opinion_scores(votes, method="mean").rows:
        ...     print(row["image"], row["quality"])
        cat.png 4.5
        dog.png 2.0

    Args:
        votes: path of a table of votes (`.csv`, `.xlsx`, `.parquet`; long, wide or pairs) or of a study that `aigciqa
            rate` made, or rows as column -> cell. `aigciqa.evaluation.votes.read_votes` has the columns.
        method: `p910` (maximum likelihood of each rater's bias and inconsistency, ITU-T P.910 annex E), `bt500`
            (screened raters), `p913` (biases taken off, then screened), `zscore`, or `mean`.
        scale: lowest and highest vote there is; None for any. A study's votes are on its own scale.
        question: what was asked, where the votes do not say.
        by: of pairs, compare groups instead of images: `parent`, the image's folder, or a regular expression. What was
            compared with each other is a scene, and intervals are by scenes.

    Raises:
        InputError: votes that can't be used, and in which rows; or a method that these raters do not allow.
    """
    if method not in METHODS:
        raise InputError(f"unknown method {method!r}; expected one of {', '.join(METHODS)}")
    table = votes if isinstance(votes, VoteTable) else read_votes(votes, scale=scale, question=question)
    if by is not None and not table.is_pairs:
        raise InputError("by is for votes on pairs: it compares groups by the choices between their images")
    try:
        re.compile(by or "")
    except re.error as error:
        raise InputError(f"`by={by!r}`: expected parent or a regular expression: {error}") from None
    by_question: dict[str, list[Vote]] = {}
    for vote in table.votes:
        by_question.setdefault(vote.question, []).append(vote)
    questions = tuple(by_question)
    others = {"image", "votes", *CARRIED, *(f"{each}_{end}" for each in questions for end in ("std", "low", "high"))}
    if taken := sorted(others & by_question.keys()):
        raise InputError(f"{table.name}: a question can't be called {taken[0]!r}, which is another column: rename it")
    parts = [
        score_pairs(cast, each, by) if table.is_pairs else score_ratings(cast, each, method)
        for each, cast in by_question.items()
    ]
    images = list(dict.fromkeys(image for part in parts for image in part.rows))
    carried = [name for name in CARRIED if any(each.get(name) for each in table.about.values())] if by is None else []
    rows = []
    for image in images:
        row: dict[str, Any] = {"group" if by else "image": image}
        row |= {name: table.about.get(image, {}).get(name, "") for name in carried}
        for each, part in zip(questions, parts, strict=True):
            blank = dict.fromkeys((each, *(f"{each}_{end}" for end in ("std", "low", "high"))), math.nan)
            row |= blank | {name: cell for name, cell in part.rows.get(image, {}).items() if name != "votes"}
        row["votes"] = min(part.rows[image]["votes"] if image in part.rows else 0 for part in parts)
        rows.append(row)
    notes = [note for part in parts for note in part.notes]
    gaps = [image for image in images if any(image not in part.rows for part in parts)]
    if gaps:
        found = f"{counted(gaps, 'image')} without a score for every question"
        notes.append(f"{found}, which train and evaluate refuse: {shown(gaps)}")
    return OpinionScores(
        PAIRS if table.is_pairs else method,
        questions,
        tuple(rows),
        tuple(row for part in parts for row in part.raters),
        tuple(part.agreement for part in parts),
        tuple(notes),
        table.folder,
    )


def _moved(path: str, source: Path, target: Path) -> str:
    """A path that counts from one folder as it counts from another, if there is such a file."""
    found = beside(str(source), path_on_disk(path, str(source)))
    if not path or is_absolute(path) or not os.path.lexists(found):
        return path
    return relative(found, target)


def check_table(path: str | os.PathLike[str]) -> None:
    """Raise InputError for a table of a kind that is not written."""
    if Path(path).suffix.lower() != ".csv":
        raise InputError(f"{os.fspath(path)!r}: the table is CSV: name a file that ends in .csv")


def _write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    check_table(path)
    cells = [
        {name: round(cell, DECIMALS) if isinstance(cell, float) else cell for name, cell in row.items()} for row in rows
    ]
    write_text(path, csv_lines(without_nan(cells), list(rows[0])))
    provenance.forget(path)
