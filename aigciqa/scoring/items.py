"""Images and their references as items."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from aigciqa.errors import InputError
from aigciqa.records import Item
from aigciqa.registry import default_metric
from aigciqa.utils.paths import counted

if TYPE_CHECKING:
    from aigciqa.metric import Metric

PathLike: TypeAlias = "str | os.PathLike[str]"


@dataclass(frozen=True)
class Found:
    """An item as a source gives it: with its path below the folder it was found in, by which references are matched.

    An archive, or a Parquet file with images in it, stands for the items in it: `opened` gives them.
    """

    item: Item
    relative: str
    is_archive: bool = False


def items_of(
    images: Iterable[PathLike | Item],
    references: PathLike | Sequence[PathLike] | None,
    metrics: Sequence[Metric],
) -> Iterator[Item]:
    """Items of images and references as `score_files` takes them, lazily."""
    if isinstance(images, (str, os.PathLike)):
        path = os.fspath(images)
        one = (
            f"list the files of a folder, as in `Path({path!r}).rglob('*.png')`"
            if os.path.isdir(path)
            else f"for one file pass [{path!r}]"
        )
        raise TypeError(f"images is an iterable of paths; {one}")
    needing = [each.name for each in metrics if each.requires_reference]
    if references is None:
        return (_unpaired(image, needing) for image in images)
    if not needing:
        names = ", ".join(each.name for each in metrics)
        raise InputError(f"references were given, but {names} takes none; a metric that does: {default_metric('fr')}")
    if isinstance(references, (str, os.PathLike)):
        shared = os.fspath(references)
        return (_item(image, shared) for image in images)
    if isinstance(references, Sized):
        return _paired(images, references)
    raise TypeError(f"references is a path or a sequence of paths; got a {type(references).__name__}: pass a list")


def _unpaired(image: PathLike | Item, full_reference: list[str]) -> Item:
    if full_reference and not isinstance(image, Item):
        raise InputError(f"{full_reference[0]} compares with a reference (the image prompt): pass `references=`")
    return _item(image, None)


def _paired(images: Iterable[PathLike | Item], references: Sequence[PathLike]) -> Iterator[Item]:
    given = counted(references, "reference")
    if isinstance(images, Sequence) and len(images) != len(references):
        raise InputError(f"{counted(images, 'image')} but {given}: pass one for each, or one for all")
    rest = iter(references)
    count = 0
    for count, image in enumerate(images, 1):
        try:
            yield _item(image, os.fspath(next(rest)))
        except StopIteration:
            raise InputError(f"{given} for at least {counted(count, 'image')}") from None
    if count < len(references):
        raise InputError(f"{counted(count, 'image')} but {given}: pass one for each, or one for all")


def _item(image: PathLike | Item, reference: str | None) -> Item:
    if not isinstance(image, Item):
        return Item(os.fspath(image), reference)
    has_own = image.reference is not None or image.reference_content is not None or image.reference_error is not None
    if not has_own and reference is not None:
        return replace(image, reference=reference)
    return image
