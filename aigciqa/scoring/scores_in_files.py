"""Scores in the files that were scored: as stars and numbers in XMP, in the file itself or in a sidecar beside it."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aigciqa.errors import ImageError, InputError
from aigciqa.images.generation.embedded import collect
from aigciqa.images.xmp import XMP, read_properties, set_properties, xmp_beside
from aigciqa.images.xmp_in_files import Pieces, can_hold_xmp, change_xmp
from aigciqa.tables.columns import DECIMALS
from aigciqa.utils.files import replacing
from aigciqa.utils.paths import at_home, counted, real

if TYPE_CHECKING:
    from typing import TypeAlias

    from aigciqa.metric import Metric
    from aigciqa.records import Item, Record

    #: Device, inode, size and time of the last change of a file.
    _State: TypeAlias = "tuple[int, int, int, int]"

#: Of the properties `aigciqa:nr-lite` and so on.
NAMESPACE = "urn:aigciqa:scores/1.0/"
MOST_STARS = 5
_PREFIXES = {XMP: "xmp", NAMESPACE: "aigciqa"}
_RATING = (XMP, "Rating")
#: The stars as they were written here, which tells them from those that someone gives later.
_STARS = (NAMESPACE, "stars")
#: Where a file's content credentials are, if they are not in it; they sign its bytes all the same.
_REMOTE_CREDENTIALS = ("http://purl.org/dc/terms/", "provenance")
_SIGNED = "with content credentials (C2PA), which an edit would break"
_NO_FILE = "that are no files (in archives, Parquet files or object stores)"


class _LeftAloneError(ImageError):
    """An image that is not written into; `reason` is what all such images have in common."""

    def __init__(self, image: str, reason: str) -> None:
        super().__init__(f"{image}: no scores are written into files {reason}")
        self.reason = reason


class _OvertakenError(OSError):
    """The file that is to be replaced is not the one any more that was read."""


def write_scores(
    image: str | os.PathLike[str],
    scores: Mapping[str, float],
    *,
    score_range: tuple[float, float] | None = None,
    sidecar: bool = False,
) -> None:
    """Write scores into an image's file, a PNG, JPEG or WebP, or into a sidecar beside it, as XMP.

    The pixels, all other metadata and the time of the last change stay as they are. Stars that someone else gave stay.

    Args:
        image: path of the file. A link is followed.
        scores: name -> score, a number or a tensor of one; `nr-lite` becomes the property `aigciqa:nr-lite`.
        score_range: (lowest, highest) score; the first of the scores then becomes one to five stars, `xmp:Rating`.
        sidecar: write `cat.png.xmp` beside `cat.png`, of any format.

    Raises:
        InputError: there are no scores; one is not finite, or has no name of its own in XMP; no range.
        ImageError: the file is none of these formats, is damaged, has content credentials (C2PA) or hard links.
        OSError: it can't be read or written.

    Example:
        >>> import aigciqa, tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "cat.png")
        ...     Image.new("RGB", (64, 64)).save(path)
        ...     aigciqa.write_scores(path, {"nr-lite": 3.25}, score_range=(0, 5))
        ...     xmp = Image.open(path).info["XML:com.adobe.xmp"]
        >>> 'xmp:Rating="4"' in xmp, 'aigciqa:nr-lite="3.25"' in xmp
        (True, True)
    """
    try:
        numbers = {each: float(score) for each, score in scores.items()}
    except (AttributeError, TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        numbers = {}
    if not numbers or not all(isinstance(each, str) and math.isfinite(score) for each, score in numbers.items()):
        raise InputError(f"scores are one or more finite numbers by name, as in {{'nr-lite': 3.2}}; got {scores!r}")
    names = Counter(map(_xml_name, numbers))
    if names.keys() & {"", _STARS[1]} or names.total() > len(names):
        raise InputError(
            f"each score has a name of its own, of letters and digits; got {', '.join(map(repr, numbers))}"
        )
    stars = None
    if score_range is not None:
        try:
            low, high = score_range
            is_range = -math.inf < low < high < math.inf
        except (TypeError, ValueError):  # no two numbers
            is_range = False
        if not is_range:
            raise InputError(f"score_range is (lowest, highest); got {score_range!r}")
        stars = stars_of(next(iter(numbers.values())), low, high)
    name = at_home(os.fspath(image))
    (_write_beside if sidecar else _write_into)(name, _state_of(name), numbers, stars)


def stars_of(score: float, low: float, high: float) -> int:
    """One to five stars: the fifth of its range that a score lies in."""
    return 1 + int(max(0, min(MOST_STARS - 1, MOST_STARS * (score - low) / (high - low))))


class ScoresInFiles:
    """Writes the scores of a run into the images, or into sidecars, and counts what came of it.

    An image that can't be written never ends the run: it is counted (`failed`, `first_failure`).

    Args:
        metrics: of the first one's main dimension are the stars.
        dimensions: those to write.
        into_files: write into the files that can hold scores.
        sidecars: write sidecars, of those files only that can't if `into_files` is set.
    """

    def __init__(
        self, metrics: Sequence[Metric], dimensions: Iterable[str], *, into_files: bool, sidecars: bool
    ) -> None:
        self.into_files = into_files
        self.sidecars = sidecars
        self.names = list(map(_names_of, metrics))
        self.dimensions = frozenset(dimensions)
        self.rated, self.score_range = self.names[0][metrics[0].dimension], metrics[0].score_range
        self.states: dict[str, list[_State]] = {}  # image on its way -> its file then, for each time it is named
        self.scores: dict[str, float] = {}  # of the image whose records come
        self.records = 0
        self.written: Counter[str] = Counter()  # where to
        self.left_alone: Counter[str] = Counter()  # why
        self.kept_stars = 0
        self.failed = 0
        self.first_failure = ""

    def note(self, item: Item) -> Item:
        """Note what an image's file is before it is scored; returns the item."""
        if item.content is None:
            with contextlib.suppress(OSError, ValueError):  # no file, or no file's name
                self.states.setdefault(item.image, []).append(_state_of(at_home(item.image)))
        return item

    def forget(self, image: str) -> None:
        """Forget an image of which no record comes."""
        self.states.pop(image, None)

    def take(self, record: Record, is_new: bool) -> None:
        """Take a record of the run; with that of the last metric, the image is written into."""
        number = self.records % len(self.names)
        self.records += 1
        if is_new:
            named = self.names[number]
            self.scores.update((named[name], score) for name, score in record.scores.items() if name in self.dimensions)
        if number + 1 < len(self.names):
            return
        states = self.states.get(record.image, [])
        state = states.pop(0) if states else None
        if not states:
            self.states.pop(record.image, None)
        scores, self.scores = self.scores, {}
        if scores:
            self._write(record.image, state, scores)

    def lines(self) -> list[str]:
        """What came of it, for the summary."""
        wanted = [noun for noun, is_wanted in (("file", self.into_files), ("sidecar", self.sidecars)) if is_wanted]
        lines = [f"scores written into {' and '.join(counted(self.written[noun], noun) for noun in wanted)}"]
        if self.left_alone:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.left_alone.most_common())
            has_files = any(reason != _NO_FILE for reason in self.left_alone)
            hint = "; --write-sidecars writes beside files" if has_files else ""  # with it, none would be left
            lines.append(f"left alone: {reasons}{hint}")
        if self.kept_stars:
            lines.append(f"{counted(self.kept_stars, 'image')} had stars that were not given here, which stay")
        return lines

    def _write(self, image: str, state: _State | None, scores: Mapping[str, float]) -> None:
        stars = stars_of(scores[self.rated], *self.score_range) if self.rated in scores else None
        path = at_home(image)
        noun, write = ("file", _write_into) if self.into_files else ("sidecar", _write_beside)
        try:
            if state is None:
                raise _LeftAloneError(image, _NO_FILE)
            try:
                keeps = write(path, state, scores, stars)
            except _LeftAloneError:
                if not (self.into_files and self.sidecars):
                    raise
                noun, keeps = "sidecar", _write_beside(path, state, scores, stars)
            self.written[noun] += 1
            self.kept_stars += keeps
            self._renew(state, _state_of(path))
        except _LeftAloneError as error:
            self.left_alone[error.reason] += 1
        except (OSError, InputError) as error:
            self.failed += 1
            self.first_failure = self.first_failure or str(error)

    def _renew(self, old: _State, new: _State) -> None:
        """The same file may be on its way once more, under this or another name."""
        for states in self.states.values():
            states[:] = [new if state == old else state for state in states]


