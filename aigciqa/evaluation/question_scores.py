"""The votes on one question scored: images, raters, agreement, and what one should know of the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigciqa.errors import InputError
from aigciqa.evaluation.votes import Vote
from aigciqa.records import Item
from aigciqa.scoring.sources import group_by
from aigciqa.stats.opinion import agreement, bradley_terry, classical
from aigciqa.stats.opinion.p910 import p910
from aigciqa.stats.opinion.votes import MIN_ONE_VALUE, Opinion, Votes, one_value
from aigciqa.utils.paths import counted, shown

#: What `method` may be; pairs always go to the model of Bradley and Terry.
METHODS: Mapping[str, Callable[[Votes], Opinion]] = MappingProxyType(
    {"p910": p910, "bt500": classical.bt500, "p913": classical.p913, "zscore": classical.zscore, "mean": classical.mean}
)
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

    Example:
        >>> from aigciqa.evaluation.question_scores import RaterAgreement
        >>> RaterAgreement("quality", 100, 15, 1500, icc=0.4, icc_mean=0.91, alpha=0.4, split_half=0.83).icc_mean
        0.91
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
class QuestionScores:
    """The scores of one question: image -> cells of its row, and so on as in `OpinionScores`."""

    rows: Mapping[str, Mapping[str, Any]]
    raters: Sequence[Mapping[str, Any]]
    agreement: RaterAgreement
    notes: Sequence[str]


def score_ratings(cast: Sequence[Vote], question: str, method: str) -> QuestionScores:
    """The scores of images that were rated, by one of `METHODS`."""
    images, image = _numbered(vote.image for vote in cast)
    raters, rater = _numbered(vote.rater for vote in cast)
    votes, notes = _once_each(image, rater, np.array([vote.score for vote in cast]), len(images), len(raters))
    opinion = METHODS[method](votes)
    rejected = np.array([bool(why) for why in opinion.rejected])
    counted_votes = votes.only(~rejected[votes.rater])
    others = agreement.with_others(votes)
    odd, cast_votes = _oddities(votes, others), votes.per_rater
    table = [
        {
            "question": question, "rater": name, "votes": int(cast_votes[number]),
            "bias": opinion.bias[number], "inconsistency": opinion.inconsistency[number], "correlation": others[number],
            "rejected": "yes" if rejected[number] else "no", "why": opinion.rejected[number] or odd[number],
        }
        for number, name in enumerate(raters)
    ]  # fmt: skip
    rows = _rows(question, images, opinion.score, opinion.std, opinion.low, opinion.high, opinion.votes)
    gone = [name for name in images if name not in rows]
    notes += _rejection(int(rejected.sum()), raters, gone)
    apart, *_ = counted_votes.parts()
    if apart > 1:
        notes.append(
            f"the votes fall into {apart} parts that share neither raters nor images: scores of different parts can be "
            "compared only if their raters are equally strict"
        )
    if method == "zscore" and len(set(votes.per_rater)) + len(set(votes.per_image)) > 2:
        notes.append("raters saw different images: a z score takes those who saw better ones for lenient")
    found = _agreement(question, counted_votes)
    return QuestionScores(rows, table, found, [f"{question}: {note}" for note in notes])


def score_pairs(cast: Sequence[Vote], question: str, by: str | None) -> QuestionScores:
    """The strengths of images that were compared, or of their groups."""
    result, count = (np.array([getattr(vote, name) for vote in cast], np.float64) for name in ("score", "count"))
    raters, rater = _numbered(vote.rater for vote in cast)
    notes: list[str] = []
    single = Votes(np.arange(len(cast)), rater, result, len(cast), len(raters))
    same = one_value(single) & (single.rater_mean(result) == bradley_terry.TIE) & (np.array(raters) != "")
    choices_of = np.rint(single.rater_sum(count)).astype(np.intp)
    kept = ~same[rater]
    if not kept.any():
        raise InputError("no rater is left: each said the same of all pairs")
    result, count, rater = result[kept], count[kept], rater[kept]
    pairs = [(vote.image, vote.other or "") for vote in cast]
    images, side = _numbered(path for pair, is_kept in zip(pairs, kept, strict=True) if is_kept for path in pair)
    known = set(images)
    gone = list(dict.fromkeys(path for pair in pairs for path in pair if path not in known))
    things, clusters = images, None
    choices = bradley_terry.Choices(side[::2], side[1::2], result, count, len(images))
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
        undecided = (choices.result == bradley_terry.TIE).all()
        why = "none was chosen over another" if undecided else "some choices went one way only"
        notes.append(f"{why}: so that scores are finite, each has half a win and half a loss against an average one")
    apart = len(np.unique(found.part[found.votes > 0]))
    if apart > 1:
        notes.append(
            f"the comparisons fall into {apart} parts without a comparison between them: the mean of each is 0, and "
            "scores of different parts can't be compared"
        )
    if alone := [name for name, votes in zip(things, found.votes, strict=True) if not votes]:
        notes.append(f"{counted(alone, 'group')} left out, compared with no other: {shown(alone)}")
    notes += _rejection(int(same.sum()), raters, gone)
    std = found.error * np.sqrt(found.votes)
    rows = _rows(question, things, found.strength, std, found.low, found.high, found.votes)
    table = [
        {
            "question": question, "rater": name, "votes": int(choices_of[number]), "bias": math.nan,
            "inconsistency": math.nan, "correlation": math.nan, "rejected": "yes" if same[number] else "no",
            "why": f"the same of all {choices_of[number]} pairs" if same[number] else "",
        }
        for number, name in enumerate(raters)
        if name
    ]  # fmt: skip
    alpha = agreement.krippendorff_alpha(_on_pairs(side, rater, result)) if table else math.nan
    whole = RaterAgreement(
        question, len(images), len(table) - int(same.sum()), int(count.sum()), math.nan, math.nan, alpha, math.nan
    )
    return QuestionScores(rows, table, whole, [f"{question}: {note}" for note in notes])


def _on_pairs(side: NDArray[np.intp], rater: NDArray[np.intp], result: NDArray[np.float64]) -> Votes:
    """Choices as votes on pairs, each in both orders: which image comes first is to make no difference."""
    first, second = (np.concatenate(pair) for pair in ((side[::2], side[1::2]), (side[1::2], side[::2])))
    _, pair = np.unique(first * side.size + second, return_inverse=True)
    score, by = np.concatenate([result, 1 - result]), np.concatenate([rater, rater])
    return _once_each(pair, by, score, int(pair.max()) + 1, int(by.max()) + 1)[0]


def _rejection(rejected: int, raters: Sequence[str], gone: Sequence[str]) -> list[str]:
    """What to say of raters who are rejected, and of images that are gone with them."""
    notes = [f"{rejected} of {counted(raters, 'rater')} rejected"] if rejected else []
    if gone:
        notes.append(f"{counted(gone, 'image')} left out, on which only rejected raters voted: {shown(gone)}")
    return notes


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
    images, raters = (int(np.count_nonzero(each)) for each in (votes.per_image, votes.per_rater))
    alpha, halves = agreement.krippendorff_alpha(votes), agreement.split_half(votes)
    return RaterAgreement(question, images, raters, len(votes.score), intraclass.single, intraclass.mean, alpha, halves)
