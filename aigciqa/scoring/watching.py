"""Folders that are watched: which of their files are whole, and records of what comes."""

from __future__ import annotations

import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from aigciqa.errors import ImageError
from aigciqa.images.names import IMAGE_SUFFIXES
from aigciqa.records import Item, Record
from aigciqa.scoring.items import Found
from aigciqa.tables.parquet import utf8
from aigciqa.utils.paths import real

if TYPE_CHECKING:
    from aigciqa.scoring.engine import Engine

#: A file is tried when its size and modification time have stayed the same for so long.
SETTLE_SECONDS = 0.3
#: One that can't be scored is tried again when it has been left alone for so long; if it still can't be, that is its
#: row. Whoever writes a file may pause for seconds.
LEFT_ALONE_SECONDS = 10.0
#: How often waiting files are looked at, and the longest that a change goes unnoticed where the system tells of it.
TICK_SECONDS = 0.1
#: How often folders are listed where the system tells of no change: network drives never do, and any may lose some.
LISTING_SECONDS = 5.0
#: How much of the time listings may take; those of huge folders come less often.
LISTING_SHARE = 0.2


@dataclass
class _Waiting:
    """A file that is waited for."""

    found: Found
    stamp: tuple[int, int] | None = None  # its size and modification time when last looked at
    since: float = 0.0  # when it was first seen with them
    rest: float = SETTLE_SECONDS  # for how long they are to stay the same before it is tried


@dataclass
class Arrivals:
    """The files of some folders, each of them scored once: when it is whole.

    Attributes:
        waiting: those that are not whole yet, or whose turn has not come.
        scored: path -> when a file was last modified before it was scored, in nanoseconds.
        failed: paths of those that could not be scored.
    """

    clock: Callable[[], float] = time.monotonic
    waiting: dict[str, _Waiting] = field(default_factory=dict)
    scored: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    def update(self, listing: Iterable[Found]) -> None:
        """Take a listing: what is new in it is waited for, what is not in it any more is not."""
        new = {path: found for found in listing if (path := utf8(found.item.image)) not in self.scored}
        self.waiting = {path: self.waiting.get(path) or _Waiting(found) for path, found in new.items()}

    def due(self) -> Iterator[_Waiting]:
        """Look at each file that is waited for, when it is asked for, and give it if it is time to try it."""
        for path, each in list(self.waiting.items()):
            stamp = _stamp(each.found.item.image)
            if stamp is None:
                del self.waiting[path]
            elif stamp != each.stamp:
                each.stamp, each.since, each.rest = stamp, self.clock(), SETTLE_SECONDS
            elif self.clock() - each.since >= each.rest:
                yield each

    def take(self, tried: _Waiting, records: Sequence[Record]) -> bool:
        """Whether records are what becomes of a file that was due; else it is tried again."""
        is_failed = any(record.error is not None for record in records)
        if is_failed and tried.rest < LEFT_ALONE_SECONDS:
            tried.rest = LEFT_ALONE_SECONDS
            return False
        assert tried.stamp is not None
        path = utf8(tried.found.item.image)
        self.scored[path] = tried.stamp[1]
        if is_failed:
            self.failed.add(path)
        del self.waiting[path]
        return True

    def take_earlier(self, path: str, error: str | None, written: float) -> None:
        """Take a row of a table that an earlier run has `written`, in seconds since 1970."""
        stamp, name = _stamp(path), utf8(path)
        is_changed = stamp is None or stamp[1] > written * 1e9
        self.scored[name] = -1 if stamp is None or is_changed else stamp[1]
        if error is not None:
            self.failed.add(name)

    def changed(self) -> int:
        """How many files have another modification time than when they were scored; those that are gone have not."""
        stamps = ((_stamp(path), modified) for path, modified in self.scored.items())
        return sum(stamp is not None and stamp[1] != modified for stamp, modified in stamps)

    def score(
        self,
        engine: Engine,
        to_item: Callable[[Found], Item],
        on_retry: Callable[[str], object],
        is_stopped: Callable[[], bool],
    ) -> Iterator[list[Record]]:
        """Score what is due; gives the records of an image by all metrics together."""
        tried: deque[_Waiting] = deque()

        def items() -> Iterator[Item]:
            for each in self.due():
                if is_stopped():
                    return
                tried.append(each)
                yield to_item(each.found)

        with closing(engine.run(items())) as records:
            while not is_stopped() and (block := list(islice(records, len(engine.metrics)))):
                if self.take(tried.popleft(), block):
                    yield block
                else:
                    on_retry(block[0].image)


