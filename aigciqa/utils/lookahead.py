"""Work that is started ahead of who takes its results, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def look_ahead(items: Iterable[T], count: int) -> Iterator[T]:
    """The items in order, each given when `count` more have been fetched."""
    waiting: deque[T] = deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


def map_ahead(pool: Executor, function: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """`Executor.map`, of any number of items: at most `count` are begun beyond the one that is waited for."""
    for future in look_ahead((pool.submit(function, item) for item in items), count):
        yield future.result()
