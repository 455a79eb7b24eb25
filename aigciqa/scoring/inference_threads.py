"""Threads that run networks side by side on a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from aigciqa.utils.lookahead import map_ahead

T = TypeVar("T")
R = TypeVar("R")


class InferenceThreads:
    """Threads that each run a network on their part of the images, with their share of torch's threads.

    They need not wait for one another, and decoding fits in between, where the threads of one network would all wait
    for the one that a decoder holds up. With a `count` of 1, everything runs in the caller's thread.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self.torch_threads = torch.get_num_threads()
        share, rest = divmod(self.torch_threads, count)
        shares = iter([share + 1] * rest + [share] * (count - rest))

        def start() -> None:
            torch.get_num_threads()  # torch sets a thread's number when it is first asked, and would overwrite ours
            torch.set_num_threads(next(shares))

        self.pool = ThreadPoolExecutor(count, "aigciqa-inference", start) if count > 1 else None

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """Results in order; one item is prepared while each thread has one."""
        return map(function, items) if self.pool is None else map_ahead(self.pool, function, items, self.count)

    def close(self) -> None:
        """Wait for what is running, and drop what is queued."""
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)
            torch.set_num_threads(self.torch_threads)  # which was set for threads that are started after them, too