@dataclass
class Stop:
    """Whether the watching is to end; as signal handlers set it, without the lock of a `threading.Event`."""

    is_asked: bool = False

    def is_set(self) -> bool:
        """As events have it."""
        return self.is_asked


@dataclass
class Watch:
    """Folders of this machine that are watched until `stop` is set.

    Args:
        folders: as the listing begins its paths.
        listed: lists their images.
        to_item: makes an item of one.
        strict: raise at the first image that can't be scored.
        on_retry: called with an image that is going to be tried again: no record comes of this try.
    """

    folders: Sequence[str]
    listed: Callable[[], Iterable[Found]]
    to_item: Callable[[Found], Item]
    strict: bool
    on_retry: Callable[[str], object] = lambda image: None
    arrivals: Arrivals = field(default_factory=Arrivals)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self._holder = cache(self._find_holder)  # file systems are slow to ask

    def records(self, engine: Engine, on_tick: Callable[[], object]) -> Generator[Record, None, None]:
        """Score what is there, then what comes. `on_tick` is called several times a second while nothing is scored.

        Raises:
            ImageError: an image can't be scored, and `strict` is set.
        """
        has_changed, start, end = True, time.monotonic(), time.monotonic()
        for is_change in _changes(self.folders, self.stop):
            has_changed |= is_change
            now = time.monotonic()
            rest = (end - start) / LISTING_SHARE
            if now >= end + (rest if has_changed else max(rest, LISTING_SECONDS)):
                has_changed, start = False, now
                self.arrivals.update(self._each_once())
                end = time.monotonic()
            for block in self.arrivals.score(engine, self.to_item, self.on_retry, self.stop.is_set):
                if self.strict and (error := next((each.error for each in block if each.error is not None), None)):
                    raise ImageError(error)
                yield from block
            on_tick()

    def take_earlier(self, record: Record, written: float) -> None:
        """Take a record of a table that an earlier run has `written`, in seconds since 1970; it is not scored again."""
        folder, name = os.path.split(record.image)
        if (held := self._holder(folder)) is not None:
            self.arrivals.take_earlier(os.path.join(*held, name), record.error, written)

    def _each_once(self) -> Iterator[Found]:
        """What the folders list, as the first that holds it calls it: they may be the same, in each other, or links."""
        self._holder.cache_clear()
        for found in self.listed():
            folder, name = os.path.split(found.item.image)
            first, below = self._holder(folder) or (folder, "")
            item = replace(found.item, image=os.path.join(first, below, name))
            yield Found(item, os.path.join(below, name))

    def _find_holder(self, folder: str) -> tuple[str, str] | None:
        """The first of the watched folders that holds a folder, however that is spelled, and the way from it."""
        place = Path(real(folder))
        for each in self.folders:
            if place.is_relative_to(root := real(each)):
                return each, os.path.join("", *place.relative_to(root).parts)
        return None


def _stamp(path: str) -> tuple[int, int] | None:
    """A file's size and modification time; None if there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _changes(folders: Sequence[str], stop: Stop) -> Iterator[bool]:
    """Whether something has changed below folders, at least every `TICK_SECONDS` until `stop` is set."""
    import watchfiles

    tick = int(TICK_SECONDS * 1000)
    try:
        for changes in watchfiles.watch(
            *folders, watch_filter=_may_matter, debounce=tick, rust_timeout=tick, yield_on_timeout=True,
            stop_event=stop, ignore_permission_denied=True,
        ):  # fmt: skip
            yield bool(changes)
    except (OSError, RuntimeError) as error:  # such as a limit of the system on how much may be watched
        often = f"they are listed every {LISTING_SECONDS:g} seconds instead"
        warnings.warn(f"the system does not tell of changes in {', '.join(folders)}: {error}; {often}", stacklevel=2)
    while not stop.is_set():
        time.sleep(TICK_SECONDS)
        yield False


def _may_matter(_change: object, path: str) -> bool:
    """Whether a change may bring an image: it is one, or a folder. Our own tables are not worth a listing."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES or os.path.isdir(path)
