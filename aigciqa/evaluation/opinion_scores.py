"""Opinion scores from people's votes: a row per image with intervals, a row per rater, and how far the raters agree."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.evaluation.votes import CARRIED, QUESTION, Vote, VoteTable, read_votes
from aigciqa.records import Item
from aigciqa.scoring.manifests import beside, path_on_disk
from aigciqa.scoring.sources import group_by
from aigciqa.stats.opinion import agreement, bradley_terry, classical
from aigciqa.stats.opinion.p910 import p910
from aigciqa.stats.opinion.votes import MIN_ONE_VALUE, Opinion, Votes, one_value
from aigciqa.tables.csv_text import csv_lines
from aigciqa.tables.text import TextTable, rounded, with_interval, without_nan, write_text
from aigciqa.utils.object_stores import is_url
from aigciqa.utils.paths import counted, shown

#: What `method` may be; pairs always go to the model of Bradley and Terry.
METHODS: Mapping[str, Callable[[Votes], Opinion]] = MappingProxyType(
    {"p910": p910, "bt500": classical.bt500, "p913": classical.p913, "zscore": classical.zscore, "mean": classical.mean}
)
PAIRS = "bradley-terry"
#: Decimals in files.
DECIMALS = 6
#: A rater of whose votes such a share is one value is named, though not rejected.
_MOSTLY = 0.8
#: Standard errors of a correlation below 0 from which a rater is named as voting against the others.
_AGAINST = 2.0


@dataclass(frozen=True)
class RaterAgreement:
    """How far the raters agree on a question, by the votes that count, as they were cast. NaN: it can't be told.

    Attributes:
        question: what was asked.
        images: that were voted on.
        raters: whose votes count.
        votes: that count.
        icc: intraclass correlation of one vote, for absolute agreement; ICC(2,1).
        icc_mean: the same of the mean of an image's votes; ICC(2,k).
        alpha: Krippendorff's, for intervals.
        split_half: correlation of the means of two random halves of the raters, the mean of 100 splits.
    """

    question: str
    images: int
    raters: int
    votes: int
    icc: float
    icc_mean: float
    alpha: float
    split_half: float


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
        moved = (
            {name: _moved(cell, self.folder, folder) if name in ("image", "reference") else cell for name, cell in row}
            for row in map(dict.items, map(dict, self.rows))
        )
        _write_csv(path, list(moved))

    def write_raters(self, path: str | os.PathLike[str]) -> None:
        """Write `raters` as CSV."""
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
        header = (
            "question",
            "images",
            "raters",
            "votes",
            "ICC",
            "ICC of the mean",
            "Krippendorff's alpha",
            "split-half",
        )
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
    questions = tuple(dict.fromkeys(vote.question for vote in table.votes))
    parts = [
        (_of_pairs if table.is_pairs else _of_ratings)(
            [vote for vote in table.votes if vote.question == each], each, method, by
        )
        for each in questions
    ]
    images = list(dict.fromkeys(image for part in parts for image in part.rows))
    carried = [name for name in CARRIED if any(each.get(name) for each in table.about.values())] if by is None else []
    rows = []
    for image in images:
        row: dict[str, Any] = {"group" if by else "image": image}
        row |= {name: table.about[image].get(name, "") for name in carried}
        for each, part in zip(questions, parts, strict=True):
            blank = dict.fromkeys((each, *(f"{each}_{end}" for end in ("std", "low", "high"))), math.nan)
            row |= blank | {name: cell for name, cell in part.rows.get(image, {}).items() if name != "votes"}
        row["votes"] = min(part.rows[image]["votes"] if image in part.rows else 0 for part in parts)
        rows.append(row)
    notes = [note for part in parts for note in part.notes]
    gaps = [image for image in images if any(image not in part.rows for part in parts)]
    if gaps:
        notes.append(f"{counted(gaps, 'image')} without a score for every question: {shown(gaps)}")
    return OpinionScores(
        PAIRS if table.is_pairs else method,
        questions,
        tuple(rows),
        tuple(row for part in parts for row in part.raters),
        tuple(part.agreement for part in parts),
        tuple(notes),
        table.folder,
    )


@dataclass(frozen=True)
class _Part:
    """The scores of one question: image -> cells of its row, and so on as in `OpinionScores`."""

    rows: Mapping[str, Mapping[str, Any]]
    raters: Sequence[Mapping[str, Any]]
    agreement: RaterAgreement
    notes: Sequence[str]


def _of_ratings(cast: Sequence[Vote], question: str, method: str, _by: str | None) -> _Part:
    images, image = _numbered(vote.image for vote in cast)
    raters, rater = _numbered(vote.rater for vote in cast)
    votes, notes = _once_each(image, rater, np.array([vote.score for vote in cast]), len(images), len(raters))
    opinion = METHODS[method](votes)
    rejected = np.array([bool(why) for why in opinion.rejected])
    counted_votes = votes.only(~rejected[votes.rater])
    others = agreement.with_others(votes)
    odd = _oddities(votes, others)
    table = [
        {
            "question": question, "rater": name, "votes": int(votes.per_rater[number]),
            "bias": opinion.bias[number], "inconsistency": opinion.inconsistency[number], "correlation": others[number],
            "rejected": "yes" if rejected[number] else "no", "why": opinion.rejected[number] or odd[number],
        }
        for number, name in enumerate(raters)
    ]  # fmt: skip
    rows = _rows(question, images, opinion.score, opinion.std, opinion.low, opinion.high, opinion.votes)
    gone = [name for name in images if name not in rows]
    if rejected.any():
        notes.append(f"{rejected.sum()} of {counted(raters, 'rater')} rejected")
    if gone:
        notes.append(f"{counted(gone, 'image')} left out, on which only rejected raters voted: {shown(gone)}")
    apart, *_ = counted_votes.parts()
    if apart > 1:
        notes.append(
            f"the votes fall into {apart} parts that share neither raters nor images: scores of different parts can be "
            "compared only if their raters are equally strict"
        )
    if method == "zscore" and len(set(votes.per_rater)) + len(set(votes.per_image)) > 2:
        notes.append("raters saw different images: a z score takes those who saw better ones for lenient")
    found = _agreement(question, counted_votes)
    return _Part(rows, table, found, [f"{question}: {note}" for note in notes])


def _of_pairs(cast: Sequence[Vote], question: str, _method: str, by: str | None) -> _Part:
    images, side = _numbered(path for vote in cast for path in (vote.image, vote.other or ""))
    result, count = (np.array([getattr(vote, name) for vote in cast], np.float64) for name in ("score", "count"))
    raters, rater = _numbered(vote.rater for vote in cast)
    notes: list[str] = []
    single = Votes(np.arange(len(cast)), rater, result, len(cast), len(raters))
    constant = one_value(single) & (np.array(raters) != "")
    kept = ~constant[rater]
    things, clusters = images, None
    choices = bradley_terry.Choices(side[::2][kept], side[1::2][kept], result[kept], count[kept], len(images))
    if not len(choices.result):
        raise InputError("no rater is left: each gave one answer throughout")
    if by is not None:
        scene = bradley_terry.parts(choices)[choices.first]
        of = group_by(by)
        things, group = _numbered(of(Item(image)).group or "(no group)" for image in images)
        first, second = group[choices.first], group[choices.second]
        across = first != second
        if not across.any():
            raise InputError(f"by {by!r} puts all images that were compared into one group")
        clusters = scene[across]
        choices = bradley_terry.Choices(
            first[across], second[across], choices.result[across], choices.count[across], len(things)
        )
    found = bradley_terry.bradley_terry(choices, clusters)
    if not found.bounded:
        notes.append(
            "some were always chosen over others: so that scores are finite, each has half a win and half a loss "
            "against an average one"
        )
    if found.part.max() > 0:
        notes.append(
            f"the comparisons fall into {found.part.max() + 1} parts without a comparison between them: the mean of "
            "each is 0, and scores of different parts can't be compared"
        )
    if constant.any():
        notes.append(f"{constant.sum()} of {counted(raters, 'rater')} rejected")
    std = found.error * np.sqrt(found.votes)
    rows = _rows(question, things, found.strength, std, found.low, found.high, found.votes)
    table = [
        {
            "question": question, "rater": name, "votes": int(single.per_rater[number]), "bias": math.nan,
            "inconsistency": math.nan, "correlation": math.nan, "rejected": "yes" if constant[number] else "no",
            "why": f"one answer in all {single.per_rater[number]} choices" if constant[number] else "",
        }
        for number, name in enumerate(raters)
        if name
    ]  # fmt: skip
    whole = RaterAgreement(question, len(images), len(raters) if table else 0, int(count[kept].sum()), *[math.nan] * 4)
    return _Part(rows, table, whole, [f"{question}: {note}" for note in notes])


def _numbered(names: Iterable[str]) -> tuple[list[str], NDArray[np.intp]]:
    """The different names in order, and the number of each."""
    numbers: dict[str, int] = {}
    index = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.intp)
    return list(numbers), index


def _once_each(
    image: NDArray[np.intp], rater: NDArray[np.intp], score: NDArray[np.float64], images: int, raters: int
) -> tuple[Votes, list[str]]:
    """Votes of which a rater has one on an image, the mean of those that were cast; and what to say of that."""
    cells, cell, count = np.unique(image * raters + rater, return_inverse=True, return_counts=True)
    mean = np.bincount(cell, score) / count
    notes = []
    if len(cells) < len(score):
        unlike = len(np.unique(cell[np.abs(score - mean[cell]) > 1e-9]))
        notes.append(
            f"{len(score) - len(cells)} votes of a rater on an image again: one vote each, the mean; {unlike} differed"
        )
    return Votes(cells // raters, cells % raters, mean, images, raters), notes


def _oddities(votes: Votes, others: NDArray[np.float64]) -> list[str]:
    """What is odd about each rater (r,), though no reason to reject the votes."""
    values, value = np.unique(votes.score, return_inverse=True)
    cells, count = np.unique(votes.rater * len(values) + value, return_counts=True)
    most = np.zeros(votes.raters, dtype=np.intp)
    np.maximum.at(most, cells // len(values), count)
    odd = []
    for same, cast, correlation in zip(most, votes.per_rater, others, strict=True):
        text = ""
        if cast >= MIN_ONE_VALUE and same >= _MOSTLY * cast:
            text = f"one value in {same} of {cast} votes"
        elif cast >= MIN_ONE_VALUE and correlation < -_AGAINST / math.sqrt(cast):
            text = "votes against the others: was the scale read the other way round?"
        odd.append(text)
    return odd


def _rows(question: str, names: Sequence[str], *columns: NDArray[Any]) -> dict[str, dict[str, Any]]:
    """The cells of each thing that has a score."""
    keys = (question, *(f"{question}_{end}" for end in ("std", "low", "high")))
    return {
        name: {**dict(zip(keys, map(float, cells), strict=True)), "votes": int(votes)}
        for name, *cells, votes in zip(names, *columns, strict=True)
        if votes
    }


def _agreement(question: str, votes: Votes) -> RaterAgreement:
    intraclass = agreement.icc(votes)
    counts = (int(np.count_nonzero(each)) for each in (votes.per_image, votes.per_rater))
    alpha, halves = agreement.krippendorff_alpha(votes), agreement.split_half(votes)
    return RaterAgreement(question, *counts, len(votes.score), intraclass.single, intraclass.mean, alpha, halves)


def _moved(path: str, source: Path, target: Path) -> str:
    """A path that counts from one folder as it counts from another, if there is such a file."""
    found = beside(str(source), path_on_disk(path, str(source)))
    if is_url(path) or os.path.isabs(path) or not path or not os.path.lexists(found):
        return path
    with suppress(ValueError):  # another drive
        return os.path.relpath(found, target).replace(os.sep, "/")
    return os.path.abspath(found)


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
