"""What goes into the scoring engine and what comes out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aigciqa.errors import shortened

if TYPE_CHECKING:
    from typing import TypeAlias

    import numpy as np

    from aigciqa.images.generation.parameters import GenerationParameters

    #: An image in memory: the bytes of its file, or its pixels, uint8 (H, W, 3) or (H, W).
    Content: TypeAlias = "bytes | np.ndarray"


@dataclass(frozen=True)
class Item:
    """One image to score.

    Attributes:
        image: path of the generated image.
        reference: path of its image prompt, if it has one.
        group: what the summary groups it under.
        error: why it can't be scored at all, found while listing; at most 500 characters.
        reference_error: why it has no reference; only full-reference metrics mind.
        content: the image, if it is in memory; `image` is then a name only.
        reference_content: the image prompt, if it is in memory.
        extra: column -> text of its other columns in a manifest.

    Example:
        >>> import aigciqa
        >>> aigciqa.Item("cats/7.png", reference="prompts/cat.png", group="cats").group
        'cats'
    """

    image: str
    reference: str | None = None
    group: str | None = None
    error: str | None = None
    reference_error: str | None = None
    content: Content | None = field(default=None, repr=False, compare=False)
    reference_content: Content | None = field(default=None, repr=False, compare=False)
    extra: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("error", "reference_error"):
            if (text := getattr(self, name)) is not None:
                object.__setattr__(self, name, shortened(text))


@dataclass(frozen=True)
class Record:
    """The scores of one image by one metric.

    Attributes:
        image: path of the image, as it was given.
        reference: path of its image prompt, if it has one.
        group: the group it was given.
        metric: name of the metric.
        scores: dimension -> score; where asked for also `<dimension>_std`, its uncertainty, and
            `<dimension>_percentile`, where it stands in the metric's reference set; empty if `error` is set.
        error: why the image could not be scored, at most 500 characters; None if it was.
        quality_map: where maps were asked for, the score map of the metric's main dimension, float32 (h, w),
            whose mean is the score.
        extra: the item's, and where `generation` is given to `score_files`, the fields that it names.
        generation: how the image was generated, as its file says, where that was asked for.

    Example:
        >>> from aigciqa import Record
        >>> record = Record("cat.png", None, None, "nr-lite", {"quality": 3.5})
        >>> record.scores["quality"], record.error
        (3.5, None)
    """

    image: str
    reference: str | None
    group: str | None
    metric: str
    scores: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None
    quality_map: np.ndarray | None = field(default=None, repr=False, compare=False)
    extra: Mapping[str, str | None] = field(default_factory=dict)
    generation: GenerationParameters | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.error is not None:
            object.__setattr__(self, "error", shortened(self.error))
