"""Budgets of bytes: who would exceed one waits."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter, deque

from aigciqa.errors import ImageError

#: Bytes of encoded images that a run holds between reading and decoding them, whatever the number of images, references
#: and threads: 256 MiB. The images that are being decoded and scored come on top.
CONTENT_BYTES = 256 * 2**20


class Budget:
    """Bytes that shares of it hold together, at most; they come first who ask first.

    A share that is larger than all of it passes when no other of its kind is held. So one of each kind is always on its
    way, and nobody waits for someone who waits.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.start_afresh()

    def start_afresh(self) -> None:
        """Forget all shares."""
        self.changed = threading.Condition()
        self.held: Counter[str] = Counter()
        self.queue: deque[Share] = deque()

    def has_room(self, share: Share, size: int) -> bool:
        """Whether a share in the queue may take so many bytes now."""
        is_first = share is next(each for each in self.queue if each.kind == share.kind)
        return is_first and (not self.held[share.kind] or self.held.total() + size <= self.limit)


#: What all images that this process decodes at a time take together. One that takes more is decoded alone.
DECODING = Budget(2 * 2**30)

if hasattr(os, "register_at_fork"):  # the parent's threads, which would give back, are not in the child
    os.register_at_fork(after_in_child=DECODING.start_afresh)


class Share(contextlib.AbstractContextManager["Share"]):
    """What one image takes of a budget, from when its size is known until it is given back, by `with` at its end."""

    def __init__(self, budget: Budget = DECODING, kind: str = "") -> None:
        self.kind = kind
        self.is_waiting = False
        self._budget = budget
        self._size = 0
        self._is_over = False

    def __exit__(self, *_: object) -> None:
        self.give_back()

    def take(self, size: int, seconds: float | None = None) -> bool:
        """Wait until so many bytes are free; False if they are not within so many seconds.

        An ImageError says that it was given back meanwhile.
        """
        budget = self._budget
        with budget.changed:
            budget.queue.append(self)
            self.is_waiting = True
            try:
                is_due = budget.changed.wait_for(lambda: self._is_over or budget.has_room(self, size), seconds)
            finally:
                self.is_waiting = False
                budget.queue.remove(self)
                budget.changed.notify_all()
            if self._is_over:
                raise ImageError("the run was stopped")
            if is_due:
                self._size = size
                budget.held[self.kind] += size
            return is_due

    def give_back(self) -> None:
        """End it, from any thread, any number of times."""
        budget = self._budget
        with budget.changed:
            budget.held[self.kind] -= self._size
            self._size, self._is_over = 0, True
            budget.changed.notify_all()
