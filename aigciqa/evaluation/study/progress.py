"""How a study is going: raters, images, and answers that can't be trusted; aggregated by the database."""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from aigciqa.evaluation.study import sessions
from aigciqa.evaluation.study.schema import QUICK_SECONDS
from aigciqa.evaluation.study.settings import TOLERANCE
from aigciqa.evaluation.study.steps import Rater
from aigciqa.evaluation.study.store import Study

PAGE = 50
Order: TypeAlias = Literal["votes", "best", "worst", "unsure", "listed"]
ORDERS = {
    "votes": "COALESCE(votes, 0), items.id",
    "best": "total / NULLIF(votes, 0) DESC NULLS LAST, items.id",
    "worst": "total / NULLIF(votes, 0) NULLS LAST, items.id",
    "unsure": "half_width(votes, total, squares) DESC NULLS LAST, items.id",
    "listed": "items.id",
}

#: From so many answers on, so large a share of them raises a flag.
_ONE_VALUE = (10, 0.9)
_QUICK = (10, 0.25)
_CONTRADICTIONS = (3, 1 / 3)
_GOLD_MISSED = (2, 1 / 3)
_LIVE = "{0}.sign = 1 AND NOT EXISTS (SELECT 1 FROM votes AS later WHERE later.undoes = {0}.id)"


@dataclass(frozen=True)
class Count:
    """How many of how many."""

    count: int = 0
    of: int = 0

    def is_flagged(self, rule: tuple[int, float]) -> bool:
        """Whether there are enough, and too large a share of them."""
        return self.of >= rule[0] and self.count >= rule[1] * self.of


@dataclass(frozen=True)
class RaterProgress:
    """One rater: what is done, and what speaks against the answers."""

    rater: Rater
    finished: int
    skipped: int
    last: str | None  # when the last vote came
    same: Count  # votes of the value that is clicked most, of the question where that is most of them
    quick: Count  # votes within a second
    contradictions: Count  # repeats whose two votes differ by more than the tolerance
    missed: Count  # gold images answered wrongly

    @property
    def flags(self) -> list[str]:
        """What whoever runs the study should look at."""
        flags = []
        if self.contradictions.is_flagged(_CONTRADICTIONS):
            flags.append("contradicts own votes")
        if self.same.is_flagged(_ONE_VALUE):
            flags.append("clicks one value")
        if self.quick.is_flagged(_QUICK):
            flags.append("too fast")
        if self.missed.is_flagged(_GOLD_MISSED):
            flags.append("misses gold pictures")
        return flags


@dataclass(frozen=True)
class Mean:
    """The mean of an image's votes on one question, and the ends of its 95% interval; NaN where there is none."""

    votes: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ItemProgress:
    """One image or pair: how many have rated it, how many skipped, and the score so far by question."""

    id: int
    image: str
    other: str | None
    picture: int
    other_picture: int | None
    done: int
    skipped: int
    means: dict[str, Mean]


@dataclass(frozen=True)
class Overview:
    """The study as a whole."""

    votes: int
    items: int
    complete: int  # with as many votes as are asked for; else with any
    limit: int  # images that a rater rates, at most
    raters: list[RaterProgress]


def overview(study: Study) -> Overview:
    """All raters, and how far the study is."""
    with study.reading() as database:
        votes = database.execute("SELECT COALESCE(SUM(votes), 0) FROM item_tally").fetchone()[0]
        least = study.settings.votes_per_image or 1
        query = "SELECT COUNT(*) FROM items WHERE kind = 'rated' AND done >= ?"
        complete = database.execute(query, [least]).fetchone()[0]
        raters = _raters(database, study)
    return Overview(votes, study.sizes.rated, complete, sessions.rated_limit(study.settings, study.sizes), raters)


def items(study: Study, question: str, order: Order, page: int) -> list[ItemProgress]:
    """One page of images in an order by the scores of one question."""
    with study.reading() as database:
        database.create_function("half_width", 3, _half_width, deterministic=True)
        rows = database.execute(
            "SELECT items.id, items.image, items.other, items.done FROM items "
            "LEFT JOIN item_tally ON item_tally.item = items.id AND question = ? WHERE kind = 'rated' "
            f"ORDER BY {ORDERS[order]} LIMIT ? OFFSET ?",
            [question, PAGE, page * PAGE],
        ).fetchall()
        return [_item(database, study, row) for row in rows]


