"""Who rates, and what is before a rater."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rater:
    """One who rates; `secret` is the end of the rater's own link.

    Example:
        >>> from aigciqa.evaluation.study import Rater
        >>> Rater(3, "kept-to-oneself", "").name
        'r3'
    """

    id: int
    secret: str
    label: str

    @property
    def name(self) -> str:
        """What tables call the rater: `r1`, `r2`, ..."""
        return f"r{self.id}"


@dataclass(frozen=True)
class Step:
    """What a rater's page shows.

    Attributes:
        status: `rate`, `done` (nothing is left for this rater) or `closed`.
        slot: which showing of an image it is; votes name it.
        question: name of the question.
        pictures: ids of the image, or of the left and the right one.
        reference: id of the image prompt, where the question needs it.
        prompt: the text prompt, where the question needs it.
        upcoming: ids of the pictures that come next, to be loaded ahead.
        notice: what is said first: `begin`, `counts` (training is over), `break`.
        training: whether this vote does not count.
        finished: images done.
        total: images there are for this rater, at most.
        can_undo: whether there is a vote to take back.

    Example:
        >>> import tempfile
        >>> from aigciqa.evaluation.study import Entry, create_study
        >>> with create_study(f"{tempfile.mkdtemp()}/study.db", [Entry("a.png"), Entry("b.png")]) as study:
        ...     step = study.step(study.invite().id)
        >>> step.question, step.notice, step.total
        ('quality', 'begin', 2)
    """

    status: Literal["rate", "done", "closed"]
    slot: int | None = None
    question: str | None = None
    pictures: tuple[int, ...] = ()
    reference: int | None = None
    prompt: str | None = None
    upcoming: tuple[int, ...] = ()
    notice: Literal["begin", "counts", "break"] | None = None
    training: bool = False
    finished: int = 0
    total: int = 0
    can_undo: bool = False
