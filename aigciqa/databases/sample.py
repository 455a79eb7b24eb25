"""One rated image of a database, and what label files leave to be worked out: its name, group, model and `overall`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

#: The three that a database's `overall` is the sum of.
SUMMED = ("quality", "authenticity", "correspondence")


@dataclass(frozen=True)
class Sample:
    """One rated image.

    Example:
        >>> from aigciqa import Sample
        >>> sample = Sample("/db/cat.png", None, "a cat", "model-a", group="a cat", scores={"quality": 3.5})
        >>> sample.scores["quality"]
        3.5

    Attributes:
        image: absolute path of the generated image; of an image inside a Parquet file, see `aigciqa.images.parquet`.
        reference: absolute path of its image prompt; None where it was made from text alone.
        prompt: its text prompt, if the database has it.
        generator: the model that made it, as the database's files call it.
        group: its image prompt, else its text prompt: samples of one group belong in one part of a split.
        scores: dimension -> mean opinion score, on the database's own scale.
        name: of the row in the database: the image's path below the root, with `/`; `#2` follows in the second row
            of the same image.
    """

    image: str
    reference: str | None
    prompt: str | None
    generator: str | None
    group: str
    scores: Mapping[str, float] = field(hash=False)
    name: str = ""


def made_from_text(image: Path, prompt: str, generator: str | None, scores: Mapping[str, float]) -> Sample:
    """The sample of an image that was made without an image prompt."""
    return Sample(str(image), None, prompt, generator, as_group(prompt), scores)


def with_names(samples: Iterable[Sample], root: Path) -> tuple[Sample, ...]:
    """The samples, each with its unique name."""
    seen = Counter[str]()
    named = []
    for sample in samples:
        name = below(root, sample.image)
        seen[name] += 1
        named.append(replace(sample, name=name if seen[name] == 1 else f"{name}#{seen[name]}"))
    return tuple(named)


def with_overall(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores with `overall`: as given, else the sum of the other three where all are there."""
    if "overall" in scores or not all(name in scores for name in SUMMED):
        return dict(scores)
    return {**scores, "overall": sum(scores[name] for name in SUMMED)}


def generator_in(file_name: str) -> str | None:
    """The model that a file name such as `sd1.5_lowstep_000.jpg` begins with; None where it names none."""
    model, underscore, _ = file_name.partition("_")
    return model if model and underscore else None


def as_group(prompt: str) -> str:
    """A text prompt as the name of a group: spacing does not make another prompt."""
    return " ".join(prompt.split())


def below(root: Path, path: str) -> str:
    """A path as the part below the root, with `/`; whole where it is elsewhere."""
    return path.removeprefix(f"{root}{os.sep}").replace(os.sep, "/")