def _names_of(metric: Metric) -> dict[str, str]:
    """What a metric's scores are called: by its name, and by the dimension if it has several."""
    only = len(metric.dimensions) == 1
    return {dimension: metric.name if only else f"{metric.name}-{dimension}" for dimension in metric.dimensions}


def _state_of(path: str) -> _State:
    """What tells a file from the same file changed."""
    return _state(os.stat(path))


def _state(found: os.stat_result) -> _State:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _stat(path: str) -> os.stat_result | None:
    return os.stat(path) if os.path.exists(path) else None


def _write_into(image: str, state: _State, scores: Mapping[str, float], stars: int | None) -> bool:
    """Write into an image's file; returns whether it has stars of someone else, which stay."""
    path = real(image)
    keeps = False

    def changed(packet: bytes | None) -> bytes:
        nonlocal keeps
        if packet is not None and _REMOTE_CREDENTIALS in (read_properties(packet) or {}):
            raise _LeftAloneError(image, _SIGNED)
        new, keeps = _with_scores(packet, scores, stars)
        return new

    data = Path(path).read_bytes()
    if not can_hold_xmp(data):
        suffix = os.path.splitext(path)[1].lower() or "no suffix"
        raise _LeftAloneError(image, f"that are no PNG, JPEG or WebP ({suffix})")
    if collect(data).has_credentials:
        raise _LeftAloneError(image, _SIGNED)
    there = os.stat(path)
    if there.st_nlink > 1:
        raise _LeftAloneError(image, "with other names (hard links), which would keep the old file")
    try:
        new = change_xmp(data, changed)
    except _LeftAloneError:
        raise
    except InputError as error:
        raise ImageError(f"{image}: {error}: no scores are written into it") from None
    if new is not None:
        _replace(path, new, there, shutil.copystat, image, state)
    return keeps