def _item(database: sqlite3.Connection, study: Study, row: sqlite3.Row) -> ItemProgress:
    def name(picture: int | None) -> str | None:
        if picture is None:
            return None
        return os.fsdecode(database.execute("SELECT name FROM pictures WHERE id = ?", [picture]).fetchone()[0])

    skipped = "SELECT COALESCE(SUM(sign), 0) FROM votes WHERE item = ? AND question IS NULL"
    tallies = database.execute("SELECT question, votes, total, squares FROM item_tally WHERE item = ?", [row["id"]])
    limits = study.settings.score_range
    means = {
        each["question"]: mean(each["votes"], each["total"], each["squares"], limits)
        for each in tallies
        if each["votes"]
    }
    return ItemProgress(
        row["id"], name(row["image"]) or "", name(row["other"]), row["image"], row["other"], row["done"],
        database.execute(skipped, [row["id"]]).fetchone()[0], means,
    )  # fmt: skip


def mean(votes: int, total: float, squares: float, score_range: tuple[float, float]) -> Mean:
    """The mean of so many votes, from their sum and the sum of their squares, with Student's interval inside the range.

    Example:
        >>> from aigciqa.evaluation.study.progress import mean
        >>> votes = [3, 4, 5]
        >>> each = mean(3, sum(votes), sum(vote**2 for vote in votes), (1, 5))
        >>> f"{each.value:.2f} [{each.low:.2f}, {each.high:.2f}]"
        '4.00 [1.52, 5.00]'
    """
    value, half = total / votes, _half_width(votes, total, squares)
    if half is None:
        return Mean(votes, value, math.nan, math.nan)
    low, high = score_range
    return Mean(votes, value, max(low, value - half), min(high, value + half))


def _half_width(votes: int | None, total: float, squares: float) -> float | None:
    """Half the width of Student's 95% interval; None for fewer than two votes."""
    from scipy.special import stdtrit

    if votes is None or votes < 2:
        return None
    variance = max(0.0, (squares - total * (total / votes)) / (votes - 1))
    return float(stdtrit(votes - 1, 0.975)) * math.sqrt(variance / votes)


def _raters(database: sqlite3.Connection, study: Study) -> list[RaterProgress]:
    tolerance = TOLERANCE[study.settings.method]
    same = _by_rater(
        database,
        "SELECT rater, most, every FROM (SELECT rater, MAX(votes) AS most, SUM(votes) AS every FROM rater_tally "
        "GROUP BY rater, question) ORDER BY rater, most * 1.0 / NULLIF(every, 0)",
    )
    votes = _by_rater(database, "SELECT rater, SUM(votes) FROM rater_tally GROUP BY rater")
    quick = _by_rater(
        database,
        f"SELECT rater, SUM(sign) FROM votes WHERE seconds < {QUICK_SECONDS} AND kind = 'rated' GROUP BY rater",
    )
    repeats = _by_rater(
        database,
        "SELECT again.rater, SUM(ABS(again.score - before.score) > ?), COUNT(*) FROM votes AS again "
        "JOIN slots ON slots.id = again.slot "
        "JOIN votes AS before ON before.slot = slots.repeats AND before.question = again.question "
        f"WHERE again.kind = 'repeat' AND {_LIVE.format('again')} AND {_LIVE.format('before')} GROUP BY again.rater",
        tolerance,
    )
    gold = _by_rater(
        database,
        "SELECT rater, SUM(ABS(votes.score - expected.score) > ?), COUNT(*) FROM votes "
        "JOIN expected ON expected.item = votes.item AND expected.question = votes.question "
        f"WHERE votes.kind = 'gold' AND {_LIVE.format('votes')} GROUP BY rater",
        tolerance,
    )
    rows = database.execute(
        "SELECT id, secret, label, finished, skipped, "
        "(SELECT at FROM votes WHERE rater = raters.id ORDER BY id DESC LIMIT 1) AS last FROM raters ORDER BY id"
    )
    return [
        RaterProgress(
            Rater(row["id"], row["secret"], row["label"]),
            finished=row["finished"],
            skipped=row["skipped"],
            last=row["last"],
            same=Count(*same.get(row["id"], ())),
            quick=Count(*quick.get(row["id"], (0,)), *votes.get(row["id"], (0,))),
            contradictions=Count(*repeats.get(row["id"], ())),
            missed=Count(*gold.get(row["id"], ())),
        )
        for row in rows
    ]


def _by_rater(database: sqlite3.Connection, query: str, *values: Any) -> dict[int, Sequence[Any]]:
    """Rows by their first column; of several with the same, the last."""
    return {row[0]: tuple(row)[1:] for row in database.execute(query, values)}
