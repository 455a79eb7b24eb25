"""What a study asks, and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias, get_args

from aigciqa.errors import InputError
from aigciqa.registry import check_score_ranges

Method: TypeAlias = Literal["grades", "slider", "pairs"]

#: The five grades of absolute category rating, from 1 to 5 (ITU-T P.910, 7.1).
GRADES = ("Bad", "Poor", "Fair", "Good", "Excellent")
SLIDER_RANGE = (0.0, 100.0)
#: What the scores of a pair mean for its first image.
WORSE, SAME, BETTER = 0.0, 0.5, 1.0
#: Two scores of one image that are farther apart contradict each other: more than one of five grades.
TOLERANCE: Mapping[Method, float] = {"grades": 1.0, "slider": 25.0, "pairs": 0.5}
#: Other columns of tables of votes and opinion scores.
_COLUMNS = ("rater", "question", "score", "kind", "other", "votes")
#: Of images, votes and pixels, at most.
_MOST = 1_000_000_000
#: Characters of a question or a label, and of the instructions, at most.
_MOST_TEXT, _MOST_INSTRUCTIONS = 1000, 20_000


def is_text(value: str) -> bool:
    """Whether it can be written as UTF-8: no half of a surrogate pair, as arguments in another encoding have it."""
    return value.encode("utf-8", "replace").decode() == value


@dataclass(frozen=True)
class Question:
    """One question about an image.

    Attributes:
        name: what the score is called in tables: letters, digits and `_`, such as `aesthetics`.
        text: what raters read.
        hint: a line below it.
        with_prompt: whether image prompt and text prompt are shown beside the image.

    Example:
        >>> from aigciqa.evaluation.study import Question
        >>> Question("aesthetics", "How beautiful is it?").name
        'aesthetics'
    """

    name: str
    text: str
    hint: str = ""
    with_prompt: bool = False

    def __post_init__(self) -> None:
        check_score_ranges({self.name: (0.0, 1.0)})
        if self.name in _COLUMNS:
            raise InputError(f"a question can't be called {self.name!r}: a column of votes is")
        if not self.text.strip() or len(self.text) > _MOST_TEXT or len(self.hint) > _MOST_TEXT:
            raise InputError(f"question {self.name!r} needs a text, of at most {_MOST_TEXT} characters")
        if not is_text(self.text + self.hint):
            raise InputError(f"question {self.name!r}: its text is not UTF-8")


_HINTS = {
    "quality": "Look at sharpness, noise, colour, light, contrast and composition.",
    "authenticity": "Does it look like something real, or can you tell that it was generated?",
    "correspondence": "Compare it with the prompt that is shown.",
}
_TEXTS = {
    "quality": "How good is the quality of this picture?",
    "authenticity": "How real does this picture look?",
    "correspondence": "How well does this picture match its prompt?",
}
_TEXTS_OF_PAIRS = {
    "quality": "Which picture is of better quality?",
    "authenticity": "Which picture looks more real?",
    "correspondence": "Which picture matches the prompt better?",
}


def paper_question(name: str, method: Method) -> Question | None:
    """The question of the PKU-I2IQA paper (section 3.2) of that name: quality, authenticity, correspondence."""
    texts = _TEXTS_OF_PAIRS if method == "pairs" else _TEXTS
    return Question(name, texts[name], _HINTS[name], name == "correspondence") if name in texts else None


@dataclass(frozen=True)
class StudySettings:
    """How a study is run. It is fixed when the study is made.

    Attributes:
        method: `grades` (five labelled grades, 1 to 5), `slider` (0 to 100) or `pairs` (left, right, the same).
        questions: asked of each image, in order.
        instructions: shown before the first image and on demand.
        labels: of the five grades, or along the slider, from the worst to the best.
        votes_per_image: what so many raters have rated is shown no more; None: each rater sees all.
        images_per_rater: after so many a rater is done; None: no limit.
        repeats: images that each rater is shown once more.
        break_every: images between two breaks; 0: no breaks.
        size: the longest side on the screen in CSS pixels; None: one image pixel is one pixel of the screen.
        seed: of the orders.

    Example:
        >>> from aigciqa.evaluation.study import StudySettings
        >>> StudySettings(method="slider").score_range
        (0.0, 100.0)
    """

    method: Method = "grades"
    questions: tuple[Question, ...] = (Question("quality", _TEXTS["quality"], _HINTS["quality"]),)
    instructions: str = ""
    labels: tuple[str, ...] = GRADES
    votes_per_image: int | None = None
    images_per_rater: int | None = None
    repeats: int = 0
    break_every: int = 50
    size: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method is one of {', '.join(get_args(Method))}; got {self.method!r}")
        names = [question.name for question in self.questions]
        if not names or len(set(names)) < len(names):
            raise InputError(
                f"a study has one question or more, each of another name; got {', '.join(names) or 'none'}"
            )
        for name in names:
            if taken := {f"{name}_{end}" for end in ("std", "low", "high")} & set(names):
                raise InputError(
                    f"a question can't be called {taken.pop()!r} beside {name!r}: a column of its scores is"
                )
        if len(self.labels) != len(GRADES) or any(not label.strip() or len(label) > 100 for label in self.labels):
            raise InputError(
                f"labels are five, from the worst to the best, as in {','.join(GRADES)}; got {self.labels}"
            )
        if len(self.instructions) > _MOST_INSTRUCTIONS:
            raise InputError(
                f"instructions have at most {_MOST_INSTRUCTIONS:,} characters; got {len(self.instructions):,}"
            )
        least = {"votes_per_image": 1, "images_per_rater": 1, "repeats": 0, "break_every": 0, "size": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and low <= value <= _MOST):
                raise InputError(f"{name} is a whole number from {low} to {_MOST:,}; got {value}")

    @property
    def score_range(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        return {"grades": (1.0, 5.0), "slider": SLIDER_RANGE, "pairs": (WORSE, BETTER)}[self.method]

    @property
    def by_name(self) -> dict[str, Question]:
        """Name -> question."""
        return {question.name: question for question in self.questions}

    def is_choice(self, score: Any) -> bool:
        """Whether it is an answer that the page offers: never None, never a number between two grades."""
        if isinstance(score, bool) or not isinstance(score, (int, float)):
            return False
        if self.method == "slider":
            return SLIDER_RANGE[0] <= score <= SLIDER_RANGE[1]
        return score in ((1, 2, 3, 4, 5) if self.method == "grades" else (WORSE, SAME, BETTER))

    def to_json(self) -> str:
        """As the study's file keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> StudySettings:
        """What `to_json` wrote."""
        values = json.loads(text)
        values["questions"] = tuple(Question(**each) for each in values["questions"])
        return cls(**{**values, "labels": tuple(values["labels"])})
