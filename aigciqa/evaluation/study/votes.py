"""A study's votes as rows, and as a table in long form."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from aigciqa.evaluation.study import schema
from aigciqa.evaluation.study.schema import is_study as is_study
from aigciqa.tables.csv_text import csv_line
from aigciqa.tables.text import encoded
from aigciqa.utils.paths import absolute

_QUERY = """
SELECT pictures.name, 'r' || votes.rater, votes.question, votes.score, votes.kind, others.name, prompts.name,
    items.prompt, items.grouping, items.generator, votes.seconds, votes.at, votes.id
FROM votes
JOIN items ON items.id = votes.item
JOIN pictures ON pictures.id = items.image
LEFT JOIN pictures AS others ON others.id = items.other
LEFT JOIN pictures AS prompts ON prompts.id = items.reference
WHERE votes.sign = 1 AND votes.question IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM votes AS later WHERE later.undoes = votes.id) AND votes.id > ?
ORDER BY votes.id LIMIT ?
"""
#: Votes that are read at once. In between, whoever takes them may be slow: no vote and no deletion waits for that.
_PART = 10_000

#: Of the table; those of which there are none at all are left out.
_COLUMNS = (
    "image", "other", "rater", "question", "score", "kind",
    "reference", "prompt", "group", "generator", "seconds", "at",
)  # fmt: skip


class Vote(NamedTuple):
    """A vote that holds.

    Attributes:
        image: path of the image, as the study was given it.
        rater: `r1`, `r2`, ...
        question: name of the question.
        score: 1 to 5, or 0 to 100; of a pair 1 where `image` is the better, 0 where `other` is, 0.5 for the same.
        kind: `rated` counts; `training`, `gold` and `repeat` (the second vote on an image) don't.
        other: in a study of pairs, path of the image beside it.
        reference: path of the image prompt.
        prompt: the text prompt.
        group: what tables group the image under.
        generator: the model that made the image.
        seconds: from the image's showing to the vote, as the rater's browser says.
        at: when it was recorded: ISO 8601, UTC.

    Example:
        >>> from aigciqa.evaluation.study import Vote
        >>> Vote("a.png", "r1", "quality", 4.0, "rated").score
        4.0
    """

    image: str
    rater: str
    question: str
    score: float
    kind: str
    other: str | None = None
    reference: str | None = None
    prompt: str | None = None
    group: str | None = None
    generator: str | None = None
    seconds: float | None = None
    at: str = ""


def read_votes(path: str | os.PathLike[str]) -> Iterator[Vote]:
    """The votes of a study that hold, in the order in which they came; skips and what was undone are left out.

    A study that is open in a server can be read.

    Args:
        path: of the study's SQLite file.

    Raises:
        InputError: the file is no study, or one of another version.
    """
    schema.check(path)
    with schema.named_errors(path), contextlib.closing(schema.connect(path, write=False)) as database:
        last = 0
        while rows := database.execute(_QUERY, [last, _PART]).fetchall():
            for row in rows:
                paths = (None if cell is None else os.fsdecode(cell) for cell in row[5:7])
                yield Vote(os.fsdecode(row[0]), *row[1:5], *paths, *row[7:-1])
            last = rows[-1]["id"]


def places(path: str | os.PathLike[str]) -> dict[str, str]:
    """Where the pictures of a study are: path as the study was given it -> absolute path."""
    schema.check(path)
    with schema.named_errors(path), contextlib.closing(schema.connect(path, write=False)) as database:
        rows = database.execute("SELECT path, name FROM pictures")
        return {os.fsdecode(row["name"]): schema.place_of(absolute(path), row) for row in rows}


def votes_csv(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The votes as CSV in long form, a line at a time: what `aigciqa mos` reads."""
    schema.check(path)
    with schema.named_errors(path), contextlib.closing(schema.connect(path, write=False)) as database:
        query = "SELECT COUNT(other), COUNT(reference), COUNT(prompt), COUNT(grouping), COUNT(generator) FROM items"
        names = ("other", "reference", "prompt", "group", "generator")
        counts = dict(zip(names, database.execute(query).fetchone(), strict=True))
    columns = [name for name in _COLUMNS if counts.get(name, 1)]
    yield encoded(csv_line(columns))
    for vote in read_votes(path):
        cells = vote._asdict() | {"score": f"{vote.score:g}"}
        yield encoded(csv_line(cells[name] for name in columns))