def _write_beside(image: str, state: _State, scores: Mapping[str, float], stars: int | None) -> bool:
    """Write into an image's sidecar; returns whether it has stars of someone else, which stay."""
    sidecar = xmp_beside(image)
    path = real(sidecar)
    while True:
        there = _stat(path)
        try:
            packet = Path(path).read_bytes() if there is not None else None
            new, keeps = _with_scores(packet, scores, stars)
        except InputError as error:
            raise ImageError(f"{sidecar}: {error}: no scores are written into it") from None
        if new == packet:
            return keeps
        with contextlib.suppress(_OvertakenError):  # another run has written its scores meanwhile
            _replace(path, (new,), there, shutil.copymode, image, state)
            return keeps


def _with_scores(packet: bytes | None, scores: Mapping[str, float], stars: int | None) -> tuple[bytes, bool]:
    """A packet with scores and stars, and whether it has stars of someone else, which stay."""
    values = {(NAMESPACE, _xml_name(name)): str(round(score, DECIMALS)) for name, score in scores.items()}
    present = (read_properties(packet) if packet is not None else None) or {}
    there, ours = (present.get(name, ("",))[0].strip() for name in (_RATING, _STARS))
    keeps = stars is not None and there not in ("", "0", ours)
    if stars is not None and not keeps:
        values[_RATING] = values[_STARS] = str(stars)
    return set_properties(packet, values, _PREFIXES), keeps


def _xml_name(name: str) -> str:
    """What a score is called in XML, where a name has no `/`, and begins with a letter."""
    return re.sub(r"^(?=[^A-Za-z_])|[^A-Za-z0-9_.-]", "_", name)


def _replace(
    path: str,
    pieces: Pieces,
    there: os.stat_result | None,
    like: Callable[[str, Path], None],
    image: str,
    state: _State,
) -> None:
    """Put a file in the place of the one that is `there`, if any, unless the image is not what it was when scored.

    What `like` copies from the file that it replaces stays, and so does the owner where the system allows it.
    """
    if there is not None and not (there.st_mode & 0o222 and os.access(path, os.W_OK)):  # root may write all
        raise PermissionError(errno.EACCES, "it is read-only", path)
    with replacing(path) as unfinished:
        with open(unfinished, "wb") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())  # the picture may be the only copy
            new = os.fstat(stream.fileno())
        if there is not None:
            if sys.platform != "win32" and (new.st_uid, new.st_gid) != (there.st_uid, there.st_gid):
                for owner in ((-1, there.st_gid), (there.st_uid, -1)):
                    with contextlib.suppress(OSError):
                        os.chown(unfinished, *owner)
            like(path, unfinished)
        if _state_of(image) != state:
            raise ImageError(f"{image}: it was changed since it was scored: no scores are written")
        now = _stat(path)
        if (now and _state(now)) != (there and _state(there)):
            raise _OvertakenError(errno.EBUSY, "it was changed while scores were written into it", path)
