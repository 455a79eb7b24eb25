"""Quality maps as files: of every image a picture to look at, the same without its legend, and the map itself."""

from __future__ import annotations

import functools
import io
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath, PureWindowsPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from aigciqa.errors import ImageError, SourceError
from aigciqa.images.annotated import annotated
from aigciqa.images.colour_maps import overlay
from aigciqa.images.decode import load_content, load_image
from aigciqa.utils import memory
from aigciqa.utils.files import replacing
from aigciqa.utils.paths import absolute, check_inside, real

if TYPE_CHECKING:
    from aigciqa.metric import Metric
    from aigciqa.records import Item, Record

#: Longest side of an overlay in pixels: a map is far coarser.
MAX_SIDE = 1024
#: Names of an overlay's texts: of what image it is, and compared with what.
_IMAGE, _REFERENCE = "aigciqa-image", "aigciqa-reference"
#: Effort of PNG's compression: the default takes four times as long and saves a tenth.
_COMPRESSION = 1


def lies_in(image: str, folder: str) -> bool:
    """Whether a file lies in a folder of maps, or below it, through whatever links either is reached."""
    return _is_below(os.path.dirname(absolute(image)), absolute(folder))


@functools.lru_cache(maxsize=1024)  # images of a folder come one after the other
def _is_below(below: str, folder: str) -> bool:
    try:
        wanted = os.stat(folder)
    except OSError:  # nothing is in it yet
        return False
    inner = Path(real(below))
    return any(os.path.samestat(wanted, os.stat(each)) for each in (inner, *inner.parents) if os.path.exists(each))


class MapFolder:
    """A folder of quality maps.

    Of the image `a/b.jpg` by `nr-lite` it holds, each whole or not there:

    - `a/b.jpg.nr-lite.annotated.png`, the overlay with its score and a colour bar;
    - `a/b.jpg.nr-lite.png`, the overlay alone, as large as the image, at most `MAX_SIDE`;
    - `a/b.jpg.nr-lite.npy`, the scores (h, w).

    Where that place is taken, by another reference or by an image of the same name in another folder, they are
    `a/b.jpg.2.nr-lite.png` and so on: of what an overlay is, it says itself. A map that can't be written is counted
    (`failed`, `first_failure`) and never ends the run.

    Args:
        folder: made if absent; files in it are replaced where the names are equal.
        metrics: whose maps they are.
    """

    def __init__(self, folder: str, metrics: Sequence[Metric]) -> None:
        self.folder = Path(folder)
        self.metrics = {metric.name: metric for metric in metrics}
        self.contents: dict[str, bytes] = {}  # of images on their way that are no files
        self.failed = 0
        self.first_failure = ""
        self.example = ""  # the first annotated picture
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SourceError(f"maps can't be written in {folder!r}: {error.strerror}") from None

    def watch(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items on their way to being scored; for the overlays, what is in memory only is kept until then."""
        for item in items:
            if isinstance(item.content, bytes):
                held = sum(map(len, self.contents.values())) + len(item.content)
                fits = held <= memory.CONTENT_BYTES
                self.contents[item.image] = item.content if fits else _reduced(item.content)
            yield item

    def write(self, record: Record) -> None:
        """Write the map of an image that was scored."""
        if record.quality_map is not None:
            try:
                self._write(record.image, record.reference, record.metric, record.quality_map)
            except (OSError, ValueError) as error:  # an ImageError is a ValueError
                self.failed += 1
                self.first_failure = self.first_failure or str(error)
        if record.metric == next(reversed(self.metrics)):
            self.contents.pop(record.image, None)

    def _write(self, image: str, reference: str | None, name: str, quality_map: np.ndarray) -> None:
        of = tuple(text.encode("utf-8", "backslashreplace").decode() for text in (image, reference or ""))
        paths = (self._path(image, number, name) for number in itertools.count(1))
        target = next(path for path in paths if _subject_of(path) in (None, of))
        check_inside(self.folder, target)
        stem = target.name.removesuffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target.with_name(f"{stem}.npy")) as partial, open(partial, "wb") as stream:
            np.save(stream, quality_map)
        metric = self.metrics[name]
        content = self.contents.get(image)
        decoded = load_image(image) if content is None else load_content(content, image)
        decoded.thumbnail((MAX_SIDE, MAX_SIDE))
        low, high = metric.score_range
        shown = overlay(decoded, quality_map, metric.config.preprocess, low, high)
        labelled = annotated(shown, quality_map, low, high, dimension=metric.dimension, metric=name)
        chunks = PngInfo()
        for key, text in zip((_IMAGE, _REFERENCE), of, strict=True):
            chunks.add_itxt(key, text)
        for path, picture in ((target.with_name(f"{stem}.annotated.png"), labelled), (target, shown)):
            with replacing(path) as partial:
                picture.save(partial, "PNG", pnginfo=chunks, compress_level=_COMPRESSION)
        self.example = self.example or str(target.with_name(f"{stem}.annotated.png"))

    def _path(self, image: str, number: int, metric: str) -> Path:
        """Where an overlay goes: below the folder as its image lies below the current one or the root.

        What leads out of the folder is left out: the root, a drive, `..`, and the `://` of a URL.
        """
        path = PurePath(image.replace("://", "/", 1))
        parents = [part for part in path.parent.parts if part not in (path.anchor, "..")]
        numbered = f"{path.name}.{number}" if number > 1 else path.name
        parts = [*parents, f"{numbered}.{metric.replace('/', '-')}.png"]
        if isinstance(path, PureWindowsPath):  # `C:`, of a member of an archive, would lead to another drive
            parts = [part.replace(":", "_") for part in parts]
        return self.folder.joinpath(*parts)


def _subject_of(overlay: Path) -> tuple[str, str] | None:
    """The image and the reference an overlay is of, "" if there was none; None if there is no overlay that says so."""
    if not overlay.is_file():
        return None
    try:
        with Image.open(overlay, formats=["PNG"]) as image:
            texts = tuple(image.info.get(key) for key in (_IMAGE, _REFERENCE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return None if None in texts else (str(texts[0]), str(texts[1]))


def _reduced(content: bytes) -> bytes:
    """An image as large as its overlay is going to be; empty if it can't be read."""
    try:
        image = load_content(content, "")
    except ImageError:  # nor can it be scored
        return b""
    image.thumbnail((MAX_SIDE, MAX_SIDE))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90)
    return stream.getvalue()
